// A library with sites of its own and its own copy of libvassert.a; also built as a plug-in, for dlopen.
#include "library.h"

#include "vassert.h"

int library_double(int x) {
  VASSERT_MSG(x != 13, "%d is unlucky", x);
  return 2 * x;
}

void library_free_ghost(void* block) { vassert_ghost_free(block); }
