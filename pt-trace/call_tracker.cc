#include "pt-trace/call_tracker.h"

#include <algorithm>
#include <utility>

namespace aftercheck::pt {
namespace {

// How far down a return's counterpart is looked for: code that computes its returns must not cost more.
constexpr size_t kLookDown = 1024;

}  // namespace

const CallTracker::Shape& CallTracker::shape(BlockId id) {
  if (id >= shapes_.size()) shapes_.resize(std::max<size_t>(id + 1, shapes_.size() * 2));
  Shape& shape = shapes_[id];
  if (shape.ready) return shape;
  const FlowBlock block = decoder_.block(id);
  shape.ready = true;
  shape.at = lookup_(block.ip);
  shape.first_step = static_cast<uint32_t>(steps_.size());
  const uint64_t mask = block.mode == ExecMode::bits64 ? ~uint64_t{0} : 0xffffffff;
  Step step{0, shape.at.function, 0};
  uint64_t ip = block.ip;
  for (uint32_t i = 0; i < block.instructions; ++i) {
    const Instruction instruction = instructions_.decode(image_, ip, block.mode);
    const bool last = i + 1 == block.instructions;
    const uint64_t behind = (ip + instruction.size) & mask;
    shape.behind = behind;
    ++step.instructions;
    ip = behind;
    shape.end = Arrival::straight;
    switch (instruction.kind) {
      case InstructionKind::direct_call:
      case InstructionKind::direct_jump: {
        ip = instruction.target;
        // A call to the next instruction only reads its own address.
        const bool is_call = instruction.kind == InstructionKind::direct_call && ip != behind;
        if (last && is_call) shape.end = Arrival::call;
        if (last) break;
        const FunctionAt target = lookup_(ip);
        if (!is_call && target.function == step.function) break;
        step.return_address = is_call ? behind : 0;
        steps_.push_back(step);
        step = {0, target.function, 0};
        break;
      }
      case InstructionKind::indirect_call:
      case InstructionKind::far_call:
        shape.end = Arrival::call;
        break;
      case InstructionKind::indirect_jump:
        shape.end = Arrival::jump;
        break;
      case InstructionKind::near_return:
      case InstructionKind::far_return:
        shape.end = Arrival::near_return;
        break;
      case InstructionKind::conditional:
      case InstructionKind::write_cr3:
      case InstructionKind::other:
        break;
    }
  }
  steps_.push_back(step);
  shape.steps = static_cast<uint32_t>(steps_.size()) - shape.first_step;
  return shape;
}

void CallTracker::on_blocks(std::span<const BlockId> blocks) {
  for (const BlockId id : blocks) run(id);
}

void CallTracker::run(BlockId id) {
  const Shape& shape = this->shape(id);
  arrive(shape.at, decoder_.block(id).ip);
  for (uint32_t i = 0; i < shape.steps; ++i) {
    const Step& step = steps_[shape.first_step + i];
    executed_ += step.instructions;
    if (i + 1 == shape.steps) break;
    const uint32_t next = steps_[shape.first_step + i + 1].function;
    if (step.return_address != 0)
      push(next, step.return_address);
    else
      become(next);
  }
  arrival_ = shape.end;
  behind_ = shape.behind;
}

void CallTracker::arrive(const FunctionAt& at, uint64_t ip) {
  if (frames_.empty()) return push(at.function, 0);
  switch (arrival_) {
    case Arrival::straight:
      return become(at.function);
    case Arrival::call:
      return push(at.function, behind_);
    case Arrival::near_return:
      return arrive_by_return(at, ip);
    case Arrival::jump:
      // Into the middle of a function that waits further down: longjmp, or an exception's landing pad.
      if (at.function != frames_.back().function && at.known && !at.at_start)
        if (const auto found = find_function(at)) return pop_to(*found + 1);
      return become(at.function);
    case Arrival::resumed:
      return arrive_after_pause(at, ip);
    case Arrival::anew:
      return arrive_anew(at);
  }
}

void CallTracker::arrive_by_return(const FunctionAt& at, uint64_t ip) {
  if (frames_.size() > 1 && frames_.back().return_address == ip) {
    pop_to(frames_.size() - 1);
  } else if (const auto frame = find_below([ip](const Frame& f) { return f.return_address == ip; });
             frame && *frame > 0) {
    pop_to(*frame);
  } else if (const auto function = find_function(at); function && !at.at_start) {
    pop_to(*function + 1);
  }
  become(at.function);
}

void CallTracker::arrive_after_pause(const FunctionAt& at, uint64_t ip) {
  if (ip == expected_) return become(at.function);
  const auto handler = [ip](const Frame& frame) { return frame.resume == ip; };
  if (frames_.back().resume != 0 && handler(frames_.back())) {
    pop_to(frames_.size() - 1);
  } else if (const auto frame = find_below(handler)) {
    pop_to(*frame);
  } else if (frames_.back().return_address == ip) {
    // A call led out of the traced range and has returned.
    pop_to(frames_.size() - 1);
  } else if (expected_ != 0 && (at.at_start || !at.known)) {
    return push(at.function, 0, expected_);
  } else {
    return arrive_anew(at);
  }
  if (frames_.empty()) return push(at.function, 0);
  become(at.function);
}

void CallTracker::arrive_anew(const FunctionAt& at) {
  if (frames_.back().function == at.function) return;
  if (const auto found = find_function(at)) return pop_to(*found + 1);
  pop_to(0);
  push(at.function, 0);
}

template <typename Matches>
std::optional<size_t> CallTracker::find_below(Matches matches) const {
  const size_t lowest = frames_.size() > kLookDown ? frames_.size() - kLookDown : 0;
  for (size_t i = frames_.size() - 1; i-- > lowest;)
    if (matches(frames_[i])) return i;
  return std::nullopt;
}

std::optional<size_t> CallTracker::find_function(const FunctionAt& at) const {
  if (!at.known) return std::nullopt;
  return find_below([&at](const Frame& frame) { return frame.function == at.function; });
}

void CallTracker::push(uint32_t function, uint64_t return_address, uint64_t resume) {
  if (frames_.size() >= most_frames) return;
  flush();
  frames_.push_back({function, return_address, resume});
  for (CallObserver* observer : observers_) observer->called(function);
}

void CallTracker::pop_to(size_t depth) {
  if (frames_.size() > depth) flush();
  while (frames_.size() > depth) {
    frames_.pop_back();
    for (CallObserver* observer : observers_) observer->returned();
  }
}

void CallTracker::become(uint32_t function) {
  if (frames_.back().function == function) return;
  flush();
  frames_.back().function = function;
  for (CallObserver* observer : observers_) observer->replaced(function);
}

void CallTracker::flush() {
  const uint64_t count = std::exchange(executed_, 0);
  if (count == 0 || frames_.empty()) return;
  for (CallObserver* observer : observers_) observer->executed(count);
}

// The guest was about to execute `ip` when something else happened: the branch there counts all the same.
void CallTracker::settle(uint64_t ip) {
  if (arrival_ != Arrival::call && arrival_ != Arrival::jump && arrival_ != Arrival::near_return) return;
  arrive(lookup_(ip), ip);
  arrival_ = Arrival::straight;
}

void CallTracker::on_event(const FlowEvent& event) {
  switch (event.kind) {
    case FlowEventKind::enabled:
      // The first time nothing was paused.
      if (arrival_ != Arrival::anew) arrival_ = Arrival::resumed;
      break;
    case FlowEventKind::disabled:
      expected_ = behind_;
      arrival_ = Arrival::resumed;
      break;
    case FlowEventKind::async_disabled:
      settle(event.from);
      expected_ = event.from;
      arrival_ = Arrival::resumed;
      break;
    case FlowEventKind::async_branch:
      settle(event.from);
      arrival_ = Arrival::call;
      behind_ = event.from;
      break;
    case FlowEventKind::transaction:
      // An abort's handler is in the function that began the transaction.
      if ((event.detail & 2) != 0) arrival_ = Arrival::straight;
      break;
    case FlowEventKind::overflow:
    case FlowEventKind::error:
      expected_ = 0;
      arrival_ = Arrival::anew;
      break;
    case FlowEventKind::ptwrite:
    case FlowEventKind::mode:
      break;
  }
}

void CallTracker::reset() {
  pop_to(0);
  flush();
  executed_ = expected_ = 0;
  arrival_ = Arrival::anew;
}

}  // namespace aftercheck::pt
