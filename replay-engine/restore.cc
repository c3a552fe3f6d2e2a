#include "replay-engine/restore.h"

#include "base/error.h"

namespace aftercheck {

using recording::Event;

namespace {

Event thread_state(const CheckpointThread& thread) {
  Event event;
  event.kind = recording::EventKind::start;
  event.thread = thread.number;
  const RegisterWords words = to_words(thread.registers);
  for (size_t i = 0; i < words.size(); ++i) event.registers.push_back({static_cast<uint8_t>(i), words[i]});
  event.fpu = thread.fpu.bytes();
  return event;
}

}  // namespace

Event restore(Guest& guest, const Checkpoint& checkpoint, recording::Store& store) {
  if (checkpoint.threads.size() != 1)
    fail(ErrorKind::unsupported, "a checkpoint with {} threads: this version replays one",
         checkpoint.threads.size());
  // Mappings, then what is in them, then trapped instructions over it: the order of every answer.
  Event first = thread_state(checkpoint.threads.front());
  first.time_ns = checkpoint.time_ns;
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
  patches.thread = first.thread;
  patches.patches = checkpoint.patches;
  guest.apply(patches);
  guest.thread().digest() = recording::RunningDigest::from(checkpoint.threads.front().digest);
  first.patches = checkpoint.patches;
  return first;
}

}  // namespace aftercheck
