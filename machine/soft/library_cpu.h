// Where libunicorn's CPU (CPUX86State, qemu/target/i386/cpu.h, which no header of the library has) keeps what
// interposed functions work on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace aftercheck::soft {

struct LibraryCpu {
  size_t mxcsr = 0;
  size_t flags = 0;          // status flags of the last comparison: a 64-bit word with EFLAGS' bits (cc_src)
  size_t x87 = 0;            // fpstt (32 bits), fpus, fpuc (16 bits each), fptags (8 bytes; 1: empty)
  size_t x87_registers = 0;  // fpregs: 16 bytes each

  // Found once, by having the library's functions work on an empty CPU and looking at what changes. Throws
  // Error(host_lacks) where that fails.
  static const LibraryCpu& places();

  template <typename T>
  static T& at(void* cpu, size_t place) {
    return *reinterpret_cast<T*>(static_cast<char*>(cpu) + place);
  }
};

// Makes the library's CPU fault with #`vector` on the instruction that its translated code was executing when
// it called the function whose return address that is. Does not return.
[[noreturn]] void raise_in_library(void* cpu, uint8_t vector, uintptr_t return_address);

}  // namespace aftercheck::soft
