// Follows a PT trace through the code image to every block that executed.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "pt-trace/code_image.h"
#include "pt-trace/errata.h"
#include "pt-trace/flow_block.h"

namespace aftercheck::pt {

struct FlowOptions {
  ExecMode mode = ExecMode::bits64;  // until the trace says
  // Returns may be written as taken outcomes (IA32_RTIT_CTL.DisRETC clear). Set to false where it is known
  // that they were not: decoding is faster.
  bool return_compression = true;
  Errata errata;
  // The address filters; empty: none, or not known. Needed where the errata have skl014.
  std::vector<AddressRange> filter{};
};

enum class FlowEventKind : uint8_t {
  enabled,         // tracing on at `to`
  disabled,        // off, by an instruction; `to` where has_to
  async_disabled,  // off, before the instruction at `from`
  async_branch,    // from, to
  overflow,        // packets lost; goes on at `to` where has_to
  transaction,     // at `from`; `detail`: bit 0 in transaction, bit 1 aborted
  ptwrite,         // `detail`: payload
  mode,            // `detail`: ExecMode
  error,           // `status` tells what; decoding goes on at the next packet that has an address
};

enum class FlowStatus : uint8_t {
  ok,
  bad_packet,         // the bytes are no packet
  no_code,            // the image has no instruction at `from`
  wrong_packet,       // the packet does not fit the code at `from`
  event_not_reached,  // the code at `from` does not come by `to` before its next branch
  empty_call_stack,   // compressed return without a call
  call_not_seen,      // compressed return at `from`, whose call may lie in what could not be followed before
  endless_loop,       // the code at `from` never asks for a packet
};
std::string_view flow_status_text(FlowStatus status);

struct FlowEvent {
  FlowEventKind kind = FlowEventKind::error;
  FlowStatus status = FlowStatus::ok;
  bool has_to = false;
  uint64_t offset = 0;  // of the packet in the trace
  uint64_t from = 0;
  uint64_t to = 0;
  uint64_t detail = 0;
};

// Receives what executed, in order. May change the code image in its callbacks; the change counts from the
// next block on.
class FlowSink {
 public:
  virtual ~FlowSink() = default;
  // Blocks executed one after the other. Look them up with FlowDecoder::block().
  virtual void on_blocks(std::span<const BlockId> blocks) = 0;
  virtual void on_event(const FlowEvent& event) { static_cast<void>(event); }
};

struct FlowTotals {
  uint64_t bytes = 0;
  uint64_t blocks = 0;  // executed
  uint64_t errors = 0;
  uint64_t overflows = 0;
};

// Takes the trace in pieces of any size. Memory grows with the code executed, not with the trace. Not
// thread-safe.
class FlowDecoder {
 public:
  // Image and sink must outlive the decoder.
  FlowDecoder(const CodeImage& image, FlowSink& sink, const FlowOptions& options = {});
  ~FlowDecoder();
  FlowDecoder(FlowDecoder&&) noexcept;
  FlowDecoder& operator=(FlowDecoder&&) noexcept;

  void feed(std::span<const uint8_t> bytes);
  // AUX data was lost here: goes on at the next PSB.
  void mark_lost();
  // No more trace: reports the instructions that can be followed without it.
  void finish();
  // Forgets the trace and starts over with a new one, keeping what is known of the code.
  void restart();

  // By id, as given to the sink.
  const FlowBlock& block(BlockId id) const;
  // Known ids are 2 ... block_count() + 1.
  size_t block_count() const;
  // Calls `visit(address, size)` for each instruction of a block, as the image is now.
  template <typename Visit>
  void for_each_instruction(BlockId id, Visit visit) const {
    const FlowBlock& b = block(id);
    uint64_t ip = b.ip;
    for (uint32_t i = 0; i < b.instructions; ++i) {
      uint8_t size = 0;
      const uint64_t next = step(ip, b.mode, size);
      visit(ip, size);
      ip = next;
    }
  }
  const FlowTotals& totals() const;

 private:
  uint64_t step(uint64_t ip, ExecMode mode, uint8_t& size) const;
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace aftercheck::pt
