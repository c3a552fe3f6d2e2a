// What CPUID tells the guest. A recording made with the portable model replays on any x86-64 host and on the
// soft vCPU; one made with v3 on any host of that level.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace aftercheck {

struct CpuidResult {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  friend bool operator==(const CpuidResult&, const CpuidResult&) = default;
};

enum class CpuModelKind : uint8_t {
  portable,  // x86-64-v2 plus AES and PCLMULQDQ, no AVX, XSAVE, RDRAND, TSX: a Westmere without its timers
  host,      // the host's own answers; such a recording replays only where the processor agrees
  // x86-64-v3 (x86-64 psABI, 3.1.1): portable with AVX, AVX2, BMI1, BMI2, F16C, FMA, LZCNT, MOVBE, and of
  // XSAVE what they need (XCR0 = 7, the standard form alone); no AVX-512, RDRAND, TSX, PKU, FSGSBASE.
  v3,
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
// As name() has it: nullopt for others.
std::optional<CpuModelKind> cpu_model_named(std::string_view name);

// What the model needs of the host's processor or of its system, and neither has: "AVX2", or empty. `host`
// and `xcr0` stand for CPUID and XGETBV there. Only v3 needs anything.
using HostCpuid = CpuidResult (*)(uint32_t leaf, uint32_t subleaf);
std::string missing_on_host(CpuModelKind kind, HostCpuid host, uint64_t xcr0);
// Throws Error(host_lacks) where something is missing here.
void require_host(CpuModelKind kind);

}  // namespace aftercheck
