// /proc/self speaks of the guest: its program, command line, maps, auxiliary vector, memory.
// args: 'argument one' ''
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>

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

// The number in a line of status.
static unsigned long long status(const char* name, int base) {
  CHECK(slurp("/proc/self/status") > 0);
  const char* line = strstr(text, name);
  CHECK(line != NULL);
  return strtoull(line + strlen(name), NULL, base);
}

static void nothing(int signal) { (void)signal; }

static void check_status(void) {
  enum { kLarge = 64 << 20 };
  CHECK(status("\nThreads:", 10) == 1);
  const unsigned long long size = status("\nVmSize:", 10), data = status("\nVmData:", 10);
  CHECK(size > 1000 && size < 100000 && status("\nVmRSS:", 10) <= size && status("\nVmExe:", 10) > 0);
  CHECK(status("\nVmLib:", 10) < size && status("\nVmStk:", 10) >= 132 && status("\nFDSize:", 10) <= 1024);
  char* large = mmap(NULL, kLarge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(status("\nVmSize:", 10) == size + kLarge / 1024 && status("\nVmData:", 10) == data + kLarge / 1024);
  CHECK(munmap(large, kLarge) == 0 && status("\nVmSize:", 10) == size);

  CHECK(status("\nSigCgt:", 16) == 0);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  sigaddset(&set, SIGRTMIN + 2);
  CHECK(signal(SIGUSR1, nothing) == SIG_DFL && signal(SIGHUP, SIG_IGN) == SIG_DFL);
  CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0 && raise(SIGUSR2) == 0);
  CHECK(status("\nSigCgt:", 16) == 1ull << (SIGUSR1 - 1) &&
        (status("\nSigIgn:", 16) & 1ull << (SIGHUP - 1)) != 0);
  CHECK(status("\nSigBlk:", 16) == (1ull << (SIGUSR2 - 1) | 1ull << (SIGRTMIN + 1)));
  CHECK((status("\nSigPnd:", 16) | status("\nShdPnd:", 16)) == 1ull << (SIGUSR2 - 1));
  CHECK(signal(SIGUSR2, SIG_IGN) == SIG_DFL && sigprocmask(SIG_UNBLOCK, &set, NULL) == 0);
}

static void check_stat(const char* first_argument, const char* first_variable) {
  unsigned long long field[60] = {0};
  int count = 3;
  CHECK(slurp("/proc/self/stat") > 0);
  printf("%.20s\n", text);
  for (char* word = strtok(strrchr(text, ')') + 2, " "); word && count < 60; word = strtok(NULL, " "))
    field[count++] = strtoull(word, NULL, 10);
  CHECK(count == 53 && field[20] == 1);
  CHECK(field[23] > 1 << 20 && field[23] < 100 << 20 && field[24] <= field[23] / 4096);
  CHECK(field[26] <= (size_t)check_stat && (size_t)check_stat < field[27] && field[47] <= (size_t)sbrk(0));
  CHECK(field[28] < (size_t)first_argument && field[28] > (size_t)&count);
  CHECK(field[48] == (size_t)first_argument && field[49] == field[50] && field[50] == (size_t)first_variable);
  unsigned long long pages[7];
  CHECK(slurp("/proc/self/statm") > 0);
  CHECK(sscanf(text, "%llu %llu %llu %llu %llu %llu %llu", &pages[0], &pages[1], &pages[2], &pages[3],
               &pages[4], &pages[5], &pages[6]) == 7);
  CHECK(pages[0] == field[23] / 4096 && pages[1] <= pages[0] && pages[2] <= pages[1] && pages[5] < pages[0]);
}

static void check_limits(void) {
  const struct rlimit limit = {123 << 20, 456 << 20};
  CHECK(setrlimit(RLIMIT_CORE, &limit) == 0 && setrlimit(RLIMIT_DATA, &limit) == 0);
  CHECK(slurp("/proc/self/limits") > 0);
  CHECK(strstr(text, "Max core file size        128974848            478150656            bytes     \n"));
  CHECK(strstr(text, "Max data size             128974848            478150656            bytes     \n"));
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
  check_status();
  CHECK(slurp("/proc/self/status") > 100 && strstr(text, "Name:"));
  printf("%.30s\n", text);
  check_stat(argv[0], *environ);
  check_limits();
  const int memory = open("/proc/self/mem", O_RDONLY);
  int word = 12345, got = 0;
  if (memory >= 0) CHECK(pread(memory, &got, sizeof got, (off_t)&word) == sizeof got && got == word);
  printf("mem %d\n", memory >= 0);
  return 0;
}
