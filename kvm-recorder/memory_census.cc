#include "kvm-recorder/memory_census.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/error.h"
#include "recording/digest.h"

namespace aftercheck {
namespace {

using namespace std::chrono_literals;

constexpr auto kInterval = 1s;
constexpr int kShare = 100;  // at most one part in so many of the time goes into digests
constexpr uint64_t kStretch = 1 << 20;
// An event holds 2^18 digests. A guest that touches memory sparsely has more stretches than that.
constexpr size_t kMostStretches = 1 << 16;
constexpr uint64_t kWidestGap = 16 << 20;  // stretches stay below the 64 MiB that a replay accepts

// Joins stretches of one anonymous mapping over the gaps between them until few enough are left. The gaps
// read as zeros, here and in the replay; a gap of a file's mapping may lie past the file's end.
void join_over_gaps(const AddressSpace& space, std::vector<Range>& runs) {
  for (uint64_t gap = kPageSize; runs.size() > kMostStretches && gap <= kWidestGap; gap *= 2) {
    std::vector<Range> joined;
    for (const Range& run : runs) {
      if (!joined.empty() && run.start - joined.back().end <= gap &&
          run.end - joined.back().start <= std::max(kStretch, 2 * gap)) {
        const Mapping* mapping = space.find(joined.back().start);
        if (mapping != nullptr && mapping->backing == Backing::anonymous && mapping->end >= run.end) {
          joined.back().end = run.end;
          continue;
        }
      }
      joined.push_back(run);
    }
    runs = std::move(joined);
  }
}

}  // namespace

MemoryCensus::MemoryCensus(const AddressSpace& space)
    : space_(space), next_(std::chrono::steady_clock::now() + kInterval) {}

std::vector<recording::MemoryDigest> MemoryCensus::take() {
  const auto begin = std::chrono::steady_clock::now();
  std::vector<Range> runs;
  if (pages_.works())
    for (const auto& [start, mapping] : space_.mappings())
      if (mapping.prot != PROT_NONE && !(mapping.shared && mapping.backing == Backing::file))
        pages_.own_pages(mapping, kStretch, [&](Range run) {
          // Neighbours in memory may be two mappings.
          if (!runs.empty() && runs.back().end == run.start && runs.back().size() + run.size() <= kStretch)
            runs.back().end = run.end;
          else
            runs.push_back(run);
        });
  join_over_gaps(space_, runs);
  std::vector<recording::MemoryDigest> digests;
  digests.reserve(runs.size());
  for (const Range& run : runs)
    digests.push_back({run.start, run.size(),
                       recording::digest128({reinterpret_cast<const std::byte*>(run.start), run.size()})});
  const auto end = std::chrono::steady_clock::now();
  next_ = end + std::max<std::chrono::steady_clock::duration>(kInterval, (end - begin) * kShare);
  return digests;
}

}  // namespace aftercheck
