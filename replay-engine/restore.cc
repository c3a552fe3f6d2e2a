#include "replay-engine/restore.h"

#include "base/error.h"

namespace aftercheck {

using recording::Event;

namespace {

Event thread_state(const CheckpointThread& thread, recording::EventKind kind) {
  Event event;
  event.kind = kind;
  event.thread = thread.number;
  const RegisterWords words = to_words(thread.registers);
  for (size_t i = 0; i < words.size(); ++i) event.registers.push_back({static_cast<uint8_t>(i), words[i]});
  event.fpu = thread.fpu.bytes();
  return event;
}

}  // namespace

std::vector<Event> restore(Guest& guest, const Checkpoint& checkpoint, recording::Store& store) {
  std::vector<Event> events;
  for (const CheckpointThread& thread : checkpoint.threads)
    events.push_back(thread_state(
        thread, events.empty() ? recording::EventKind::start : recording::EventKind::thread_start));
  // Mappings, then what is in them, then trapped instructions over it: the order of every answer.
  Event& first = events.front();
  first.space_ops = checkpoint.mappings;
  for (const CheckpointFile& file : checkpoint.files)
    guest.shared_files().restore(file.number, file.length, file.sized, "of the checkpoint");
  guest.apply(first);
  // Those that had waited for this memory, until its contents are there.
  guest.breakpoints().lift({0, UINT64_MAX});
  read_pages(checkpoint, store, [&](const PageRun& run, std::span<const std::byte> bytes) {
    if (run.file != 0)
      guest.shared_files().write(run.file, run.address, bytes, "of the checkpoint");
    else if (!guest.space().write(run.address, bytes.data(), bytes.size()))
      fail(ErrorKind::bad_input, "{} pages at {:#x} are not mapped", run.pages, run.address);
  });
  Event patches;
  patches.kind = recording::EventKind::continuation;
  patches.thread = first.thread;
  patches.patches = checkpoint.patches;
  guest.apply(patches);
  first.patches = checkpoint.patches;
  for (size_t i = 1; i < events.size(); ++i) guest.apply(events[i]);
  for (const CheckpointThread& thread : checkpoint.threads)
    guest.thread(thread.number).digest() = recording::RunningDigest::from(thread.digest);
  for (Event& event : events) event.time_ns = checkpoint.time_ns;
  return events;
}

}  // namespace aftercheck
