#include "kvm-recorder/recorded_checkpoints.h"

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "base/error.h"
#include "recording/file_io.h"

namespace aftercheck {
namespace {

// The shared files that the guest has mapped, as a replay has them: what is mapped as the mappings show it,
// and of a file that was kept whole also the rest, into which a mapping may grow.
class SharedMappings {
 public:
  // Opens files of the store: to be called by the host thread. Throws Error(io) or Error(bad_input).
  SharedMappings(const LoggedSpace& memory, const recording::Store& store) : memory_(memory), store_(store) {
    for (const auto& [start, mapping] : memory.space().mappings()) {
      if (!mapping.shared || mapping.backing != Backing::file) continue;
      const uint64_t number = memory.shared_file_number(mapping);
      by_file_[number].push_back(mapping);
      if (whole_.contains(number)) continue;
      const uint64_t size = store.open_unread(mapping.contents).size;
      if (size == mapping.file_size) whole_.emplace(number, Whole{mapping.contents, size});
    }
  }

  std::vector<CheckpointFile> files() const {
    std::vector<CheckpointFile> files;
    for (const auto& [number, mappings] : by_file_) {
      uint64_t length = 0;
      for (const Mapping& mapping : mappings)
        length = std::max(length, mapping.offset + (mapping.end - mapping.start));
      if (const auto whole = whole_.find(number); whole != whole_.end())
        length = std::max(length, page_up(whole->second.size));
      files.push_back({number, length});
    }
    return files;
  }

  void read(uint64_t number,
            const std::function<void(uint64_t offset, std::span<const std::byte> bytes)>& visit) const {
    std::array<std::byte, kPageSize> page;
    std::set<uint64_t> visited;
    for (const Mapping& mapping : by_file_.at(number))
      for (uint64_t at = mapping.start; at < mapping.end; at += kPageSize) {
        const uint64_t offset = mapping.offset + (at - mapping.start);
        if (!visited.insert(offset).second) continue;
        if (!memory_.space().read(at, page.data(), page.size())) break;  // behind the file's end
        visit(offset, page);
      }
    const auto whole = whole_.find(number);
    if (whole == whole_.end()) return;
    const recording::Store::Blob blob = store_.open_unread(whole->second.name);
    for (uint64_t offset = 0; offset < blob.size; offset += kPageSize) {
      if (visited.contains(offset)) continue;
      page.fill(std::byte{0});
      recording::read_at(blob.fd.get(), "a shared file in the store", offset, page);
      visit(offset, page);
    }
  }

 private:
  struct Whole {
    recording::Digest128 name{};
    uint64_t size = 0;
  };
  const LoggedSpace& memory_;
  const recording::Store& store_;
  std::map<uint64_t, std::vector<Mapping>> by_file_;
  std::map<uint64_t, Whole> whole_;  // the blobs of files that were kept so
};

}  // namespace

RecordedCheckpoints::RecordedCheckpoints(const std::filesystem::path& directory, uint64_t every_ns,
                                         LoggedSpace& memory, recording::Writer& log)
    : memory_(memory),
      log_(log),
      store_(directory, false),
      writer_({.directory = directory, .every_ns = every_ns, .share = every_ns == 0 ? 0U : 20U}) {}

void RecordedCheckpoints::take(uint64_t next_entry, uint64_t time_ns, Vcpu& vcpu,
                               const recording::RunningDigest& digest) {
  CheckpointSummary summary;
  summary.event = next_entry - 1;
  summary.time_ns = time_ns;
  summary.work_ns = process_work_ns();
  // So that the next entry's place is known soon.
  log_.flush();
  // Files of the store are opened on the way, which the guest's credentials may not allow.
  memory_.host_thread().run([&] {
    const SharedMappings shared(memory_, store_);
    const GuestMemory guest{
        .space = memory_.space(),
        .number_of = [this](const Mapping& mapping) { return memory_.shared_file_number(mapping); },
        .restore = {},
        .files = shared.files(),
        .read_file = [&](uint64_t number, const auto& visit) { shared.read(number, visit); }};
    writer_.take(summary, {{0, vcpu.registers(), vcpu.fpu(), digest.value()}}, guest,
                 [&log = log_, next_entry] {
                   // It never will be there: whoever waits for room for the next checkpoint must hear of it.
                   if (log.failed()) fail(ErrorKind::io, "{}", log.error());
                   return log.place_of(next_entry);
                 });
  });
}

}  // namespace aftercheck
