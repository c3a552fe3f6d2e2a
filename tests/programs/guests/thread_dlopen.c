// Libraries that threads load, use and give back.
// flags: -pthread
// native: output
#include <dlfcn.h>

#include "threads.h"

static void* load(void* argument) {
  const intptr_t me = (intptr_t)argument;
  void* library = dlopen(me % 2 ? "libm.so.6" : "libgcc_s.so.1", RTLD_NOW);
  CHECK(library);
  double result = 4;
  if (me % 2) {
    double (*function)(double) = (double (*)(double))dlsym(library, "sqrt");
    CHECK(function);
    result = function((double)(me * me));
    CHECK(result == (double)me);
  } else {
    CHECK(dlsym(library, "_Unwind_Backtrace") && !dlsym(library, "not there") && dlerror());
  }
  CHECK(dlclose(library) == 0);
  return (void*)(intptr_t)result;
}

int main(void) {
  pthread_t threads[6];
  for (intptr_t i = 0; i < 6; ++i) threads[i] = started(load, (void*)i);
  for (int i = 0; i < 6; ++i) printf("%ld\n", (long)joined(threads[i]));
  return 0;
}
