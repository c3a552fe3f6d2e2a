// From blocks executed to calls and returns: whose code runs, called by whom.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "pt-trace/flow_decoder.h"
#include "pt-trace/instruction.h"

namespace aftercheck::pt {

// A function as the caller of this library numbers them.
struct FunctionAt {
  uint32_t function = 0;
  bool known = false;     // false: a number that stands for all code of a file without symbols, or of no file
  bool at_start = false;  // the address is its first
};

// Hears of what happens to the stack of calls.
class CallObserver {
 public:
  virtual ~CallObserver() = default;
  virtual void called(uint32_t function) = 0;        // on top of what there is
  virtual void returned() = 0;                       // the top one is gone
  virtual void replaced(uint32_t function) = 0;      // the top one became this: a tail call
  virtual void executed(uint64_t instructions) = 0;  // in the top one
};

// Follows calls and returns, and what breaks their order: longjmp and exceptions (a jump or return into a
// function further down), signals (tracing resumes elsewhere than it stopped, and later where it did), tail
// calls, traces that begin in mid-run or have gaps. Memory grows with the code executed and the depth of
// calls, bounded; not with the trace. Not thread-safe.
class CallTracker {
 public:
  using FunctionLookup = std::function<FunctionAt(uint64_t address)>;

  // `decoder` and `image` are those whose blocks come; all arguments must outlive the tracker.
  CallTracker(const FlowDecoder& decoder, const CodeImage& image, FunctionLookup lookup)
      : decoder_(decoder), image_(image), lookup_(std::move(lookup)) {}
  void add(CallObserver& observer) { observers_.push_back(&observer); }

  // As FlowSink gets them.
  void on_blocks(std::span<const BlockId> blocks);
  void on_event(const FlowEvent& event);
  // Another program runs now (execve), or nothing any more: all functions return.
  void reset();

  size_t depth() const { return frames_.size(); }
  static constexpr size_t most_frames = 1 << 16;

 private:
  enum class Arrival : uint8_t {
    anew,  // nothing is known of what came before
    straight,
    jump,
    call,
    near_return,
    resumed,  // tracing was off
  };
  struct Frame {
    uint32_t function;
    uint64_t return_address;  // 0: not known
    uint64_t resume;          // of a signal's handler: where the guest was; else 0
  };
  // A stretch of a block within one function.
  struct Step {
    uint32_t instructions = 0;
    uint32_t function = 0;
    uint64_t return_address =
        0;  // ends in a direct call; 0: in a jump to another function, or the block ends
  };
  struct Shape {
    uint32_t first_step = 0, steps = 0;
    uint64_t behind = 0;  // the address behind the last instruction
    FunctionAt at;
    Arrival end = Arrival::straight;
    bool ready = false;
  };

  const Shape& shape(BlockId id);
  void run(BlockId id);
  void arrive(const FunctionAt& at, uint64_t ip);
  void settle(uint64_t ip);
  void arrive_by_return(const FunctionAt& at, uint64_t ip);
  void arrive_after_pause(const FunctionAt& at, uint64_t ip);
  void arrive_anew(const FunctionAt& at);
  void push(uint32_t function, uint64_t return_address, uint64_t resume = 0);
  void pop_to(size_t depth);
  void become(uint32_t function);
  // Index of the nearest frame below the top one for which `matches`; nothing where there is none.
  template <typename Matches>
  std::optional<size_t> find_below(Matches matches) const;
  std::optional<size_t> find_function(const FunctionAt& at) const;
  void flush();

  const FlowDecoder& decoder_;
  const CodeImage& image_;
  const FunctionLookup lookup_;
  InstructionDecoder instructions_;
  std::vector<CallObserver*> observers_;
  std::vector<Shape> shapes_;
  std::vector<Step> steps_;
  std::vector<Frame> frames_;
  uint64_t executed_ = 0;  // since the stack changed
  Arrival arrival_ = Arrival::anew;
  uint64_t behind_ = 0;    // of the last block
  uint64_t expected_ = 0;  // where tracing would resume if nothing happened; 0: not known
};

}  // namespace aftercheck::pt
