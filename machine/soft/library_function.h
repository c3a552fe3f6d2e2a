// Functions of libunicorn that this program interposes, or calls past its interface.
#pragma once

#include <dlfcn.h>

namespace aftercheck::soft {

// The library's own function of that name, behind the one that interposes it; null where there is none, as
// where the library is linked statically. Any thread.
template <typename Function>
Function library_function(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

}  // namespace aftercheck::soft
