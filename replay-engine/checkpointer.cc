#include "replay-engine/checkpointer.h"

#include <utility>
#include <vector>

#include "base/error.h"

namespace aftercheck {

void Checkpointer::running(uint64_t number) {
  if (writer_.failed()) fail(ErrorKind::io, "{}", writer_.error());
  if (wanted_ ? !wanted_(number) : number == 0 || !writer_.due(replay_->time_ns())) return;
  Guest& guest = replay_->guest();
  SharedFiles& files = guest.shared_files();
  GuestMemory memory{
      .space = guest.space(),
      .restore = [&](uint64_t address,
                     std::span<std::byte> bytes) { guest.breakpoints().restore_original(address, bytes); },
      .files = {},
      .read_file = [&](uint64_t file, const auto& visit) { files.read_all(file, visit); }};
  for (const uint64_t file : files.numbers())
    memory.files.push_back({file, files.length(file), files.sized(file)});
  CheckpointSummary summary;
  summary.event = number;
  summary.time_ns = replay_->time_ns();
  summary.work_ns = process_work_ns();
  const recording::LogPlace place = replay_->log_place();
  std::vector<CheckpointThread> threads;
  for (const auto& [thread_number, thread] : guest.threads())
    threads.push_back({thread_number, thread->registers(), thread->fpu(), thread->digest().value()});
  writer_.take(summary, std::move(threads), memory, [place] { return std::optional(place); });
}

void Checkpointer::finished(const ReplayResult&) { writer_.finish(); }

}  // namespace aftercheck
