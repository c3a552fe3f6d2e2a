#include "program.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>

namespace aftercheck::pt::test {

Program::Program(Random& random, size_t blocks, ExecMode mode) : mode_(mode) {
  struct Fixup {
    size_t at;
    uint64_t instruction;
  };
  std::vector<Fixup> fixups;
  const auto add = [&](Kind kind, std::initializer_list<uint8_t> bytes, bool relative = false) {
    const uint64_t ip = base + code_.size();
    code_.insert(code_.end(), bytes);
    if (relative) {
      fixups.push_back({code_.size(), ip});
      code_.insert(code_.end(), 4, 0);
    }
    instructions_[ip] = {kind, static_cast<uint8_t>(base + code_.size() - ip), 0};
  };
  for (size_t i = 0; i < blocks; ++i) {
    starts_.push_back(base + code_.size());
    for (uint64_t n = random.below(5); n > 0; --n) {
      switch (random.below(4)) {
        case 0:
          add(Kind::plain, {0x90});
          break;
        case 1:
          add(Kind::plain, {0x89, 0xd8});
          break;
        case 2:
          add(Kind::plain, {0x83, 0xc0, 0x01});
          break;
        default:
          add(Kind::plain, {0x8b, 0x84, 0x24, 0x10, 0, 0, 0});
          break;
      }
    }
    switch (random.below(12)) {
      case 0:
        add(Kind::jump, {0xe9}, true);
        break;
      case 1:
        add(Kind::call, {0xe8}, true);
        break;
      case 2:
        add(Kind::indirect_jump, {0xff, 0xe0});
        break;
      case 3:
        add(Kind::indirect_call, {0xff, 0xd0});
        break;
      case 4:
        add(Kind::ret, {0xc3});
        break;
      case 5:
        add(Kind::system_call, {0x0f, 0x34});
        break;  // SYSENTER, valid in both modes
      default:
        add(Kind::conditional, {0x0f, 0x84}, true);
        break;
    }
  }
  // Never fall off the end, and no loop without a packet: the last instruction is an indirect jump.
  starts_.push_back(base + code_.size());
  add(Kind::indirect_jump, {0xff, 0xe0});
  for (const Fixup& fixup : fixups) {
    Instruction& instruction = instructions_[fixup.instruction];
    // Unconditional direct branches go forwards only, so every path comes to a packet.
    const auto later = std::upper_bound(starts_.begin(), starts_.end(), fixup.instruction);
    const bool forwards = instruction.kind != Kind::conditional;
    instruction.target = forwards ? *(later + static_cast<ptrdiff_t>(random.below(std::min<uint64_t>(
                                                  20, static_cast<uint64_t>(starts_.end() - later)))))
                                  : random_block(random);
    const auto displacement = static_cast<uint32_t>(instruction.target - (base + fixup.at + 4));
    for (unsigned b = 0; b < 4; ++b) code_[fixup.at + b] = static_cast<uint8_t>(displacement >> (8 * b));
  }
  code_.insert(code_.end(), 16, 0x90);
  file_ = (std::filesystem::temp_directory_path() /
           ("aftercheck-pt-test-" + std::to_string(::getpid()) + "-" + std::to_string(random.next())))
              .string();
  std::ofstream(file_, std::ios::binary)
      .write(reinterpret_cast<const char*>(code_.data()), static_cast<std::streamsize>(code_.size()));
}

Program::~Program() { std::remove(file_.c_str()); }

CodeImage Program::image() const {
  CodeImage image;
  image.map(base, std::make_shared<const std::vector<uint8_t>>(code_));
  return image;
}

RealTrace Program::as_trace(std::vector<uint8_t> bytes) const {
  RealTrace trace;
  trace.name = "made up";
  trace.bytes = std::move(bytes);
  trace.code = {{file_, 0, code_.size(), base}};
  trace.cpu = {pcv_intel, 6, 0x8f, 1};  // Sapphire Rapids: no errata
  return trace;
}

namespace {

// Branches for an encoder, one at a time or up to `most` runs at a time.
class Runs {
 public:
  Runs(Encoder& encoder, size_t most) : encoder_(encoder), most_(most) {}

  void conditional(bool taken, uint64_t next) {
    if (most_ == 0) return encoder_.conditional(taken, next);
    run_.outcomes = run_.outcomes << 1 | (taken ? 1 : 0);
    run_.next = next;
    if (++run_.count == BranchRun::kMost) end_run();
  }
  void indirect(uint64_t next) {
    if (most_ == 0) return encoder_.indirect(next);
    run_.next = next;
    run_.indirect = true;
    end_run();
  }
  void tell() {
    if (run_.count != 0) end_run();
    encoder_.branches(runs_);
    runs_.clear();
  }

 private:
  Encoder& encoder_;
  size_t most_;
  BranchRun run_;
  std::vector<BranchRun> runs_;

  void end_run() {
    runs_.push_back(run_);
    run_ = {};
    if (runs_.size() < most_) return;
    encoder_.branches(runs_);
    runs_.clear();
  }
};

}  // namespace

Program::Execution Program::execute(Random& choices, Random& host, size_t branches,
                                    const EncoderOptions& options, unsigned noise, bool in_runs) const {
  Execution execution;
  Encoder encoder(options);
  Runs runs(encoder, in_runs ? host.below(40) : 0);
  uint64_t ip = starts_[0];
  std::vector<uint64_t> arrivals;  // where branches since the last packet led
  encoder.enable(ip, mode_);
  while (branches > 0) {
    const Instruction& instruction = instructions_.at(ip);
    // Interruptions and faults strike before any instruction.
    const uint64_t strike = choices.below(400);
    if (strike < 2) {
      runs.tell();
      const uint64_t handler = random_block(choices);
      if (strike == 0) {
        encoder.asynchronous(ip, handler);
      } else {
        encoder.disable_asynchronous(ip);
        encoder.enable(handler, mode_);
      }
      ip = handler;
      arrivals = {ip};
      continue;
    }
    if (noise != 0 && host.below(noise * 4) == 0) {
      runs.tell();
      encoder.host_interruption(ip);
    }
    execution.ips.push_back(ip);
    const uint64_t behind = ip + instruction.size;
    uint64_t next = behind;
    bool branch = true;
    switch (instruction.kind) {
      case Kind::plain:
        branch = false;
        break;
      case Kind::jump:
      case Kind::call:
        next = instruction.target;
        branch = false;
        break;
      case Kind::conditional: {
        const bool taken = choices.below(3) == 0;
        if (taken) next = instruction.target;
        runs.conditional(taken, next);
        break;
      }
      case Kind::indirect_jump:
      case Kind::indirect_call:
      case Kind::ret:
        next = random_block(choices);
        // TIP.PGD could as well belong to an earlier direct or conditional branch to the same address, if
        // there is one.
        if (noise != 0 && host.below(noise) == 0 && std::ranges::count(arrivals, next) == 0) {
          runs.tell();
          encoder.host_interruption_at_indirect(next);
        } else {
          runs.indirect(next);
        }
        break;
      case Kind::system_call:
        runs.tell();
        encoder.disable();
        encoder.paging(0x5000, true);
        encoder.enable(behind, mode_);
        break;
    }
    ip = next;
    if (branch) arrivals.clear();
    arrivals.push_back(ip);
    if (!branch) continue;
    --branches;
    if (noise != 0 && host.below(noise) == 0) {
      runs.tell();
      const bool deferred = encoder.options().defer_tips;
      encoder.options() = options;
      encoder.options().defer_tips = deferred;
      encoder.options().ip_style = static_cast<IpStyle>(host.below(3));
      encoder.options().tnt_long_bits = static_cast<uint8_t>(host.below(48));
      encoder.options().pad_before_packet = static_cast<uint8_t>(host.below(4));
      encoder.core_bus_ratio(static_cast<uint8_t>(1 + host.below(255)));
    }
  }
  // End where the trace shows it: decoders go on by themselves as far as they can.
  runs.tell();
  encoder.disable_asynchronous(ip);
  execution.trace = encoder.take();
  return execution;
}

}  // namespace aftercheck::pt::test
