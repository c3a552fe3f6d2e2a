// Writes x86-64 machine code into a code area.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>

namespace aftercheck::translated {

// Where code is written is not where it is executed: the two mappings of an area are `shift` apart.
class Emitter {
 public:
  Emitter() = default;
  Emitter(uint8_t* at, int64_t shift) : at_(at), shift_(shift) {}

  uint8_t* at() const { return at_; }
  // The address at which the next byte is executed.
  uint64_t here() const { return reinterpret_cast<uint64_t>(at_) + static_cast<uint64_t>(shift_); }

  void byte(unsigned value) { *at_++ = static_cast<uint8_t>(value); }
  void bytes(std::initializer_list<unsigned> values) {
    for (const unsigned value : values) byte(value);
  }
  void copy(std::span<const uint8_t> code) {
    std::memcpy(at_, code.data(), code.size());
    at_ += code.size();
  }
  void word32(uint64_t value) { put(static_cast<uint32_t>(value)); }
  void word64(uint64_t value) { put(value); }
  // Of a jump or a RIP-relative operand that ends the instruction; the target must be within reach.
  void relative(uint64_t target) { word32(target - (here() + 4)); }

  // The byte after the next `before` ones is at an address that 8 divides: what is read there is aligned,
  // which it has to be while the guest has the alignment flag set.
  void align(uint64_t before = 0) {
    while ((here() + before) % 8 != 0) byte(0xcc);
  }

  void jump(uint64_t target) {
    byte(0xe9);
    relative(target);
  }
  // MOV [address], reg and MOV reg, [address], all 64 bits; `address` below 2 GiB.
  void store(unsigned reg, uint64_t address) { absolute(0x89, reg, address); }
  void load(unsigned reg, uint64_t address) { absolute(0x8b, reg, address); }
  // MOV DWORD [address], value
  void store32(uint64_t address, uint32_t value) {
    bytes({0xc7, 0x04, 0x25});
    word32(address);
    word32(value);
  }
  // The shortest MOV reg, value.
  void set(unsigned reg, uint64_t value) {
    if (value <= UINT32_MAX) {
      if (reg >= 8) byte(0x41);
      byte(0xb8 | (reg & 7));
      return word32(value);
    }
    bytes({0x48 | reg >> 3, 0xb8 | (reg & 7)});
    word64(value);
  }

 private:
  uint8_t* at_ = nullptr;
  int64_t shift_ = 0;

  template <typename T>
  void put(T value) {
    std::memcpy(at_, &value, sizeof value);
    at_ += sizeof value;
  }
  void absolute(unsigned opcode, unsigned reg, uint64_t address) {
    bytes({0x48 | reg >> 3 << 2, opcode, 0x04 | (reg & 7) << 3, 0x25});
    word32(address);
  }
};

}  // namespace aftercheck::translated
