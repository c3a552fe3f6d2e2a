// The recording's own folder is closed, by its path as by others that lead there.
// args: "$DIR/recording"
#include "reach.h"

static void refuse_new(const char* folder, const char* new_name) {
  char name[4200];
  snprintf(name, sizeof name, "%s/%s", folder, new_name);
  close(open("ours", O_CREAT | O_RDWR, 0666));
  REFUSED(open(name, O_CREAT | O_RDWR, 0666));
  REFUSED(open(name, O_CREAT | O_EXCL | O_RDWR, 0666));
  REFUSED(mkdir(name, 0777));
  REFUSED(mknod(name, S_IFIFO | 0666, 0));
  REFUSED(symlink("ours", name));
  REFUSED(link("ours", name));
  REFUSED(rename("ours", name));
  REFUSED(socket_call(name, 1));
  REFUSED(open(folder, O_TMPFILE | O_RDWR, 0666));
  CHECK(symlink(name, "dangling") == 0);
  REFUSED(open("dangling", O_CREAT | O_RDWR, 0666));
  CHECK(unlink("dangling") == 0 && unlink("ours") == 0);
}

int main(int argc, char** argv) {
  CHECK(argc == 2);
  const char* const recording = argv[1];
  const char* const files[] = {"events", "meta", "store/.", "../recording/events", "store/../events"};
  char path[4100], parent[4096];
  for (size_t i = 0; i < sizeof files / sizeof *files; ++i) {
    snprintf(path, sizeof path, "%s/%s", recording, files[i]);
    const int folder = strchr(files[i], '.') == strrchr(files[i], '.') && strchr(files[i], '.');
    if (!folder) {
      refuse_followed(AT_FDCWD, path);
      refuse_itself(AT_FDCWD, path);
      refuse_links(path);
    } else {
      const char* name = path;
      REFUSED(open(path, O_RDONLY));
      REFUSED(chdir(path));
    }
  }
  const char* name = recording;
  REFUSED(open(recording, O_RDONLY | O_DIRECTORY));
  REFUSED(open(recording, O_PATH));
  REFUSED(chdir(recording));
  REFUSED(chmod(recording, 0));
  REFUSED(rename(recording, "renamed"));
  REFUSED(rmdir(recording));
  struct stat status;
  CHECK(stat(recording, &status) == 0 && S_ISDIR(status.st_mode));  // that it is there is no secret
  refuse_new(recording, "new");
  snprintf(path, sizeof path, "%s/store", recording);
  refuse_new(path, "new");
  // From the folder above.
  snprintf(parent, sizeof parent, "%s/..", recording);
  const int above = open(parent, O_RDONLY | O_DIRECTORY);
  CHECK(above >= 0);
  refuse_followed(above, "recording/events");
  refuse_itself(above, "recording/events");
  // What the guest itself writes there is as open as ever.
  CHECK(chdir(parent) == 0);
  const int fd = open("not-the-recording", O_CREAT | O_TRUNC | O_RDWR, 0666);
  CHECK(fd >= 0 && write(fd, "text", 4) == 4 && close(fd) == 0);
  CHECK(open("not-the-recording", O_RDWR) >= 0 && truncate("not-the-recording", 1) == 0);
  CHECK(stat("not-the-recording", &status) == 0 && status.st_size == 1 && unlink("not-the-recording") == 0);
  printf("no way in\n");
  return 0;
}
