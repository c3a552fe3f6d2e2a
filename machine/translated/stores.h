// What an instruction stores, as far as translated code can note it down itself.
#pragma once

#include <cstdint>

namespace aftercheck::translated {

struct Instruction;

enum class StoreKind : uint8_t {
  nothing,
  operand,  // to its operand, which has a ModRM byte
  push,     // below RSP
  other,    // string instructions and the like: the host notes it
};

struct StoreShape {
  StoreKind kind = StoreKind::nothing;
  uint8_t size = 0;  // bytes: 1, 2, 4, 8, 10 or 16
};

// Of an instruction in 64-bit mode, legacy-encoded or not.
StoreShape store_shape(const Instruction& instruction);

}  // namespace aftercheck::translated
