#include "machine/page_map.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace aftercheck {
namespace {

// Documentation/admin-guide/mm/pagemap.rst.
constexpr uint64_t kPresent = uint64_t{1} << 63, kSwapped = uint64_t{1} << 62, kFilePage = uint64_t{1} << 61,
                   kExclusive = uint64_t{1} << 56;

// Joins pages to runs.
class Runs {
 public:
  Runs(uint64_t longest, const std::function<void(Range)>& visit) : longest_(longest), visit_(visit) {}
  void add(uint64_t page) {
    if (run_.end == page && run_.size() < longest_) {
      run_.end += kPageSize;
      return;
    }
    flush();
    run_ = {page, page + kPageSize};
  }
  void flush() {
    if (run_.start < run_.end) visit_(run_);
    run_ = {};
  }

 private:
  const uint64_t longest_;
  const std::function<void(Range)>& visit_;
  Range run_;
};

// Pages of shared memory may be out on a swap device, where nothing but a read finds them.
bool swap_in_use() {
  struct sysinfo info {};
  return sysinfo(&info) != 0 || info.freeswap != info.totalswap;
}

}  // namespace

PageMap::PageMap() {
  UniqueFd opened(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  if (opened) pagemap_ = move_out_of_guest_reach(std::move(opened));
}

void PageMap::own_pages(const Mapping& mapping, uint64_t longest,
                        const std::function<void(Range)>& visit) const {
  for (const Range& used : used_parts({mapping.start, mapping.end})) {
    const Mapping part = mapping.part(used.start - mapping.start, used.size());
    if (!part.shared)
      private_pages(part, longest, false, visit);
    else if (part.backing == Backing::anonymous)
      shared_pages(part, longest, visit);
  }
}

void PageMap::unshared_pages(const Mapping& mapping, uint64_t longest,
                             const std::function<void(Range)>& visit) const {
  if (mapping.shared) return;
  for (const Range& used : used_parts({mapping.start, mapping.end}))
    private_pages(mapping.part(used.start - mapping.start, used.size()), longest, true, visit);
}

// Of shared memory this process need not have mapped the pages that are there (after a fork it has none), so
// the page cache is asked.
void PageMap::shared_pages(const Mapping& mapping, uint64_t longest,
                           const std::function<void(Range)>& visit) const {
  const bool ask = !swap_in_use();
  Runs runs(longest, visit);
  std::array<unsigned char, 4096> resident;
  for (uint64_t at = mapping.start; at < mapping.end;) {
    const size_t count = std::min<uint64_t>(resident.size(), (mapping.end - at) / kPageSize);
    if (!ask || mincore(reinterpret_cast<void*>(at), count * kPageSize, resident.data()) != 0)
      resident.fill(1);
    for (size_t i = 0; i < count; ++i, at += kPageSize)
      if ((resident[i] & 1) != 0) runs.add(at);
  }
  runs.flush();
}

void PageMap::private_pages(const Mapping& mapping, uint64_t longest, bool unshared,
                            const std::function<void(Range)>& visit) const {
  const uint64_t skipped = mapping.backing == Backing::file ? kFilePage : 0;
  // Of what lies on a swap device nobody tells whether others have it, too.
  const auto wanted = [&](uint64_t entry) {
    if ((entry & skipped) != 0) return false;
    return unshared ? (entry & kSwapped) != 0 || (entry & (kPresent | kExclusive)) == (kPresent | kExclusive)
                    : (entry & (kPresent | kSwapped)) != 0;
  };
  Runs runs(longest, visit);
  std::array<uint64_t, 4096> entries;
  for (uint64_t at = mapping.start; at < mapping.end;) {
    const size_t count = std::min<uint64_t>(entries.size(), (mapping.end - at) / kPageSize);
    const auto offset = static_cast<off_t>(at / kPageSize * sizeof(uint64_t));
    ssize_t got = pagemap_ ? pread(pagemap_.get(), entries.data(), count * sizeof(uint64_t), offset) : 0;
    if (got < static_cast<ssize_t>(sizeof(uint64_t))) {
      entries.fill(kPresent | kExclusive);
      got = static_cast<ssize_t>(count * sizeof(uint64_t));
    }
    for (size_t i = 0; i < static_cast<size_t>(got) / sizeof(uint64_t); ++i, at += kPageSize)
      if (wanted(entries[i])) runs.add(at);
  }
  runs.flush();
}

}  // namespace aftercheck
