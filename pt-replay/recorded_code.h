// The code and the symbols of a recorded program, as they were at each event: what a trace of it is decoded
// with. Needs no replay; code that the program wrote itself is not in a log, so it is missing here: see
// written_code.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "base/interval_map.h"
#include "pt-trace/code_image.h"
#include "recording/reader.h"
#include "recording/store.h"
#include "symbols/symbols.h"

namespace aftercheck {

// Not thread-safe.
class RecordedCode {
 public:
  // Throws Error(bad_input), Error(io).
  explicit RecordedCode(const std::filesystem::path& directory, const symbols::ObjectOptions& options = {});
  // As it is after `event`, without reading what lies before: what is mapped then, and where the log goes on.
  // Code that the host wrote before it is missing.
  struct Start {
    uint64_t event = 0;
    recording::LogPlace next;
    std::vector<recording::SpaceOp> mappings;
  };
  RecordedCode(const std::filesystem::path& directory, const Start& start,
               const symbols::ObjectOptions& options = {});
  ~RecordedCode();

  const pt::CodeImage& image() const { return image_; }
  pt::CodeImage& image() { return image_; }
  const symbols::Symbols& symbols() const { return symbols_; }

  // Goes on to where this event (as recording::Reader counts) has been answered, its continuations too. Never
  // goes back: events before the one reached are taken as it. True when the program was replaced (execve) on
  // the way. Throws Error(bad_input) for a damaged log and Error(bad_input) naming a blob that is missing.
  bool answered(uint64_t event);
  // What was code at any event, for a trace that does not say where events are: goes to the end of the log
  // and takes nothing away but what other code replaces. Call it instead of answered(). False where code was
  // replaced by other code: then what executed before that can't be told. Throws as answered().
  bool all_events();
  // The next event that will be applied; the number of all events at the end of the log.
  uint64_t next_event() const { return next_; }

 private:
  struct Blob;
  // A file's mapping. Only executable ones are read and shown, but any may become so.
  struct Area {
    uint64_t size = 0;
    recording::Digest128 blob{};
    uint64_t offset = 0;  // in the blob
    bool executable = false;
    std::shared_ptr<const std::string> path;

    uint64_t extent() const { return size; }
    Area part(uint64_t skip, uint64_t part_size) const {
      return {part_size, blob, offset + skip, executable, path};
    }
  };
  void apply(const recording::Event& event);
  void apply(const recording::SpaceOp& op);
  void write(const recording::MemoryWrite& write);
  void show(uint64_t address, const Area& area);
  bool differs(uint64_t address, std::span<const uint8_t> bytes) const;
  IntervalMap<Area>::Entries cut_out(uint64_t address, uint64_t size);
  const std::shared_ptr<Blob>& blob(const Area& area);

  const symbols::ObjectOptions options_;
  recording::Reader reader_;
  recording::Store store_;
  pt::CodeImage image_;
  symbols::Symbols symbols_;
  IntervalMap<Area> areas_;
  std::map<recording::Digest128, std::shared_ptr<Blob>> blobs_;  // kept: names and lines are asked for later
  const recording::Event* pending_ = nullptr;                    // read, not applied
  uint64_t next_ = 0;
  bool replaced_ = false;
  bool keeps_all_ = false, replaced_code_ = false;  // of all_events()
};

}  // namespace aftercheck
