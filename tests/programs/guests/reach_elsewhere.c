// Roundabout ways to the recording: other names for the folders above it, other root directories, handles,
// files without a name, what openat2 resolves.
// args: "$DIR/recording"
// no-leak-check: LeakSanitizer wants /proc, which is not below the root directory that this one leaves
// setup: mkdir -p "$DIR/work/jail/proc"
#include <dirent.h>

#include "reach.h"

#ifndef RENAME_EXCHANGE
#define RENAME_EXCHANGE 2
#endif

// `path` and a file `events` in it, below `root`.
static int make_folders(const char* root, const char* path) {
  char name[4300];
  for (const char* end = strchr(path + 1, '/');; end = strchr(end + 1, '/')) {
    snprintf(name, sizeof name, "%s%.*s", root, end ? (int)(end - path) : (int)strlen(path), path);
    CHECK(mkdir(name, 0777) == 0 || errno == EEXIST);
    if (!end) break;
  }
  snprintf(name, sizeof name, "%s%s/events", root, path);
  return close(open(name, O_CREAT | O_RDWR, 0666));
}

int main(int argc, char** argv) {
  CHECK(argc == 2);
  char parent[4096], name[4200], text[4200];
  snprintf(parent, sizeof parent, "%s", argv[1]);
  *strrchr(parent, '/') = '\0';
  const int above = open(parent, O_RDONLY | O_DIRECTORY), proc = open("/proc/self", O_PATH | O_DIRECTORY);
  CHECK(above >= 0 && proc >= 0);
  // With another name for a folder above it, others could be put in the place of the recorder's files.
  snprintf(name, sizeof name, "%s", parent);
  snprintf(text, sizeof text, "%s-moved", parent);
  REFUSED(rename(name, text));
  CHECK(mkdir("folder", 0777) == 0);
  REFUSED(syscall(SYS_renameat2, AT_FDCWD, "folder", AT_FDCWD, name, RENAME_EXCHANGE));
  REFUSED(syscall(SYS_renameat2, AT_FDCWD, name, AT_FDCWD, "folder", RENAME_EXCHANGE));
  REFUSED(syscall(SYS_renameat2, AT_FDCWD, "folder", above, "recording", RENAME_EXCHANGE));
  REFUSED(renameat(AT_FDCWD, "folder", above, "recording"));
  CHECK(rename("folder", "folder2") == 0 && rmdir("folder2") == 0);
  // What openat2 is told of the way makes no difference.
  const unsigned long ways[] = {
      0, RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV};
  for (size_t i = 0; i < sizeof ways / sizeof *ways; ++i) {
    snprintf(name, sizeof name, "recording/events");
    REFUSED(openat2_call(above, name, O_RDWR, ways[i]));
    REFUSED(openat2_call(above, name, O_PATH, ways[i]));
    REFUSED(openat2_call(above, name, O_WRONLY | O_TRUNC, ways[i]));
    struct open_how how = {.flags = O_RDWR | O_CREAT, .mode = 0666, .resolve = ways[i]};
    REFUSED(syscall(SYS_openat2, above, "recording/new", &how, sizeof how));
    how.flags = O_RDWR | O_TMPFILE;
    REFUSED(syscall(SYS_openat2, above, "recording", &how, sizeof how));
    REFUSED(syscall(SYS_openat2, above, "recording/store", &how, sizeof how));
  }
  struct {
    struct open_how how;
    char more[40];
  } longer = {.how = {.flags = O_RDWR}};
  snprintf(name, sizeof name, "recording/events");
  REFUSED(syscall(SYS_openat2, above, name, &longer, sizeof longer));
  // A file without a name gets none there.
  const int unnamed = open(".", O_TMPFILE | O_RDWR, 0666);
  if (unnamed >= 0) {
    snprintf(name, sizeof name, "/proc/self/fd/%d", unnamed);
    REFUSED(linkat(AT_FDCWD, name, above, "recording/new", AT_SYMLINK_FOLLOW));
    REFUSED(linkat(unnamed, "", above, "recording/new", AT_EMPTY_PATH));
    CHECK(linkat(AT_FDCWD, name, AT_FDCWD, "named", AT_SYMLINK_FOLLOW) == 0 && unlink("named") == 0);
  }
  // No handle, no watch, no listing.
  struct {
    struct file_handle head;
    char room[128];
  } handle = {.head.handle_bytes = sizeof handle.room};
  int mount;
  snprintf(name, sizeof name, "recording");
  REFUSED(name_to_handle_at(above, name, &handle.head, &mount, 0));
  REFUSED(name_to_handle_at(above, "recording/store", &handle.head, &mount, 0));
  const int watcher = inotify_init();
  REFUSED(inotify_add_watch(watcher, argv[1], IN_ALL_EVENTS));
  REFUSED(openat(above, name, O_RDONLY | O_DIRECTORY));
  // What the recorder has mapped, by the names that /proc has for it.
  FILE* maps = fopen("/proc/self/maps", "r");
  unsigned long start, end;
  CHECK(maps && fscanf(maps, "%lx-%lx", &start, &end) == 2);
  fclose(maps);
  snprintf(name, sizeof name, "map_files/%lx-%lx", start, end);
  struct stat status;
  // EPERM: not root; ENOENT: several of our mappings of one file are one to the host
  CHECK(openat(proc, name, O_RDONLY) == -1 && (errno == EACCES || errno == EPERM || errno == ENOENT));
  REFUSED(readlinkat(proc, name, text, sizeof text));
  REFUSED(openat(proc, "map_files", O_RDONLY | O_DIRECTORY));
  REFUSED(openat(proc, "mem", O_RDWR));
  REFUSED(openat(proc, "task/../mem", O_RDWR));
  REFUSED(openat(proc, "cwd/../../../../../../../../proc/self/mem", O_RDWR));
  REFUSED(openat(proc, "root/proc/self/mem", O_RDWR));
  // Another root directory, from which the old one is reached by descriptors only. (Root's alone.)
  // There the same path leads to something else.
  if (make_folders("jail", argv[1]) == 0 && chroot("jail") == 0) {
    snprintf(name, sizeof name, "recording/events");
    REFUSED(openat(above, name, O_RDWR));
    REFUSED(openat(above, name, O_WRONLY | O_TRUNC));
    REFUSED(fchmodat(above, name, 0777, 0));
    REFUSED(unlinkat(above, name, 0));
    REFUSED(renameat(above, name, above, "renamed"));
    REFUSED(fstatat(above, name, &status, 0));
    REFUSED(openat(above, "recording", O_RDONLY | O_DIRECTORY));
    REFUSED(openat(above, "recording/new", O_RDWR | O_CREAT, 0666));
    REFUSED(openat(proc, "mem", O_RDWR));
    REFUSED(openat(proc, "maps/.", O_RDONLY) < 0 && errno == ENOTDIR ? (errno = ENOENT, -1) : 0);
    CHECK(openat(above, "work/made", O_RDWR | O_CREAT, 0666) >= 0);
  }
  printf("no way in\n");
  return 0;
}
