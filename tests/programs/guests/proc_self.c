// /proc/self speaks of the guest: its program, command line, maps, auxiliary vector, memory.
// args: 'argument one' ''
#include <fcntl.h>
#include <limits.h>
#include <sys/auxv.h>

#include "check.h"

static char text[100000];
static ssize_t slurp(const char* path) {
  const int fd = open(path, O_RDONLY);
  if (fd < 0) return -1;
  ssize_t size = 0, n;
  while ((n = read(fd, text + size, sizeof text - 1 - (size_t)size)) > 0) size += n;
  text[size] = 0;
  close(fd);
  return n < 0 ? n : size;
}

int main(int argc, char** argv) {
  char* heap = malloc(100);
  char path[PATH_MAX] = "", by_pid[100];
  CHECK(readlink("/proc/self/exe", path, sizeof path - 1) > 0 && strstr(path, "proc_self"));
  snprintf(by_pid, sizeof by_pid, "/proc/%d/exe", getpid());
  char again[PATH_MAX] = "";
  CHECK(readlink(by_pid, again, sizeof again - 1) > 0 && strcmp(path, again) == 0);
  CHECK(slurp("/proc/self/cmdline") > 10 && strcmp(text, argv[0]) == 0 && argc == 3);
  CHECK(strcmp(text + strlen(text) + 1, "argument one") == 0);
  CHECK(slurp("/proc/self/environ") > 0 && strcmp(text, *environ) == 0);
  CHECK(slurp("/proc/self/auxv") > 100);
  for (unsigned long* pair = (unsigned long*)text; pair[0]; pair += 2)
    if (pair[0] == AT_PHDR || pair[0] == AT_ENTRY || pair[0] == AT_BASE || pair[0] == AT_RANDOM)
      CHECK(getauxval(pair[0]) == pair[1]);
  CHECK(slurp("/proc/self/maps") > 100);
  int found_main = 0, found_stack = 0, found_heap = 0, own = 0;
  for (char* line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
    unsigned long start, end;
    char rights[5];
    CHECK(sscanf(line, "%lx-%lx %4s", &start, &end, rights) == 3 && start < end);
    found_main += (unsigned long)main >= start && (unsigned long)main < end && rights[2] == 'x' &&
                  strstr(line, "proc_self");
    found_stack += (unsigned long)&argc >= start && (unsigned long)&argc < end && rights[1] == 'w';
    found_heap += (unsigned long)heap >= start && (unsigned long)heap < end;
    own += strstr(line, "kvm-vcpu") != NULL || strstr(line, "libunicorn") != NULL;
  }
  CHECK(found_main == 1 && found_stack == 1 && found_heap == 1 && own == 0);
  CHECK(slurp("/proc/self/status") > 100 && strstr(text, "Name:"));
  printf("%.30s\n", text);
  if (slurp("/proc/self/stat") > 0) printf("%.20s\n", text);
  const int memory = open("/proc/self/mem", O_RDONLY);
  int word = 12345, got = 0;
  if (memory >= 0) CHECK(pread(memory, &got, sizeof got, (off_t)&word) == sizeof got && got == word);
  printf("mem %d\n", memory >= 0);
  return 0;
}
