// One entry of the log: an exit, its digest, and everything the host changed in the guest in answer to it.
// The vocabulary serves process guests and VM guests alike and knows no system-call semantics.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace aftercheck::recording {

using Digest128 = std::array<uint8_t, 16>;

// Values are part of the format: add at the end, never renumber.
enum class EventKind : uint8_t {
  start = 0,                // the first event: its answer builds the initial guest
  syscall = 1,              // operands: number, then six arguments
  trapped_instruction = 2,  // operands: TrappedKind, RAX and RCX before it
  exception = 3,            // operands: vector, error code
  memory_fault = 4,         // operands: address, access (0 read, 1 write, 2 fetch)
  // More answer for the event before it, which had too many bytes for one entry. No exit, no digest of its
  // own.
  continuation = 5,
  // The guest is gone. operands: EndReason, then exit status, signal number or system call. After an exit
  // event of the same instant (exit_group, fatal fault), or after none: the guest was killed somewhere in the
  // segment that follows the last exit.
  end = 6,
  // The guest was stopped between two exits, at RIP. `digest`, `memory` (complete: all of the guest's own
  // pages; before them, samples that tell the instant from others early) and `fpu_digest` identify the
  // instant; the answer sets RFLAGS and the FPU state whether they changed or not. operands: the words of
  // which `digest` is, since one in 2^32 of the arrivals at RIP has the same `digest` by chance; none in
  // recordings of earlier versions. `branches` say when the guest was there, if its machine counted them.
  asynchronous = 7,
  // More answer, or all of it, for the last exit of `thread`: other threads have run since that was logged.
  // No exit, no digest of its own, and what it says of output is steps. The thread does not run in between.
  answer = 8,
  // `thread` begins, a number that no thread had before. operands: the thread that made it, and its number in
  // the system. The answer has all registers and the FPU state. No exit, no digest.
  thread_start = 9,
  // `thread` is gone, maybe in the midst of a call. operands: its exit status, or kThreadKilled and the
  // signal that ended this thread alone. No exit, no digest, no answer.
  thread_end = 10,
  // The thread was stopped between two exits, so that others can run. operands: RIP, then how many branches
  // were executed since its event before was answered (Vcpu::branches()). `digest` is of that instant, of
  // which the log keeps 16 bits (has_digest()); `rip` is 0. No answer.
  preempted = 11,
  // Processes that share memory have it in turns, counted over the whole recording from 1 on: this one has
  // had its next turn since the event before, where another process had one meanwhile, until its next such
  // event or the end of its log. operands: the turn; 0: the process shares no memory any more. No exit, no
  // digest, no answer. A process has no such events before it first shares memory, but for what it has
  // inherited.
  turn = 12,
};

// recording_stopped: before a system call that can't be recorded; that is the event before, without an
// answer.
enum class EndReason : uint8_t { exited = 0, killed_by_signal = 1, recording_stopped = 2 };

// Of a thread's end: added to the number of a signal.
constexpr uint64_t kThreadKilled = 0x100;

struct MemoryWrite {
  uint64_t address = 0;
  std::span<const std::byte> bytes;  // owned by the chunk or by the caller
};

enum class SpaceOpKind : uint8_t {
  map_anonymous = 0,
  map_blob = 1,  // a blob of the store
  unmap = 2,
  protect = 3,
  remap = 4,
  discard = 5,
  clear = 6,  // forget all mappings
  // Of a file that has a number: the mappings that show it see what becomes of it.
  resize_file = 7,  // `new_address` is its number, `new_length` its size in bytes
  fill_file = 8,  // `new_address` is its number: `length` bytes from `new_length` on become those of `bytes`,
                  // of the blob, or zero where it has neither
};

// Does it change what is mapped where, and not a mapped file?
constexpr bool changes_mappings(SpaceOpKind kind) { return kind < SpaceOpKind::resize_file; }

// A change of the guest's mappings. Applied in order, before the writes of the same event.
struct SpaceOp {
  SpaceOpKind kind = SpaceOpKind::map_anonymous;
  uint64_t address = 0, length = 0;
  uint32_t prot = 0;    // map_*, protect: PROT_*
  bool shared = false;  // map_*: MAP_SHARED in the recorded run
  // remap. Of a map_blob: the number of the guest's file, the same for all mappings that show the file as it
  // is at any time, and the mapping's offset in it; 0: a private mapping of the blob, or a shared one that
  // shares with no other. Without a blob's name, the file has its contents from fill_file.
  uint64_t new_address = 0, new_length = 0;
  Digest128 blob{};                // map_blob: name in the store
  uint64_t blob_offset = 0;        // map_blob: page-aligned offset in the blob
  std::string name;                // map_*: path or "[heap]", for people
  std::vector<std::byte> bytes{};  // fill_file
};

// A trapped instruction replaced in guest code; applied after space_ops and writes.
struct CodePatch {
  uint64_t address = 0;
  uint8_t kind = 0, length = 0, operand = 0, operand_bits = 0;  // TrappedInstruction of machine/
  std::array<uint8_t, 15> original{};
};

// Bytes that left the guest. The replay takes them from its own guest's memory.
struct Output {
  uint8_t stream = 0;   // 1 or 2: the recorder's standard output or error; 0: elsewhere
  int32_t fd = -1;      // the guest's descriptor, for people
  uint64_t digest = 0;  // XXH3-64 over all pieces in order
  struct Piece {
    uint64_t address = 0, length = 0;
  };
  std::vector<Piece> pieces;  // where the bytes are in guest memory at the exit
};

// Values are part of the format: add at the end, never renumber.
enum class OutputStepKind : uint8_t {
  bytes = 0,   // bytes that reached the stream without passing guest memory (sendfile(2), splice(2))
  seek = 1,    // what comes next goes to `offset`
  resize = 2,  // the file ends at `offset` now
};

// What happened to one of the recorder's own streams beside the bytes that the guest wrote there.
struct OutputStep {
  OutputStepKind kind = OutputStepKind::bytes;
  uint8_t stream = 0;   // 1 or 2
  uint32_t before = 0;  // how many of the event's `outputs` come first
  // Bytes, in a regular file; 0 is where the stream stood when the recording began, so it may be negative.
  int64_t offset = 0;
  std::vector<std::byte> bytes;
};

// Digest of a stretch of guest memory at the exit, before the answer.
struct MemoryDigest {
  uint64_t address = 0, length = 0;
  Digest128 digest{};  // XXH3-128
};

// Register numbers in `RegisterChange`: the order of machine/registers.h.
struct RegisterChange {
  uint8_t number = 0;
  uint64_t value = 0;
};

struct Event {
  EventKind kind = EventKind::start;
  uint32_t thread = 0;   // guest thread, 0 is the first
  uint64_t time_ns = 0;  // host time since the start of the recording
  // the exit
  uint64_t rip = 0;
  std::vector<uint64_t> operands;      // see EventKind
  uint32_t digest = 0;                 // low half of the running register digest after this exit
  std::vector<MemoryDigest> memory;    // periodic; empty on most events
  std::optional<uint64_t> fpu_digest;  // comes with `memory`
  // asynchronous: executed since the event before was answered (Vcpu::branches()); less than UINT64_MAX
  std::optional<uint64_t> branches;
  // the answer
  std::vector<RegisterChange> registers;
  // 512 bytes of FXSAVE, with the upper halves of YMM0-15 behind them unless these are zero; or empty:
  // unchanged
  std::vector<std::byte> fpu;
  std::vector<SpaceOp> space_ops;
  std::vector<MemoryWrite> writes;
  std::vector<CodePatch> patches;
  std::vector<Output> outputs;
  std::vector<OutputStep> output_steps;  // ascending in `before`
};

}  // namespace aftercheck::recording
