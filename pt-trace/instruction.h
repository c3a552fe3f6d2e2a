// What an instruction means to Intel PT. Internal to pt-trace.
#pragma once

#include <cstdint>
#include <memory>

#include "pt-trace/code_image.h"
#include "pt-trace/packet.h"

namespace aftercheck::pt {

enum class InstructionKind : uint8_t {
  other,
  conditional,    // one TNT outcome
  direct_jump,    // no packet
  direct_call,    // no packet
  indirect_jump,  // TIP; JMPABS too
  indirect_call,  // TIP
  near_return,    // TIP, or a taken outcome when return compression is on
  far_call,       // SYSCALL, SYSENTER, INT n, far CALL and JMP, VMCALL: TIP or TIP.PGD
  far_return,     // SYSRET, SYSEXIT, IRET, ERETS, ERETU, far RET, VMLAUNCH, VMRESUME: TIP or TIP.PGD
  write_cr3,      // may switch tracing off through the CR3 filter
};

struct Instruction {
  InstructionKind kind = InstructionKind::other;
  uint8_t size = 0;       // 0: not decodable
  bool vm_entry = false;  // VMLAUNCH, VMRESUME
  uint64_t target = 0;    // of direct branches, conditional ones included
};

// Decodes at `address`; size 0 when no instruction can be read there.
class InstructionDecoder {
 public:
  InstructionDecoder();
  ~InstructionDecoder();
  InstructionDecoder(const InstructionDecoder&) = delete;
  InstructionDecoder& operator=(const InstructionDecoder&) = delete;
  Instruction decode(const CodeImage& image, uint64_t address, ExecMode mode) const {
    return decode(image.at(address), image, address, mode);
  }
  // The same where `bytes`, which is image.at(address), is known already.
  Instruction decode(std::span<const uint8_t> bytes, const CodeImage& image, uint64_t address,
                     ExecMode mode) const;
  // The same without the shortcut for common instructions.
  Instruction decode_any(std::span<const uint8_t> bytes, const CodeImage& image, uint64_t address,
                         ExecMode mode) const;

 private:
  struct Decoders;
  std::unique_ptr<Decoders> decoders_;
};

}  // namespace aftercheck::pt
