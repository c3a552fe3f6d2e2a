// The recorder's threads are not there: no folder of theirs in /proc, and what /proc/self has of memory stays
// closed by every name.
#include <dirent.h>

#include "reach.h"

static const char* const kEntries[] = {"mem",    "maps", "pagemap", "clear_refs", "fd",
                                       "fd/0",   "root", "cwd",     "map_files",  "smaps",
                                       "status", "exe",  "environ", "cmdline"};

// /proc/N leads to any thread of any process, though no listing shows it.
static int of_this_process(int thread) {
  char path[100], line[200];
  snprintf(path, sizeof path, "/proc/%d/status", thread);
  FILE* file = fopen(path, "r");
  int process = -1;
  while (file && fgets(line, sizeof line, file)) sscanf(line, "Tgid: %d", &process);
  if (file) fclose(file);
  return process == getpid();
}

int main(void) {
  int entries = 0;
  DIR* tasks = opendir("/proc/self/task");
  CHECK(tasks);
  for (const struct dirent* entry; (entry = readdir(tasks));)
    if (entry->d_name[0] != '.') {
      entries += 1;
      CHECK(atoi(entry->d_name) == getpid());
    }
  CHECK(entries == 1);
  const int tasks_fd = dirfd(tasks), proc = open("/proc", O_RDONLY | O_DIRECTORY);
  for (int thread = getpid() + 1; thread < getpid() + 40; ++thread) {
    char path[300], number[20];
    const char* name = path;
    struct stat status;
    snprintf(number, sizeof number, "%d", thread);
    CHECK(!of_this_process(thread));
    snprintf(path, sizeof path, "/proc/self/task/%d", thread);
    refuse_itself(AT_FDCWD, path);
    refuse_itself(tasks_fd, number);
    CHECK_ERRNO(chdir(path), ENOENT);
    for (size_t i = 0; i < sizeof kEntries / sizeof *kEntries; ++i) {
      snprintf(path, sizeof path, "/proc/self/task/%d/%s", thread, kEntries[i]);
      REFUSED(open(path, O_RDONLY));
      REFUSED(open(path, O_WRONLY));
      REFUSED(open(path, O_PATH));
      REFUSED(stat(path, &status));
      REFUSED(lstat(path, &status));
      REFUSED(access(path, R_OK));
      REFUSED(truncate(path, 0));
      snprintf(path, sizeof path, "%d/%s", thread, kEntries[i]);
      REFUSED(openat(tasks_fd, path, O_RDONLY));
      snprintf(path, sizeof path, "self/task/%d/%s", thread, kEntries[i]);
      REFUSED(openat(proc, path, O_RDWR));
    }
    snprintf(path, sizeof path, "/proc/self/task/%d/mem", thread);
    if (thread < getpid() + 8) refuse_links(path);
  }
  // One's own memory is told in the guest's words, or not at all.
  char own[100];
  snprintf(own, sizeof own, "/proc/%d/task/%d/mem", getpid(), getpid());
  const char* closed[] = {"/proc/self/mem", "/proc/thread-self/mem", "/proc/self/pagemap",
                          "/proc/self/clear_refs", own};
  for (size_t i = 0; i < sizeof closed / sizeof *closed; ++i) {
    CHECK_ERRNO(open(closed[i], O_WRONLY), EACCES);
    CHECK_ERRNO(open(closed[i], O_PATH), EACCES);
    CHECK(symlink(closed[i], "link") == 0);
    CHECK_ERRNO(open("link", O_RDWR), EACCES);
    CHECK(unlink("link") == 0);
  }
  // The same words by every name.
  static char text[2][200000];
  const char* same[] = {"/proc/self/maps", "/proc/thread-self/maps"};
  for (int i = 0; i < 2; ++i) {
    const int fd = open(same[i], O_RDONLY);
    for (ssize_t size = 0, n; fd >= 0 && (n = read(fd, text[i] + size, 10000)) > 0;) size += n;
    CHECK(fd >= 0 && strstr(text[i], "reach_threads") && !strstr(text[i], "aftercheck-"));
    close(fd);
  }
  CHECK(strcmp(text[0], text[1]) == 0);
  printf("no way in\n");
  return 0;
}
