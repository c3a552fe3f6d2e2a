// What /proc says of the program's other processes: their words and their program, not the recorder's, in
// every direction and after execve.
// native: output
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static int read_of(pid_t process, const char* name, char* text, int size) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/%s", process, name);
  const int file = open(path, O_RDONLY);
  if (file < 0) return -1;
  memset(text, 0, (size_t)size);
  const int count = (int)read(file, text, (size_t)size);
  close(file);
  return count;
}

static void expect_words(pid_t process, const char* words, int size) {
  char text[4096];
  CHECK(read_of(process, "cmdline", text, sizeof text) == size && memcmp(text, words, (size_t)size) == 0);
}

static void expect_program(pid_t process, const char* end) {
  char path[64], text[4096] = "";
  snprintf(path, sizeof path, "/proc/%d/exe", process);
  CHECK(readlink(path, text, sizeof text - 1) > 0);
  CHECK(strlen(text) > strlen(end) && strcmp(text + strlen(text) - strlen(end), end) == 0);
  char one[64], other[64];
  const int file = open(path, O_RDONLY), same = open(text, O_RDONLY);
  CHECK(file >= 0 && same >= 0 && read(file, one, 64) == 64 && read(same, other, 64) == 64);
  CHECK(memcmp(one, other, 64) == 0 && memcmp(one, "\177ELF", 4) == 0);
  close(file);
  close(same);
}

int main(int count, char** words) {
  const char* name = strrchr(words[0], '/');
  char text[4096];
  int up[2], down[2];
  CHECK(count == 1 && name != NULL && pipe(up) == 0 && pipe(down) == 0);
  const int size = (int)strlen(words[0]) + 1;
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child == 0) {
    expect_words(parent, words[0], size);
    expect_program(parent, name);
    CHECK(write(up[1], "x", 1) == 1 && read(down[0], text, 1) == 1);
    dup2(down[0], 0);
    dup2(up[1], 1);
    close(down[1]);
    execle("/bin/cat", "a cat", "-u", "-", (char*)NULL, (char*[]){"OF=CHILD", NULL});
    _exit(9);
  }
  CHECK(child > 0 && read(up[0], text, 1) == 1);
  expect_words(child, words[0], size);
  expect_program(child, name);
  // The second letter comes back from the cat.
  CHECK(write(down[1], "xy", 2) == 2 && read(up[0], text, 1) == 1 && text[0] == 'y');
  expect_words(child, "a cat\0-u\0-", 11);
  expect_program(child, "/cat");
  CHECK(read_of(child, "environ", text, sizeof text) == 9 && strcmp(text, "OF=CHILD") == 0);
  close(down[1]);
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  return 0;
}
