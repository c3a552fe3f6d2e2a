#include "kvm-recorder/memory_census.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>

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

// Documentation/admin-guide/mm/pagemap.rst.
constexpr uint64_t kPresent = uint64_t{1} << 63, kSwapped = uint64_t{1} << 62, kFilePage = uint64_t{1} << 61;

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
    : space_(space), next_(std::chrono::steady_clock::now() + kInterval) {
  UniqueFd opened(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  if (opened) pagemap_ = move_out_of_guest_reach(std::move(opened));
}

void MemoryCensus::add_present(const Mapping& mapping, std::vector<Range>& runs) const {
  // Pages of a private file mapping count once they were written to; shared anonymous memory looks like a
  // file's.
  const uint64_t skipped = mapping.backing == Backing::file ? kFilePage : 0;
  std::array<uint64_t, 4096> entries;
  for (uint64_t at = mapping.start; at < mapping.end;) {
    const size_t count = std::min<uint64_t>(entries.size(), (mapping.end - at) / kPageSize);
    const auto offset = static_cast<off_t>(at / kPageSize * sizeof(uint64_t));
    const ssize_t got = pread(pagemap_.get(), entries.data(), count * sizeof(uint64_t), offset);
    if (got < static_cast<ssize_t>(sizeof(uint64_t))) return;
    for (size_t i = 0; i < static_cast<size_t>(got) / sizeof(uint64_t); ++i, at += kPageSize) {
      if ((entries[i] & (kPresent | kSwapped)) == 0 || (entries[i] & skipped) != 0) continue;
      if (!runs.empty() && runs.back().end == at && runs.back().size() < kStretch)
        runs.back().end += kPageSize;
      else
        runs.push_back({at, at + kPageSize});
    }
  }
}

std::vector<recording::MemoryDigest> MemoryCensus::take() {
  const auto begin = std::chrono::steady_clock::now();
  std::vector<Range> runs;
  if (pagemap_)
    for (const auto& [start, mapping] : space_.mappings())
      if (mapping.prot != PROT_NONE && !(mapping.shared && mapping.backing == Backing::file))
        add_present(mapping, runs);
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
