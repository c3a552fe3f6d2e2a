#include "kvm-recorder/recorded_checkpoints.h"

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "base/error.h"

namespace aftercheck {
namespace {

// The files that the guest has mapped and may change, as far as the mappings show them: what is not mapped
// the log says anew when it is.
class LiveMappings {
 public:
  explicit LiveMappings(const LoggedSpace& memory) : memory_(memory) {
    for (const auto& [start, mapping] : memory.space().mappings())
      if (mapping.number != 0) by_file_[mapping.number].push_back(mapping);
    // A private mapping may have pages of its own in the place of the file's.
    for (auto& [number, mappings] : by_file_)
      std::stable_partition(mappings.begin(), mappings.end(),
                            [](const Mapping& mapping) { return mapping.shared; });
  }

  std::vector<CheckpointFile> files() const {
    std::vector<CheckpointFile> files;
    for (const auto& [number, mappings] : by_file_)
      files.push_back({number, page_up(mappings.front().file_size), true});
    return files;
  }

  void read(uint64_t number,
            const std::function<void(uint64_t offset, std::span<const std::byte> bytes)>& visit) const {
    std::array<std::byte, kPageSize> page;
    std::set<uint64_t> visited;
    for (const Mapping& mapping : by_file_.at(number))
      for (uint64_t at = mapping.start; at < mapping.end; at += kPageSize) {
        const uint64_t offset = mapping.offset + (at - mapping.start);
        if (offset >= mapping.file_size) break;
        if (!visited.insert(offset).second) continue;
        if (!memory_.space().read(at, page.data(), page.size())) break;  // others made the file shorter
        visit(offset, page);
      }
  }

 private:
  const LoggedSpace& memory_;
  std::map<uint64_t, std::vector<Mapping>> by_file_;
};

}  // namespace

RecordedCheckpoints::RecordedCheckpoints(const std::filesystem::path& directory, uint64_t every_ns,
                                         LoggedSpace& memory, recording::Writer& log)
    : memory_(memory),
      log_(log),
      writer_({.directory = directory,
               .every_ns = every_ns,
               .share = every_ns == 0 ? 0U : 20U,
               .beside_guest = true}) {}

void RecordedCheckpoints::take(uint64_t next_entry, uint64_t time_ns,
                               const std::vector<CheckpointThread>& threads) {
  CheckpointSummary summary;
  summary.event = next_entry - 1;
  summary.time_ns = time_ns;
  summary.work_ns = process_work_ns();
  // So that the next entry's place is known soon.
  log_.flush();
  // Files of the store are opened on the way, which the guest's credentials may not allow.
  memory_.host_thread().run([&] {
    const LiveMappings live(memory_);
    const GuestMemory guest{
        .space = memory_.space(),
        .restore = {},
        .files = live.files(),
        .read_file = [&](uint64_t number, const auto& visit) { live.read(number, visit); }};
    writer_.take(summary, threads, guest, [&log = log_, next_entry] {
      // It never will be there: whoever waits for room for the next checkpoint must hear of it.
      if (log.failed()) fail(ErrorKind::io, "{}", log.error());
      return log.place_of(next_entry);
    });
  });
  memory_.checkpoint_taken();
}

}  // namespace aftercheck
