#include "code-scan/code_search.h"

#include <emmintrin.h>

#include <algorithm>
#include <cstring>

namespace aftercheck {
namespace {

// Calls visit(offset) for each offset where may_match(16 bytes at it, 16 bytes one further) has its lane set.
// The last few offsets, where a vector would pass the end, are all visited.
template <typename Match, typename Visit>
void for_each_match(std::span<const uint8_t> bytes, Match may_match, Visit visit) {
  size_t at = 0;
  for (; at + 17 <= bytes.size(); at += 16) {
    const auto here = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes.data() + at));
    const auto next = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes.data() + at + 1));
    auto mask = static_cast<unsigned>(_mm_movemask_epi8(may_match(here, next)));
    for (; mask != 0; mask &= mask - 1) visit(at + static_cast<size_t>(__builtin_ctz(mask)));
  }
  for (; at < bytes.size(); ++at) visit(at);
}

__m128i equals(__m128i lanes, int byte) {
  return _mm_cmpeq_epi8(lanes, _mm_set1_epi8(static_cast<char>(byte)));
}

// Of v3 alone: XGETBV; XSAVE, XRSTOR, XSAVEOPT: memory forms of /4 to /6; XRSTORS, XSAVEC, XSAVES: of /3 to
// /5.
bool is_candidate_of_v3(uint8_t opcode, uint8_t modrm) {
  const unsigned reg = modrm >> 3 & 7;
  if (opcode == 0x01) return modrm == 0xd0;
  if (modrm >= 0xc0) return false;
  return (opcode == 0xae && reg >= 4 && reg <= 6) || (opcode == 0xc7 && reg >= 3 && reg <= 5);
}

bool is_candidate(std::span<const uint8_t> at, CpuModelKind model) {
  if (at.size() < 2 || at[0] != 0x0f) return false;
  if (at[1] == 0x31 || at[1] == 0xa2) return true;  // RDTSC, CPUID
  if (at.size() < 3) return false;
  if (model == CpuModelKind::v3 && is_candidate_of_v3(at[1], at[2])) return true;
  return (at[1] == 0x01 && at[2] == 0xf9) ||                        // RDTSCP
         (at[1] == 0xae && at[2] < 0xc0 && (at[2] & 0x38) == 0) ||  // FXSAVE: memory forms of /0
         (at[1] == 0xc7 && at[2] >= 0xf0);  // RDRAND, RDSEED, RDPID: register forms of /6 and /7
}

// The interval that holds `offset`, or null.
const Interval* find_interval(std::span<const Interval> intervals, size_t offset) {
  const auto it = std::upper_bound(intervals.begin(), intervals.end(), offset,
                                   [](size_t value, const Interval& i) { return value < i.start; });
  if (it == intervals.begin()) return nullptr;
  return offset < std::prev(it)->end ? &*std::prev(it) : nullptr;
}

bool has_rel8(uint8_t opcode) {
  // Jcc; LOOPNE, LOOPE, LOOP, JRCXZ; JMP
  return (opcode & 0xf0) == 0x70 || (opcode & 0xfc) == 0xe0 || opcode == 0xeb;
}

class BranchSearch {
 public:
  BranchSearch(std::span<const uint8_t> bytes, std::span<const Interval> intervals)
      : bytes_(bytes), intervals_(intervals) {}

  std::vector<BranchSite> run() {
    const auto may_match = [](__m128i here, __m128i next) {
      const auto call_or_jump = equals(_mm_or_si128(here, _mm_set1_epi8(1)), 0xe9);
      const auto condition = equals(_mm_and_si128(next, _mm_set1_epi8(static_cast<char>(0xf0))), 0x80);
      return _mm_or_si128(call_or_jump, _mm_and_si128(equals(here, 0x0f), condition));
    };
    for_each_match(bytes_, may_match, [this](size_t at) { visit_rel32(at); });
    for (const Interval& interval : intervals_) {
      visit_rel8(interval.start - std::min<size_t>(interval.start, 130), interval.start);
      visit_rel8(interval.end, std::min(bytes_.size(), interval.end + 130));
    }
    return std::move(sites_);
  }

 private:
  void visit_rel32(size_t at) {
    const bool two_bytes = bytes_[at] == 0x0f;
    if (!two_bytes && (bytes_[at] | 1) != 0xe9) return;  // only the last few offsets come unfiltered
    const size_t displacement = at + (two_bytes ? 2 : 1);
    if (displacement + 4 > bytes_.size()) return;
    int32_t relative = 0;
    std::memcpy(&relative, bytes_.data() + displacement, sizeof relative);
    add(at, displacement + 4 + static_cast<size_t>(static_cast<int64_t>(relative)));
  }

  void visit_rel8(size_t from, size_t to) {
    for (size_t at = from; at + 2 <= to; ++at)
      if (has_rel8(bytes_[at]))
        add(at, at + 2 + static_cast<size_t>(static_cast<int64_t>(static_cast<int8_t>(bytes_[at + 1]))));
  }

  void add(size_t site, size_t target) {
    if (target >= bytes_.size() || sites_.size() >= kMaxSites) return;
    const Interval* interval = find_interval(intervals_, target);
    if (interval != nullptr && (site < interval->start || site >= interval->end))
      sites_.push_back({site, target});
  }

  std::span<const uint8_t> bytes_;
  std::span<const Interval> intervals_;
  std::vector<BranchSite> sites_;
};

}  // namespace

std::vector<size_t> find_candidates(std::span<const uint8_t> bytes, CpuModelKind model) {
  std::vector<size_t> found;
  const auto may_match = [](__m128i here, __m128i next) {
    const auto second = _mm_or_si128(_mm_or_si128(equals(next, 0x31), equals(next, 0xa2)),
                                     _mm_or_si128(equals(next, 0x01), equals(next, 0xc7)));
    const auto third = equals(next, 0xae);
    return _mm_and_si128(equals(here, 0x0f), _mm_or_si128(second, third));
  };
  for_each_match(bytes, may_match, [&](size_t at) {
    if (is_candidate(bytes.subspan(at), model)) found.push_back(at);
  });
  return found;
}

std::vector<BranchSite> find_branches_into(std::span<const uint8_t> bytes,
                                           std::span<const Interval> intervals) {
  if (intervals.empty()) return {};
  return BranchSearch(bytes, intervals).run();
}

}  // namespace aftercheck
