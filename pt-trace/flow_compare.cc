#include "pt-trace/flow_compare.h"

#include <fmt/format.h>

#include <array>
#include <deque>
#include <vector>

#include "pt-trace/flow_decoder.h"
#include "pt-trace/instruction.h"
#include "pt-trace/packet.h"

namespace aftercheck::pt {
namespace {

FlowOptions plain_returns() {
  FlowOptions options;
  options.return_compression = false;
  return options;
}

// One of the traces, as the instructions that it leads through.
class Side : public FlowSink {
 public:
  Side(const CodeImage& image, uint64_t start)
      : start_(start), decoder_(image, static_cast<FlowSink&>(*this), plain_returns()) {}

  Side(const Side&) = delete;  // the decoder knows where this is
  Side& operator=(const Side&) = delete;

  void feed(std::span<const uint8_t> bytes) {
    if (started_) return decoder_.feed(bytes);
    head_.insert(head_.end(), bytes.begin(), bytes.end());
    skip_to_entry();
  }
  void finish() { decoder_.finish(); }

  // Whole blocks while both sides have the same ones, single instructions else.
  bool has_block() const { return instructions_.empty() && !blocks_.empty(); }
  bool empty() const { return instructions_.empty() && blocks_.empty(); }
  const FlowBlock& block() const { return decoder_.block(blocks_.front()); }
  void drop_block() { blocks_.pop_front(); }
  uint64_t instruction() {
    if (instructions_.empty()) {
      decoder_.for_each_instruction(blocks_.front(),
                                    [&](uint64_t ip, uint8_t) { instructions_.push_back(ip); });
      blocks_.pop_front();
    }
    return instructions_.front();
  }
  void drop_instruction() { instructions_.pop_front(); }

  const std::string& problem() const { return problem_; }

 private:
  const uint64_t start_;
  FlowDecoder decoder_;
  std::vector<uint8_t> head_;  // until TIP.PGE has been found
  bool started_ = false;
  std::deque<BlockId> blocks_;
  std::deque<uint64_t> instructions_;  // of the block before blocks_
  std::string problem_;

  // The address of TIP.PGE is relative to one that isn't known here, so the decoder gets it in full.
  void skip_to_entry() {
    BlockItems items = BlockItems::none;
    Packet packet;
    for (size_t at = 0; at < head_.size(); at += packet.size) {
      const DecodeStatus status = decode_packet(std::span(head_).subspan(at), items, packet);
      if (status == DecodeStatus::truncated) return;
      if (status != DecodeStatus::ok) {
        packet.size = 1;
        continue;
      }
      if (packet.type != PacketType::tip_pge) continue;
      std::vector<uint8_t> begin;
      for (size_t i = 0; i < psb_size; i += 2) begin.insert(begin.end(), {0x02, 0x82});
      // PSBEND, MODE.Exec for 64-bit code, TIP.PGE with all of the address
      begin.insert(begin.end(), {0x02, 0x23, 0x99, 0x01, 0xd1});
      for (unsigned i = 0; i < 8; ++i) begin.push_back(static_cast<uint8_t>(start_ >> (8 * i)));
      started_ = true;
      decoder_.feed(begin);
      decoder_.feed(std::span(head_).subspan(at + packet.size));
      head_.clear();
      return;
    }
  }

  void on_blocks(std::span<const BlockId> blocks) override {
    blocks_.insert(blocks_.end(), blocks.begin(), blocks.end());
  }
  void on_event(const FlowEvent& event) override {
    if (event.kind == FlowEventKind::error && problem_.empty())
      problem_ = fmt::format("{} at {:#x}", flow_status_text(event.status), event.from);
  }
};

}  // namespace

class FlowComparison::Impl {
 public:
  Impl(const CodeImage& image, uint64_t start) : image_(image), sides_{{{image, start}, {image, start}}} {}

  void feed(size_t side, std::span<const uint8_t> bytes) {
    if (difference_) return;
    sides_[side].feed(bytes);
    compare();
  }
  void finish() {
    for (Side& side : sides_) side.finish();
    compare();
  }

  const std::optional<FlowDifference>& difference() const { return difference_; }
  uint64_t instructions() const { return instructions_; }
  const std::string& problem() const {
    return sides_[0].problem().empty() ? sides_[1].problem() : sides_[0].problem();
  }

 private:
  const CodeImage& image_;
  std::array<Side, 2> sides_;
  std::optional<FlowDifference> difference_;
  uint64_t instructions_ = 0, last_ = 0;

  void compare() {
    Side &a = sides_[0], &b = sides_[1];
    while (!difference_ && !a.empty() && !b.empty()) {
      if (a.has_block() && b.has_block()) {
        const FlowBlock &x = a.block(), &y = b.block();
        if (x.ip == y.ip && x.end == y.end && x.instructions == y.instructions) {
          instructions_ += x.instructions;
          last_ = x.end;
          a.drop_block();
          b.drop_block();
          continue;
        }
      }
      const uint64_t x = a.instruction(), y = b.instruction();
      if (x != y) return differ(x, y);
      last_ = x;
      ++instructions_;
      a.drop_instruction();
      b.drop_instruction();
    }
  }

  void differ(uint64_t x, uint64_t y) {
    difference_ = FlowDifference{.instructions = instructions_, .branch = last_, .first = x, .second = y};
    const Instruction branch = InstructionDecoder().decode(image_, last_, ExecMode::bits64);
    difference_->conditional = branch.kind == InstructionKind::conditional;
    difference_->taken_target = branch.target;
  }
};

FlowComparison::FlowComparison(const CodeImage& image, uint64_t start)
    : impl_(std::make_unique<Impl>(image, start)) {}
FlowComparison::~FlowComparison() = default;
void FlowComparison::feed_first(std::span<const uint8_t> bytes) { impl_->feed(0, bytes); }
void FlowComparison::feed_second(std::span<const uint8_t> bytes) { impl_->feed(1, bytes); }
void FlowComparison::finish() { impl_->finish(); }
const std::optional<FlowDifference>& FlowComparison::difference() const { return impl_->difference(); }
uint64_t FlowComparison::instructions() const { return impl_->instructions(); }
const std::string& FlowComparison::problem() const { return impl_->problem(); }

}  // namespace aftercheck::pt
