// A file that grows after it was mapped: shared, private, empty at first, in the middle of a page, through
// mremap; what was stored is in the file.
#include <fcntl.h>
#include <sys/mman.h>

#include "check.h"

enum { kPage = 4096 };

static int new_file(const char* name) {
  const int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
  CHECK(fd >= 0 && unlink(name) == 0);
  return fd;
}

static char* map(int fd, int pages, int prot, int flags) {
  char* view = mmap(NULL, pages * kPage, prot, flags, fd, 0);
  CHECK(view != MAP_FAILED);
  return view;
}

static void shared(int fd) {
  char text[16] = {0};
  char* view = map(fd, 4, PROT_READ | PROT_WRITE, MAP_SHARED);
  char* second = map(fd, 4, PROT_READ, MAP_PRIVATE);
  CHECK(ftruncate(fd, 4 * kPage) == 0);
  strcpy(view + 2 * kPage, "after");
  CHECK(pread(fd, text, 6, 2 * kPage) == 6 && strcmp(text, "after") == 0);
  CHECK(strcmp(second + 2 * kPage, "after") == 0);
  CHECK(pwrite(fd, "pw", 3, 3 * kPage) == 3 && strcmp(view + 3 * kPage, "pw") == 0);
  puts(second + 3 * kPage);
}

static void empty_private(void) {
  const int fd = new_file("private");
  char* view = map(fd, 1, PROT_READ | PROT_WRITE, MAP_PRIVATE);
  CHECK(ftruncate(fd, kPage) == 0);
  view[0] = 'x';
  CHECK(pwrite(fd, "y", 1, 0) == 1);
  printf("private: %c\n", view[0]);
}

// By pieces, none of them a page; the mapping is there before, and grows with it.
static void by_pieces(void) {
  const int fd = new_file("pieces");
  char* view = map(fd, 1, PROT_READ, MAP_SHARED);
  for (int i = 0; i < 40; i++) {
    char text[1000];
    memset(text, 'a' + i % 26, sizeof text);
    CHECK(write(fd, text, sizeof text) == sizeof text);
    if (i % 4 == 0) {
      view = mremap(view, (i / 4 + (i != 0 ? 0 : 1)) * kPage, (i / 4 + 1) * kPage, MREMAP_MAYMOVE);
      CHECK(view != MAP_FAILED);
    }
    CHECK(view[i * 1000] == 'a' + i % 26);
    if ((i * 1000 + 1000) % kPage != 0) CHECK(view[i * 1000 + 1000] == 0);
  }
  printf("%.3s %.3s\n", view + 12000, view + 38000);
}

// What is unmapped meanwhile and mapped again.
static void mapped_again(void) {
  const int fd = new_file("again");
  unsigned sum = 0;
  for (int i = 1; i <= 20; i++) {
    CHECK(ftruncate(fd, i * kPage) == 0);
    char* view = map(fd, i, PROT_READ | PROT_WRITE, MAP_SHARED);
    view[(i - 1) * kPage] = (char)i;
    for (int page = 0; page < i; page++) sum = sum * 31 + (unsigned)view[page * kPage];
    CHECK(munmap(view, i * kPage) == 0);
    CHECK(pwrite(fd, "q", 1, (i - 1) * kPage + 1) == 1);
    CHECK(pwrite(fd, &sum, 4, 8) == 4);
  }
  printf("%u\n", sum);
}

int main(void) {
  shared(new_file("shared"));
  shared(memfd_create("memory", 0));
  empty_private();
  by_pieces();
  mapped_again();
  return 0;
}
