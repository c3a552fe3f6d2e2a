// What memory an instruction accesses, as far as translated code can work out the addresses itself.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace aftercheck::translated {

struct Instruction;

struct AccessShape {
  enum class Place : uint8_t {
    operand,  // its operand, which has a ModRM byte
    stack,    // RSP and `displacement`
    frame,    // RBP: LEAVE
  };
  Place place = Place::operand;
  bool store = false;
  int8_t displacement = 0;
  uint16_t size = 0;  // bytes
};

// In the order in which they are told: reads first.
struct AccessShapes {
  std::array<AccessShape, 2> shapes{};
  uint8_t count = 0;
};

// Of an instruction in 64-bit mode. nullopt: the host has to find them out (string instructions and the
// like).
std::optional<AccessShapes> access_shapes(const Instruction& instruction);

// An access that translated code notes the address of.
struct AccessSite {
  uint64_t instruction = 0;
  uint16_t size = 0;
  bool store = false;
};

}  // namespace aftercheck::translated
