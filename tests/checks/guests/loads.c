// loads DIR: libraries mapped late, twice, unmapped and mapped again.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static int (*load(const char* directory, const char* name, void** handle))(int) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  *handle = dlopen(path, RTLD_NOW);
  if (*handle == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    exit(1);
  }
  return (int (*)(int))dlsym(*handle, "plugin");
}

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  void *first, *second;
  int (*one)(int) = load(argv[1], "plugin.so", &first);
  printf("%d\n", one(1));
  int (*other)(int) = load(argv[1], "plugin-too.so", &second);
  printf("%d %d\n", one(2), other(3));
  dlclose(first);
  printf("%d\n", other(4));
  one = load(argv[1], "plugin.so", &first);
  printf("%d %d\n", one(3), other(5));
  return 0;
}
