// pt_proof MACHINE DIR [BYTES]: replays a recording on a machine that tells branches; the encoder makes PT of
// it, and libipt's block decoder and our own flow decoder must read back exactly the instructions that the
// vCPU has executed. BYTES: between PSB+, as the encoder has it if not said; 1 for as many as there can be.
// Prints one line of numbers. Exit status: 0 proved, 1 not, 2 something else went wrong.
#include <sys/mman.h>

#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "instruction_digest.h"
#include "libipt_judge.h"
#include "pt-trace/branch_stream.h"
#include "pt-trace/flow_decoder.h"
#include "replay-engine/replay.h"
#include "soft-pt/soft_tracer.h"

namespace aftercheck::test {
namespace {

// Decoded at the next exit once there is so much.
constexpr size_t kPiece = 8 << 20;

// Adds the code to what the encoder gets.
class TracerWithCode : public SoftTracer {
 public:
  TracerWithCode(Output output, const pt::EncoderOptions& options,
                 std::function<void(uint64_t, uint64_t)> code)
      : SoftTracer(std::move(output), options), code_(std::move(code)) {}
  bool wants_code() const override { return true; }
  void executed(uint64_t start, uint64_t end) override { code_(start, end); }

 private:
  std::function<void(uint64_t, uint64_t)> code_;
};

class Prover : public Participant, private pt::FlowSink {
 public:
  explicit Prover(const pt::EncoderOptions& options)
      : tracer_(
            [this](std::span<const uint8_t> bytes) {
              trace_.insert(trace_.end(), bytes.begin(), bytes.end());
              return true;
            },
            options, [this](uint64_t start, uint64_t end) { note(start, end); }),
        runs_([this](uint64_t address, uint8_t* bytes, size_t size) { return read(address, bytes, size); }) {}

  void attach(Replay& replay) override {
    guest_ = &replay.guest();
    if (!guest_->own_vcpu().set_control_flow(&tracer_))
      fail(ErrorKind::internal, "this vCPU tells no control flow");
  }
  void reached(const recording::Event& event, uint64_t number) override {
    tracer_.exited(event);
    event_ = number;
    if (changes_code(event) || trace_.size() >= kPiece) judge();
  }
  void applied(const recording::Event& event, uint64_t) override {
    // Continuations may change code too; nothing has run since the event they belong to.
    if (changes_code(event)) forget_code();
    tracer_.resume(guest_->running().registers().rip);
  }
  void finished(const ReplayResult&) override { judge(); }
  void detach() noexcept override {
    if (guest_ != nullptr) guest_->own_vcpu().set_control_flow(nullptr);
  }

  void print(const char* name) const {
    std::printf(
        "%s: %lu branches, %lu instructions, %lu PT bytes, %lu pieces, %lu libipt blocks, %lu blocks; %s\n",
        name, tracer_.totals().branches, instructions_, bytes_, pieces_, libipt_blocks_, blocks_,
        tracer_.totals().losses == 0 ? "proved" : "the vCPU lost its way");
  }
  uint64_t losses() const { return tracer_.totals().losses; }

 private:
  Guest* guest_ = nullptr;
  std::vector<uint8_t> trace_;
  TracerWithCode tracer_;
  StraightRuns runs_;
  InstructionDigest executed_, decoded_;
  std::unique_ptr<LibiptImage> libipt_;
  std::unique_ptr<pt::CodeImage> image_;
  std::unique_ptr<pt::FlowDecoder> decoder_;
  std::vector<InstructionRun> block_runs_;  // by block of the decoder
  std::string error_;
  uint64_t event_ = 0, instructions_ = 0, bytes_ = 0, pieces_ = 0, libipt_blocks_ = 0, blocks_ = 0;

  size_t read(uint64_t address, uint8_t* bytes, size_t size) const {
    while (size > 0 && !guest_->space().read(address, bytes, size)) --size;
    return size;
  }

  // Called out of the vCPU, so nothing may escape.
  void note(uint64_t start, uint64_t end) {
    try {
      executed_.append(runs_.until(start, end));
    } catch (const std::exception& problem) {
      if (error_.empty()) error_ = problem.what();
    }
  }

  bool changes_code(const recording::Event& event) const {
    if (!event.space_ops.empty() || !event.patches.empty()) return true;
    for (const recording::MemoryWrite& write : event.writes) {
      const Mapping* mapping = guest_->space().find(write.address);
      if (mapping != nullptr && (mapping->prot & PROT_EXEC) != 0) return true;
    }
    return false;
  }

  void forget_code() {
    decoder_.reset();
    image_.reset();
    libipt_.reset();
    block_runs_.clear();
    runs_.clear();
  }

  void take_code() {
    if (libipt_) return;
    libipt_ = std::make_unique<LibiptImage>();
    image_ = std::make_unique<pt::CodeImage>();
    for (const auto& [start, mapping] : guest_->space().mappings()) {
      if ((mapping.prot & PROT_EXEC) == 0) continue;
      auto bytes = std::make_shared<std::vector<uint8_t>>(mapping.end - mapping.start);
      bytes->resize(read_pages(start, *bytes));
      if (bytes->empty()) continue;
      libipt_->add(start, *bytes);
      image_->map(start, bytes);
    }
    pt::FlowOptions options;
    options.return_compression = false;
    decoder_ = std::make_unique<pt::FlowDecoder>(*image_, static_cast<pt::FlowSink&>(*this), options);
  }

  // Up to the end of the file behind the mapping.
  size_t read_pages(uint64_t start, std::vector<uint8_t>& bytes) const {
    size_t done = 0;
    while (done < bytes.size() && guest_->space().read(start + done, bytes.data() + done, kPageSize))
      done += kPageSize;
    return done;
  }

  void judge() {
    if (trace_.empty()) return;
    take_code();
    decoded_ = {};
    const std::string problem = libipt_->decode(trace_, [&](uint64_t ip, uint64_t end_ip, unsigned count) {
      ++libipt_blocks_;
      const InstructionRun& run = runs_.until(ip, end_ip + 1);
      if (run.count != count && error_.empty())
        error_ = fmt::format("libipt has {} instructions from {:#x} to {:#x}, not {}", count, ip, end_ip,
                             run.count);
      decoded_.append(run);
    });
    compare("libipt", problem.empty() ? error_ : problem);
    decoded_ = {};
    decoder_->restart();
    decoder_->feed(trace_);
    decoder_->finish();
    blocks_ += decoder_->totals().blocks;
    compare("our decoder", error_);
    ++pieces_;
    bytes_ += trace_.size();
    instructions_ += executed_.count;
    executed_ = {};
    trace_.clear();
    tracer_.synchronise();
  }

  void compare(const char* who, const std::string& problem) const {
    if (!problem.empty()) fail(ErrorKind::divergence, "up to event {}: {}", event_, problem);
    if (decoded_ != executed_)
      fail(ErrorKind::divergence,
           "up to event {}: {} has {} instructions (digest {:#x}), executed were {} ({:#x})", event_, who,
           decoded_.count, decoded_.hash, executed_.count, executed_.hash);
  }

  void on_blocks(std::span<const pt::BlockId> blocks) override {
    for (const pt::BlockId id : blocks) {
      if (block_runs_.size() <= id) block_runs_.resize(id + 1);
      InstructionRun& run = block_runs_[id];
      if (run.count == 0) decoder_->for_each_instruction(id, [&](uint64_t ip, uint8_t) { run.add(ip); });
      decoded_.append(run);
    }
  }
  void on_event(const pt::FlowEvent& event) override {
    if (event.kind == pt::FlowEventKind::error && error_.empty())
      error_ = fmt::format("our decoder at offset {}: {} at {:#x}", event.offset,
                           pt::flow_status_text(event.status), event.from);
  }
};

int prove(const char* directory, MachineChoice machine, const char* psb_period) {
  pt::EncoderOptions options;
  if (psb_period != nullptr) options.psb_period = static_cast<uint32_t>(std::stoul(psb_period));
  Prover prover(options);
  ReplayOptions replay_options;
  replay_options.directory = directory;
  replay_options.machine = machine;
  replay_options.participants = {&prover};
  replay(replay_options);
  prover.print(directory);
  return prover.losses() == 0 ? 0 : 1;
}

}  // namespace
}  // namespace aftercheck::test

int main(int count, char** arguments) {
  const std::string_view machine = count == 3 || count == 4 ? arguments[1] : "";
  if (machine != "soft" && machine != "translated") {
    std::fprintf(stderr, "usage: pt_proof soft|translated DIR [BYTES]\n");
    return 2;
  }
  try {
    return aftercheck::test::prove(
        arguments[2],
        machine == "soft" ? aftercheck::MachineChoice::soft : aftercheck::MachineChoice::translated,
        count == 4 ? arguments[3] : nullptr);
  } catch (const aftercheck::Error& error) {
    std::fprintf(stderr, "pt_proof: %s: %s\n", arguments[2], error.what());
    return error.kind() == aftercheck::ErrorKind::divergence ? 1 : 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pt_proof: %s: %s\n", arguments[2], error.what());
    return 2;
  }
}
