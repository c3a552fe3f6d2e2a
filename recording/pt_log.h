// DIR/pt/<thread>: the Intel PT trace of one guest thread, with what is known beside it
// (docs/recording-format.md). Chunks are appended and never rewritten: kill -9, a full disk or power loss
// leaves a trace that is good up to its last whole chunk.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace aftercheck::recording {

// Where a trace comes from. Values are part of the format.
enum class PtSource : uint8_t {
  soft = 0,   // the encoder beside the soft vCPU, while recording
  perf = 1,   // a processor, by perf_event_open
  synth = 2,  // the encoder beside the soft vCPU, in a replay afterwards
};
const char* name(PtSource source);

// What a decoder must know of a trace.
struct PtFormat {
  PtSource source = PtSource::soft;
  bool return_compression = false;               // near returns may be taken outcomes
  uint32_t family = 0, model = 0, stepping = 0;  // CPUID of the processor; 0: none
  std::string capabilities;  // for people: settings and capabilities of the tracing hardware
};

// Why AUX data is missing or doubtful. Values are those of PERF_AUX_FLAG_* (linux/perf_event.h), plus
// `lost` for PERF_RECORD_LOST and for a reader that was too slow.
namespace pt_loss {
constexpr uint8_t kTruncated = 0x01, kOverwrite = 0x02, kPartial = 0x04, kCollision = 0x08, kLost = 0x80;
constexpr uint8_t kAll = kTruncated | kOverwrite | kPartial | kCollision | kLost;
}  // namespace pt_loss
// "truncated", "partial, collision".
std::string describe_pt_loss(uint8_t flags);

// One entry of the trace, in its order.
struct PtRecord {
  enum class Kind : uint8_t {
    data,  // the next AUX bytes. Offsets have no gaps: lost bytes are not counted
    // The AUX bytes before `offset` were made before event `event` was answered, those from `offset` on after
    // it.
    mark,
    loss,  // AUX data was lost or damaged at `offset`
  };
  Kind kind = Kind::data;
  uint64_t offset = 0;             // in the AUX stream; of the first byte of `bytes`
  std::span<const uint8_t> bytes;  // data; owned by the reader, valid until the next call
  uint64_t event = 0;              // mark: number of the event, as recording::Reader counts
  uint8_t flags = 0;               // loss: pt_loss
  uint64_t lost_bytes = 0;         // loss: how many, 0: not known
};

// Not thread-safe. Memory is bounded by one chunk.
class PtLogWriter {
 public:
  // Creates `directory`/pt where it is missing and the thread's file in it, which must not exist. `folder`
  // replaces the name "pt". Throws Error(io).
  PtLogWriter(const std::filesystem::path& directory, uint32_t thread, const PtFormat& format,
              const std::string& folder = "pt");
  ~PtLogWriter();  // like finish(), errors swallowed
  PtLogWriter(const PtLogWriter&) = delete;
  PtLogWriter& operator=(const PtLogWriter&) = delete;

  // All of these throw Error(io) when the file can't be written; from then on the writer drops what it gets
  // and the file ends with its last whole chunk.
  void data(std::span<const uint8_t> bytes);
  void mark(uint64_t event);  // events must not go back (Error internal)
  void loss(uint8_t flags, uint64_t lost_bytes);
  // Writes a chunk that is older than `age` out.
  void flush_older_than(std::chrono::milliseconds age);
  // Writes everything with the sign that the trace is whole; fsyncs. Idempotent.
  void finish();
  // In a process that fork(2) has made, for the copy of its parent's: its file is closed, and it must not be
  // used again.
  void leave_to_parent();

  uint64_t aux_bytes() const;      // given so far
  uint64_t written_bytes() const;  // in the file

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

struct PtSummary;

// Trusts nothing: damage is Error(bad_input) with file and offset, a newer format Error(unsupported).
class PtLogReader {
 public:
  // Throws Error(io) when there is no such file.
  PtLogReader(const std::filesystem::path& directory, uint32_t thread);
  ~PtLogReader();
  PtLogReader(const PtLogReader&) = delete;
  PtLogReader& operator=(const PtLogReader&) = delete;

  const PtFormat& format() const;
  // Null at the end. The record is valid until the next call.
  const PtRecord* next();
  // Goes on with the chunk that holds AUX offset `offset`, so with records before it. Looks at headers only.
  void seek(uint64_t offset);
  // After next() gave null: true when the trace has no end; `*why` (if given) tells.
  bool truncated(std::string* why = nullptr) const;
  double progress() const;  // share of the file read

 private:
  friend PtSummary summarize_pt(const std::filesystem::path& directory, uint32_t thread);
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// The guest threads that have a trace, ascending; empty when the recording has none.
std::vector<uint32_t> pt_threads(const std::filesystem::path& directory);

// What is in one thread's file, found without decompressing. Of a damaged file: what comes before the damage,
// with the error's text.
struct PtSummary {
  PtFormat format;
  uint64_t aux_bytes = 0, file_bytes = 0, chunks = 0, losses = 0, marks = 0;
  bool complete = false;
  std::string problem;  // damage, or why it is not complete
};
PtSummary summarize_pt(const std::filesystem::path& directory, uint32_t thread);

}  // namespace aftercheck::recording
