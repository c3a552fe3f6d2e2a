// What CPUID tells the guest. A recording made with the portable model replays on any x86-64 host and on the
// soft vCPU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace aftercheck {

struct CpuidResult {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  friend bool operator==(const CpuidResult&, const CpuidResult&) = default;
};

enum class CpuModelKind : uint8_t {
  portable,  // x86-64-v2 plus AES and PCLMULQDQ, no AVX, XSAVE, RDRAND, TSX: a Westmere without its timers
  host,      // the host's own answers; such a recording replays only where the processor agrees
};

class CpuModel {
 public:
  explicit CpuModel(CpuModelKind kind) : kind_(kind) {}
  CpuModelKind kind() const { return kind_; }

  // The answer to CPUID with EAX=leaf, ECX=subleaf (SDM vol. 2, CPUID).
  CpuidResult cpuid(uint32_t leaf, uint32_t subleaf) const;

  // All leaves as KVM_SET_CPUID2 wants them.
  struct Leaf {
    uint32_t leaf, subleaf;
    bool subleaf_significant;
    CpuidResult result;
  };
  std::vector<Leaf> leaves() const;

  // AT_HWCAP: CPUID.1:EDX.
  uint32_t hwcap() const { return cpuid(1, 0).edx; }

 private:
  CpuModelKind kind_;
};

const char* name(CpuModelKind kind);

}  // namespace aftercheck
