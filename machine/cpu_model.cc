#include "machine/cpu_model.h"

#include <cpuid.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <iterator>
#include <span>
#include <string_view>

#include "base/error.h"
#include "machine/registers.h"

namespace aftercheck {
namespace {

constexpr uint32_t bits(std::initializer_list<unsigned> positions) {
  uint32_t value = 0;
  for (unsigned position : positions) value |= 1U << position;
  return value;
}

constexpr uint32_t kMaxBasicLeaf = 0xB;
constexpr uint32_t kExtendedBase = 0x8000'0000;
constexpr uint32_t kMaxExtendedLeaf = 0x8000'0008;

// Family 6, model 0x2C, stepping 1: Westmere-EP (SDM vol. 4, table 2-1).
constexpr uint32_t kSignature = 0x000206C1;
// SDM vol. 2, CPUID, table 3-10. Left out on purpose: MONITOR (3), x2APIC (21), TSC-deadline (24), XSAVE
// (26), OSXSAVE (27), AVX (28), RDRAND (30), hypervisor (31).
constexpr uint32_t kLeaf1Ecx =
    bits({0, 1, 9, 13, 19, 20, 23, 25});  // SSE3 PCLMULQDQ SSSE3 CX16 SSE4.1 SSE4.2 POPCNT AES
// Table 3-11: FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE
// SSE2.
constexpr uint32_t kLeaf1Edx =
    bits({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26});

constexpr std::string_view kBrand = "Aftercheck portable CPU (x86-64-v2 AES PCLMUL)";
static_assert(kBrand.size() < 48, "leaves 0x80000002..4 hold 48 bytes, the last of them zero");

constexpr uint32_t text(std::string_view string, size_t offset) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) {
    const size_t at = offset + i;
    const auto byte = at < string.size() ? static_cast<uint8_t>(string[at]) : uint8_t{0};
    value |= static_cast<uint32_t>(byte) << (8 * i);
  }
  return value;
}

constexpr CpuidResult brand(std::string_view words, size_t offset) {
  return {text(words, offset), text(words, offset + 4), text(words, offset + 8), text(words, offset + 12)};
}

// Leaf 4, one cache: EAX type and level with one thread per cache and per package, EBX ways and 64-byte
// lines, ECX sets - 1 (SDM vol. 2, CPUID, leaf 04H).
constexpr CpuidResult cache(uint32_t type, uint32_t level, uint32_t ways, uint32_t sets, uint32_t edx) {
  constexpr uint32_t kSelfInitializing = 1U << 8;
  return {type | level << 5 | kSelfInitializing, (ways - 1) << 22 | 63, sets - 1, edx};
}

// The portable model. Constants that describe caches and TLBs are those of a Westmere-EP; there is one
// logical processor, so every "number of threads" is one and every APIC id zero.
constexpr CpuModel::Leaf kPortable[] = {
    {0, 0, false, {kMaxBasicLeaf, text("GenuineIntel", 0), text("GenuineIntel", 8), text("GenuineIntel", 4)}},
    // EBX: one logical processor, 64-byte CLFLUSH line.
    {1, 0, false, {kSignature, 0x0001'0800, kLeaf1Ecx, kLeaf1Edx}},
    // Cache and TLB descriptors (table 3-12); 0xFF sends the reader to leaf 4 for the caches.
    {2, 0, false, {0x5503'5A01, 0x00F0'B2FF, 0, 0x09CA'212C}},
    {3, 0, false, {}},
    {4, 0, true, cache(1, 1, 8, 64, 0)},      // L1 data, 32 KiB
    {4, 1, true, cache(2, 1, 4, 128, 0)},     // L1 instruction, 32 KiB
    {4, 2, true, cache(3, 2, 8, 512, 0)},     // L2, 256 KiB
    {4, 3, true, cache(3, 3, 16, 12288, 2)},  // L3, 12 MiB, inclusive
    {4, 4, true, {}},
    {5, 0, false, {}},
    {6, 0, false, {}},
    {7, 0, true, {}},
    {8, 0, false, {}},
    {9, 0, false, {}},
    {0xA, 0, false, {}},
    // Thread level, then core level: a shift of 0, one processor each.
    {0xB, 0, true, {0, 1, 0x100, 0}},
    {0xB, 1, true, {0, 1, 0x201, 0}},
    {0xB, 2, true, {0, 0, 2, 0}},
    {kExtendedBase, 0, false, {kMaxExtendedLeaf, 0, 0, 0}},
    // LAHF; SYSCALL, NX, RDTSCP, long mode.
    {0x8000'0001, 0, false, {0, 0, bits({0}), bits({11, 20, 27, 29})}},
    {0x8000'0002, 0, false, brand(kBrand, 0)},
    {0x8000'0003, 0, false, brand(kBrand, 16)},
    {0x8000'0004, 0, false, brand(kBrand, 32)},
    {0x8000'0005, 0, false, {}},
    // L2: 256 KiB, 8 ways, 64-byte lines.
    {0x8000'0006, 0, false, {0, 0, 0x0100'6040, 0}},
    {0x8000'0007, 0, false, {0, 0, 0, bits({8})}},  // invariant TSC
    // 40 bits of physical, 48 of linear address.
    {0x8000'0008, 0, false, {0x3028, 0, 0, 0}},
};

// --- v3: what differs from the portable model ---

constexpr uint32_t kMaxBasicLeafV3 = 0xD;
// Family 6, model 0x3C, stepping 3: Haswell (SDM vol. 4, table 2-1), the first of this level.
constexpr uint32_t kSignatureV3 = 0x000306C3;
// SDM vol. 2, CPUID, table 3-10: FMA MOVBE XSAVE OSXSAVE AVX F16C.
constexpr uint32_t kLeaf1EcxV3 = kLeaf1Ecx | bits({12, 22, 26, 27, 28, 29});
constexpr uint32_t kLeaf7EbxV3 = bits({3, 5, 8});  // BMI1 AVX2 BMI2
constexpr uint32_t kLzcnt = bits({5});             // of leaf 80000001H, ECX

constexpr std::string_view kBrandV3 = "Aftercheck v3 CPU (x86-64-v3 AES PCLMUL)";
static_assert(kBrandV3.size() < 48);

constexpr CpuModel::Leaf kOfV3[] = {
    {0,
     0,
     false,
     {kMaxBasicLeafV3, text("GenuineIntel", 0), text("GenuineIntel", 8), text("GenuineIntel", 4)}},
    {1, 0, false, {kSignatureV3, 0x0001'0800, kLeaf1EcxV3, kLeaf1Edx}},
    {7, 0, true, {0, kLeaf7EbxV3, 0, 0}},
    {0xC, 0, false, {}},
    // XCR0 may have, and has, 7; sizes of the area for what it has, and for what it may have (SDM vol.
    // 1, 13.2).
    {0xD, 0, true, {xsave::kAll, xsave::kSize, xsave::kSize, 0}},
    {0xD, 1, true, {}},  // neither XSAVEOPT, XSAVEC, XGETBV with ECX = 1 nor XSAVES
    {0xD, 2, true, {xsave::kUpperSize, xsave::kUpper, 0, 0}},
    {0x8000'0001, 0, false, {0, 0, bits({0}) | kLzcnt, bits({11, 20, 27, 29})}},
    {0x8000'0002, 0, false, brand(kBrandV3, 0)},
    {0x8000'0003, 0, false, brand(kBrandV3, 16)},
    {0x8000'0004, 0, false, brand(kBrandV3, 32)},
};

const std::vector<CpuModel::Leaf>& v3_leaves() {
  static const std::vector<CpuModel::Leaf> result = [] {
    std::vector<CpuModel::Leaf> leaves(std::begin(kPortable), std::end(kPortable));
    for (const CpuModel::Leaf& own : kOfV3) {
      const auto same = std::ranges::find_if(leaves, [&own](const CpuModel::Leaf& leaf) {
        return leaf.leaf == own.leaf && leaf.subleaf == own.subleaf;
      });
      if (same != leaves.end())
        *same = own;
      else
        leaves.push_back(own);
    }
    return leaves;
  }();
  return result;
}

CpuidResult own_cpuid(std::span<const CpuModel::Leaf> leaves, uint32_t leaf, uint32_t subleaf) {
  // Intel answers a leaf beyond the maximum with the highest basic leaf (SDM vol. 2, CPUID).
  const uint32_t highest = leaves.front().result.eax;
  const bool extended = leaf >= kExtendedBase;
  if (leaf > (extended ? kMaxExtendedLeaf : highest)) leaf = highest;
  for (const CpuModel::Leaf& entry : leaves) {
    if (entry.leaf == leaf && (!entry.subleaf_significant || entry.subleaf == subleaf)) return entry.result;
  }
  // Leaf 0BH repeats the input in ECX[7:0] at levels that do not exist.
  if (leaf == 0xB) return {0, 0, subleaf & 0xFF, 0};
  return {};
}

CpuidResult host_cpuid(uint32_t leaf, uint32_t subleaf) {
  CpuidResult result;
  __cpuid_count(leaf, subleaf, result.eax, result.ebx, result.ecx, result.edx);
  // The APIC id tells on which processor we happen to run; a guest must get the same answer every time.
  if (leaf == 1) result.ebx &= 0x00FF'FFFF;
  if (leaf == 0xB || leaf == 0x1F || leaf == 0x8000'0026) result.edx = 0;
  if (leaf == 0x8000'001E) result.eax = 0;
  return result;
}

// Leaves whose answer depends on ECX, and how many subleaves to ask for at most.
struct Indexed {
  uint32_t leaf, count;
};
constexpr Indexed kIndexed[] = {
    {4, 8},    {7, 3},    {0xB, 8},         {0xD, 64},        {0xF, 2},         {0x10, 4}, {0x12, 4},
    {0x14, 2}, {0x17, 4}, {0x18, 8},        {0x1D, 2},        {0x1E, 2},        {0x1F, 8}, {0x20, 1},
    {0x23, 4}, {0x24, 2}, {0x8000'001D, 8}, {0x8000'0020, 4}, {0x8000'0026, 8},
};

// By CpuModelKind; in recordings.
constexpr std::array<std::string_view, 3> kNames = {"portable", "host", "v3"};

// What v3 has and processors without it may lack: a bit of a CPUID leaf (SDM vol. 2, tables 3-8 and 3-10; for
// LZCNT and what is portable's, APM vol. 3, E.4.2 has the same). RDTSCP and the like are taken for granted.
struct Needed {
  const char* name;
  uint32_t leaf;
  uint32_t CpuidResult::*in;
  unsigned bit;
};
constexpr Needed kNeeded[] = {
    {"SSE4.2", 1, &CpuidResult::ecx, 20},   {"POPCNT", 1, &CpuidResult::ecx, 23},
    {"PCLMULQDQ", 1, &CpuidResult::ecx, 1}, {"AES", 1, &CpuidResult::ecx, 25},
    {"XSAVE", 1, &CpuidResult::ecx, 26},    {"OSXSAVE", 1, &CpuidResult::ecx, 27},
    {"AVX", 1, &CpuidResult::ecx, 28},      {"FMA", 1, &CpuidResult::ecx, 12},
    {"MOVBE", 1, &CpuidResult::ecx, 22},    {"F16C", 1, &CpuidResult::ecx, 29},
    {"BMI1", 7, &CpuidResult::ebx, 3},      {"AVX2", 7, &CpuidResult::ebx, 5},
    {"BMI2", 7, &CpuidResult::ebx, 8},      {"LZCNT", 0x8000'0001, &CpuidResult::ecx, 5},
};

void append_host_leaves(uint32_t base, std::vector<CpuModel::Leaf>& leaves) {
  // A hostile or odd hypervisor must not make us loop for ever; no processor has this many leaves.
  constexpr uint32_t kMost = 64;
  const uint32_t last = std::min(host_cpuid(base, 0).eax, base + kMost);
  for (uint32_t leaf = base; leaf <= last; ++leaf) {
    const auto* indexed = std::ranges::find(kIndexed, leaf, &Indexed::leaf);
    if (indexed == std::end(kIndexed)) {
      leaves.push_back({leaf, 0, false, host_cpuid(leaf, 0)});
      continue;
    }
    for (uint32_t subleaf = 0; subleaf < indexed->count; ++subleaf) {
      const CpuidResult result = host_cpuid(leaf, subleaf);
      const bool empty = (result.eax | result.ebx) == 0;
      if (subleaf > 0 && empty && (result.ecx & ~0xFFU) == 0 && result.edx == 0) continue;
      leaves.push_back({leaf, subleaf, true, result});
    }
  }
}

}  // namespace

CpuidResult CpuModel::cpuid(uint32_t leaf, uint32_t subleaf) const {
  switch (kind_) {
    case CpuModelKind::portable:
      return own_cpuid(kPortable, leaf, subleaf);
    case CpuModelKind::v3:
      return own_cpuid(v3_leaves(), leaf, subleaf);
    case CpuModelKind::host:
      break;
  }
  return host_cpuid(leaf, subleaf);
}

std::vector<CpuModel::Leaf> CpuModel::leaves() const {
  if (kind_ == CpuModelKind::portable) return {std::begin(kPortable), std::end(kPortable)};
  if (kind_ == CpuModelKind::v3) return v3_leaves();
  std::vector<Leaf> result;
  append_host_leaves(0, result);
  append_host_leaves(kExtendedBase, result);
  return result;
}

const char* name(CpuModelKind kind) { return kNames.at(static_cast<size_t>(kind)).data(); }

std::optional<CpuModelKind> cpu_model_named(std::string_view name) {
  const auto found = std::ranges::find(kNames, name);
  if (found == kNames.end()) return std::nullopt;
  return static_cast<CpuModelKind>(found - kNames.begin());
}

std::string missing_on_host(CpuModelKind kind, HostCpuid host, uint64_t xcr0) {
  if (kind != CpuModelKind::v3) return {};
  for (const Needed& needed : kNeeded) {
    // Leaves beyond the highest have other answers.
    if (host(needed.leaf & kExtendedBase, 0).eax < needed.leaf) return needed.name;
    const CpuidResult answer = host(needed.leaf, 0);
    if (((answer.*needed.in) >> needed.bit & 1) == 0) return needed.name;
  }
  if ((xcr0 & xsave::kAll) != xsave::kAll) return "AVX state kept by the system (XCR0)";
  const CpuidResult upper = host(0xD, 2);
  if (upper.eax != xsave::kUpperSize || upper.ebx != xsave::kUpper)
    return "the usual place of AVX state in an XSAVE area";
  return {};
}

void require_host(CpuModelKind kind) {
  if (kind != CpuModelKind::v3) return;
  constexpr uint32_t kOsxsave = bits({27});
  uint64_t xcr0 = 0;
  if ((host_cpuid(1, 0).ecx & kOsxsave) != 0) {
    uint32_t low = 0, high = 0;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    xcr0 = uint64_t{high} << 32 | low;
  }
  const std::string missing = missing_on_host(kind, host_cpuid, xcr0);
  if (!missing.empty())
    fail(ErrorKind::host_lacks, "--cpu {} needs a processor with {}, which this host lacks", name(kind),
         missing);
}

}  // namespace aftercheck
