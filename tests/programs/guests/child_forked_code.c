// native: yes
// Children that go on in their parent's program: what was translated for the parent is theirs as long as they
// have the same code. It is changed in the parent before they are made, and in child and parent after.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "own_page.h"

static int (*volatile by_table)(void) = seven;  // an indirect call

static void expect(int value) { CHECK(caller() == value && seven() == value && by_table() == value); }

static void in_child(void (*work)(int), int value) {
  const pid_t child = fork();
  if (child == 0) {
    work(value);
    _exit(0);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

static void changes(int value) {
  change(value);
  expect(value);
}

static void changes_after(int value) {
  expect(value);
  change(value + 1);
  expect(value + 1);
  in_child(expect, value + 1);
}

static void unmaps(int value) {
  expect(value);
  CHECK(munmap((void*)seven, kPage) == 0);
  CHECK(mmap((void*)seven, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
        (void*)seven);
  memcpy((void*)seven, "\xb8\x0d\x00\x00\x00\xc3", 6);  // mov $13, %eax; ret
  CHECK(mprotect((void*)seven, kPage, PROT_READ | PROT_EXEC) == 0);
  expect(13);
  in_child(expect, 13);
}

int main(void) {
  expect(7);
  for (int turn = 0; turn < 2; ++turn) {
    const int now = turn == 0 ? 7 : 20;
    in_child(expect, now);
    in_child(changes, 30);
    in_child(changes_after, now);
    in_child(unmaps, now);
    expect(now);
    change(20);
    expect(20);
  }
  return 0;
}
