// Gives the events of one chunk's payload. The payload is hostile: every count and length is checked before
// use.
#pragma once

#include <capnp/serialize.h>
#include <fmt/format.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "log.capnp.h"
#include "recording/event.h"
#include "recording/format.h"

namespace aftercheck::recording {

class ChunkDecoder {
 public:
  // `payload` must outlive the decoder. `where` ("DIR/events: chunk 3 at offset 1234") starts all error
  // messages. `first_event` is what the chunk must say. Throws Error(bad_input).
  ChunkDecoder(std::span<const uint64_t> payload, uint64_t first_event, const std::string& where);

  uint32_t count() const { return count_; }
  // Fills `event`, reusing its vectors; spans point into the payload. False after the last event.
  bool next(Event& event);

 private:
  struct KnownShape {
    Shape shape;
    uint64_t slot_count = 0;
    uint64_t first_slot = 0;
    bool used = false;  // first_slot is valid
  };
  class SlotReader;

  template <typename... Args>
  [[noreturn]] void damaged(fmt::format_string<Args...> format, Args&&... args) const;
  void open_columns(uint64_t first_event);
  void load_shapes();
  void check_kind(const Shape& shape) const;
  uint64_t take_number(std::span<const std::byte>& column, const char* name);
  KnownShape& take_shape();
  uint32_t take_digest(EventKind kind);
  void take_slots(KnownShape& known, Event& event);
  std::span<const std::byte> take_write(uint64_t length, uint64_t& total);
  void take_extra(Event& event);
  void load_output_step(log::OutputStep::Reader in, Event& event);
  void load_extra(log::Extra::Reader in, Event& event);
  void load_space_op(log::SpaceOp::Reader in, SpaceOp& op);
  void check_end() const;

  std::string where_;
  capnp::FlatArrayMessageReader message_;
  log::Chunk::Reader chunk_;
  std::span<const std::byte> shape_indexes_, times_, masks_, deltas_, small_, bulk_, short_digests_;
  bool has_short_digests_ = false;
  capnp::List<uint32_t>::Reader digests_;
  capnp::List<uint64_t>::Reader output_digests_;
  capnp::List<log::Extra>::Reader extras_;
  std::vector<KnownShape> shapes_;
  std::vector<uint64_t> last_;
  uint64_t time_ = 0;
  uint32_t count_ = 0, at_ = 0, extra_at_ = 0, output_at_ = 0, digest_at_ = 0;
};

}  // namespace aftercheck::recording
