#include "replay-engine/landing.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/log.h"
#include "recording/digest.h"

namespace aftercheck {
namespace {

// Stretches up to this length are looked at before the registers: a hash of so few bytes takes 10 ns, reading
// all registers out of the soft vCPU 300.
constexpr uint64_t kSample = 256;
constexpr size_t kMostSamples = 64;

// Arrivals between two decisions. On KVM few, since each takes two exits.
constexpr uint64_t kKvmBlock = 16, kFirstSoftBlock = 16, kLastSoftBlock = 1 << 20;
// The soft vCPU takes up to some fifty times as long for what lies between two arrivals: where that is most
// of the time it is not even tried.
constexpr double kDenseSeconds = 200e-6;

}  // namespace

Landing::Landing(Guest& guest, GuestThread& thread, const recording::Event& event)
    : guest_(guest), thread_(thread), event_(event) {
  if (!thread_.vcpu().has_run_to()) arm();
  begin_block(on_soft() ? kFirstSoftBlock : kKvmBlock);
}

Landing::~Landing() { disarm(); }

void Landing::arm() { armed_ = guest_.breakpoints().add(event_.rip); }

void Landing::disarm() {
  if (std::exchange(armed_, false)) guest_.breakpoints().remove(event_.rip);
}

// --- the state ---

// Mappings stay as they are within a segment, so this is done once, when the first arrival is there.
void Landing::look_up_stretches() {
  if (std::exchange(looked_up_, true)) return;
  for (const recording::MemoryDigest& digest : event_.memory) {
    const bool sample = digest.length <= kSample && samples_.size() < kMostSamples;
    bool direct = digest.length != 0 && guest_.space().accessible(digest.address, digest.length, PROT_READ);
    for (uint64_t at = digest.address; direct && at < digest.address + digest.length;) {
      const Mapping& mapping = *guest_.space().find(at);
      // Of a file some pages may not be there.
      direct = (mapping.prot & PROT_EXEC) == 0 && mapping.backing == Backing::anonymous;
      at = mapping.end;
    }
    if (!sample)
      stretches_.push_back({&digest, direct});
    else if (direct)
      samples_.push_back({&digest, direct});
  }
}

bool Landing::holds(const Stretch& stretch) {
  const recording::MemoryDigest& digest = *stretch.digest;
  if (!stretch.direct) return guest_.memory_matches(digest);
  const std::span bytes(reinterpret_cast<const std::byte*>(digest.address), digest.length);
  return recording::digest128(bytes) == digest.digest;
}

bool Landing::all_hold(std::vector<Stretch>& stretches) {
  for (size_t i = 0; i < stretches.size(); ++i) {
    if (holds(stretches[i])) continue;
    std::swap(stretches[0], stretches[i]);
    return false;
  }
  return true;
}

bool Landing::registers_match(const Registers& registers) {
  return thread_.digest().peek(canonical_state(registers)) == event_.digest;
}

// The first arrival with the identical state of registers, memory and FPU.
bool Landing::arrived() {
  look_up_stretches();
  ++arrivals_;
  if (all_hold(samples_) && registers_match(thread_.registers()) && all_hold(stretches_) &&
      guest_.memory_matches(event_))
    return true;
  if (arrivals_ == 1)
    begin_block(block_size_);  // what came before tells nothing
  else if (arrivals_ - block_arrivals_ >= block_size_)
    end_block();
  return false;
}

// What can't be told here is told by arrived(), where errors may be thrown.
bool Landing::passes_by() noexcept {
  if (patience_ == 0) return false;
  if (all_hold(samples_)) return false;
  ++arrivals_;
  --patience_;
  return true;
}

bool Landing::passes_by(const Registers& registers) noexcept {
  if (patience_ == 0) return false;
  try {
    if (registers_match(registers) && (stretches_.empty() || holds(stretches_.front()))) return false;
  } catch (...) {
    return false;
  }
  ++arrivals_;
  --patience_;
  return true;
}

// --- running ---

Exit Landing::go() {
  Breakpoints& breakpoints = guest_.breakpoints();
  if (!thread_.vcpu().has_run_to()) return breakpoints.run();
  look_up_stretches();
  // Others who stop there want to see each arrival.
  const bool others = breakpoints.at(event_.rip);
  patience_ = others ? 0 : block_size_;
  return breakpoints.run_to(event_.rip, others ? nullptr : this);
}

void Landing::begin_block(uint64_t size) {
  block_arrivals_ = arrivals_;
  block_size_ = size;
  block_start_ = Clock::now();
}

void Landing::end_block() {
  const Clock::time_point now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - block_start_).count() /
                         static_cast<double>(std::max<uint64_t>(arrivals_ - block_arrivals_, 1));
  if (on_soft()) {
    // The first block has translating in it.
    if (seconds > kvm_seconds_ && block_size_ != kFirstSoftBlock) {
      change();
      wait_ = waits_;
      waits_ *= 2;
      return begin_block(kKvmBlock);
    }
    return begin_block(std::min(block_size_ * 2, kLastSoftBlock));
  }
  if (thread_.vcpu().has_run_to()) return begin_block(std::min(block_size_ * 2, kLastSoftBlock));
  kvm_seconds_ = seconds;
  if (gave_up_ || seconds > kDenseSeconds || (wait_ != 0 && --wait_ != 0)) return begin_block(kKvmBlock);
  change();
  begin_block(kFirstSoftBlock);
}

void Landing::change() {
  AFTERCHECK_LOG_TO(LogTopic::replay, "landing at {:#x}: after {} arrivals on to the {} vCPU", event_.rip,
                    arrivals_, on_soft() ? "thread's own" : "soft");
  if (on_soft()) {
    guest_.move(thread_, thread_.own_vcpu());
    arm();
  } else {
    disarm();
    guest_.move(thread_, guest_.soft_vcpu(thread_));
  }
}

bool Landing::give_up() {
  if (!on_soft()) return false;
  gave_up_ = true;
  change();
  begin_block(kKvmBlock);
  return true;
}

}  // namespace aftercheck
