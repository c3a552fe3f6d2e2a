#include "kvm-recorder/recorded_checkpoints.h"

#include <algorithm>
#include <map>
#include <vector>

namespace aftercheck {
namespace {

// The parts of shared files that the guest has mapped, as their mappings show them. What it has not mapped a
// replay does not have either.
class SharedMappings {
 public:
  explicit SharedMappings(const LoggedSpace& memory) : memory_(memory) {
    for (const auto& [start, mapping] : memory.space().mappings())
      if (mapping.shared && mapping.backing == Backing::file)
        by_file_[memory.shared_file_number(mapping)].push_back(mapping);
  }

  std::vector<CheckpointFile> files() const {
    std::vector<CheckpointFile> files;
    for (const auto& [number, mappings] : by_file_) {
      uint64_t length = 0;
      for (const Mapping& mapping : mappings)
        length = std::max(length, mapping.offset + (mapping.end - mapping.start));
      files.push_back({number, length});
    }
    return files;
  }

  void read(uint64_t number,
            const std::function<void(uint64_t offset, std::span<const std::byte> bytes)>& visit) const {
    std::array<std::byte, kPageSize> page;
    for (const Mapping& mapping : by_file_.at(number))
      for (uint64_t at = mapping.start; at < mapping.end; at += kPageSize) {
        if (!memory_.space().read(at, page.data(), page.size())) break;  // behind the file's end
        visit(mapping.offset + (at - mapping.start), page);
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
      writer_({.directory = directory, .every_ns = every_ns, .share = every_ns == 0 ? 0U : 20U}) {}

void RecordedCheckpoints::take(uint64_t next_entry, uint64_t time_ns, Vcpu& vcpu,
                               const recording::RunningDigest& digest) {
  const SharedMappings shared(memory_);
  const GuestMemory guest{
      .space = memory_.space(),
      .number_of = [this](const Mapping& mapping) { return memory_.shared_file_number(mapping); },
      .restore = {},
      .files = shared.files(),
      .read_file = [&](uint64_t number, const auto& visit) { shared.read(number, visit); }};
  CheckpointSummary summary;
  summary.event = next_entry - 1;
  summary.time_ns = time_ns;
  summary.work_ns = process_work_ns();
  // So that the next entry's place is known soon.
  log_.flush();
  // Files of the store are opened on the way, which the guest's credentials may not allow.
  memory_.host_thread().run([&] {
    writer_.take(summary, {{0, vcpu.registers(), vcpu.fpu(), digest.value()}}, guest,
                 [&log = log_, next_entry] { return log.place_of(next_entry); });
  });
}

}  // namespace aftercheck
