// visits DIR: two libraries with sites of their own, each there in some rounds only, and none at the end.
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

static int visit(const char* directory, const char* name) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  void* library = dlopen(path, RTLD_NOW);
  if (library == NULL) return 1;
  int (*call)(int) = (int (*)(int))dlsym(library, "other");
  for (int i = 0; i < 20; ++i) {
    call(i);
    getppid();
  }
  return dlclose(library);
}

int main(int argc, char** argv) {
  if (argc < 2 || visit(argv[1], "other.so") != 0) return 1;
  for (int i = 0; i < 40; ++i) getppid();
  if (visit(argv[1], "other-too.so") != 0) return 1;
  for (int i = 0; i < 200; ++i) getppid();
  return 0;
}
