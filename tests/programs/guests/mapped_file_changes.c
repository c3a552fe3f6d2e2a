// A file is changed by every kind of call while it is mapped shared, through a descriptor that can't write,
// and privately: both show it, the private one but for the page that was written.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "check.h"

enum { kPage = 4096, kPages = 8 };
static volatile char *shared, *private;

static void shows(int page, const char* text) {
  CHECK(memcmp((const char*)shared + page * kPage, text, strlen(text)) == 0);
  CHECK(memcmp((const char*)private + page * kPage, text, strlen(text)) == 0);
}

int main(void) {
  static char page[kPage], other[kPages * kPage];
  memset(page, 'a', sizeof page);
  int fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0600);
  for (int i = 0; i < kPages; i++) CHECK(write(fd, page, kPage) == kPage);
  CHECK(close(fd) == 0);
  const int reader = open("file", O_RDONLY);
  shared = mmap(NULL, kPages * kPage, PROT_READ, MAP_SHARED, reader, 0);
  private = mmap(NULL, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, reader, 0);
  CHECK(shared != MAP_FAILED && private != MAP_FAILED);
  private[7 * kPage] = 'p';
  shows(0, "aaa");
  // It is opened for writing after it was mapped, by another name, and not for reading.
  CHECK(link("file", "second") == 0);
  const int writer = open("second", O_WRONLY);
  CHECK(pwrite(writer, "pwrite", 6, 0) == 6);
  shows(0, "pwritea");
  CHECK(lseek(writer, kPage, SEEK_SET) == kPage && write(writer, "write", 5) == 5 &&
        write(writer, "more", 4) == 4);
  shows(1, "writemorea");
  struct iovec pieces[2] = {{"piece", 5}, {"s", 1}};
  CHECK(pwritev(writer, pieces, 2, kPage + 100) == 6);
  CHECK(memcmp((const char*)shared + kPage + 100, "piecesa", 7) == 0);
  CHECK(memcmp((const char*)private + kPage + 100, "piecesa", 7) == 0);
  CHECK(lseek(writer, 2 * kPage, SEEK_SET) == 2 * kPage && pwritev2(writer, pieces, 2, -1, 0) == 6);
  shows(2, "piecesa");
  const int source = open("source", O_RDWR | O_CREAT, 0600);
  CHECK(write(source, "from another file", 17) == 17);
  off_t from = 5;
  CHECK(lseek(writer, 3 * kPage, SEEK_SET) == 3 * kPage && sendfile(writer, source, &from, 12) == 12);
  shows(3, "another filea");
  loff_t in = 0, out = 4 * kPage;
  CHECK(copy_file_range(source, &in, writer, &out, 12, 0) == 12 && out == 4 * kPage + 12);
  shows(4, "from anothera");
  int ends[2];
  CHECK(pipe(ends) == 0 && write(ends[1], "spliced", 7) == 7);
  out = 5 * kPage;
  CHECK(splice(ends[0], NULL, writer, &out, 7, 0) == 7);
  shows(5, "spliceda");
  // The private page keeps what the program wrote.
  CHECK(pwrite(writer, "late", 4, 7 * kPage) == 4);
  CHECK(shared[7 * kPage] == 'l' && private[7 * kPage] == 'p');
  const int appender = open("file", O_RDWR | O_APPEND);
  CHECK(ftruncate(appender, 6 * kPage + 10) == 0 && write(appender, "appended", 8) == 8);
  shows(6, "aaaaaaaaaaappended");
  CHECK(ftruncate(appender, kPages * kPage) == 0);
  CHECK(shared[7 * kPage] == 0);
  if (fallocate(appender, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 2 * kPage) == 0) {
    CHECK(shared[0] == 0 && private[0] == 0 && private[kPage + 100] == 0);
    puts("a hole");
  }
  // A file that takes its name changes nothing.
  CHECK(rename("source", "file") == 0);
  shows(3, "another filea");
  const int named = open("file", O_WRONLY | O_TRUNC);
  CHECK(write(named, "new", 3) == 3);
  shows(3, "another filea");
  // All of it at once.
  memset(other, 'z', sizeof other);
  for (int i = 0; i < 3; i++) CHECK(pwrite(writer, other, sizeof other, 0) == sizeof other);
  shows(0, "zzz");
  fwrite((const char*)private + 6 * kPage, 1, 20, stdout);
  putchar('\n');
  return 0;
}
