#include "replay-engine/landing.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>

#include "base/error.h"
#include "base/log.h"
#include "machine/exit_time.h"
#include "recording/digest.h"

namespace aftercheck {
namespace {

// Stretches up to this length are looked at before the registers: a hash of so few bytes takes 10 ns, reading
// all registers out of the soft vCPU 300.
constexpr uint64_t kSample = 256;
constexpr size_t kMostSamples = 64;

constexpr size_t kGeneral = register_number(&Registers::rip);  // the general ones come before it
constexpr size_t kXmm0 = 160, kXmmCount = 16;                  // in FXSAVE64's image (SDM vol. 1, table 10-2)

// Arrivals between two decisions. On KVM few, since each takes two exits.
constexpr uint64_t kKvmBlock = 16, kFirstSoftBlock = 16, kLastSoftBlock = 1 << 20;
// For each arrival so many blocks of values are tried as the stretch has: about what it costs to hash it.
constexpr uint64_t kSearchedPerBlock = 16, kLongestSearched = 1 << 20;

constexpr double kLongestBlock = 0.4;  // seconds
// The soft vCPU takes up to some fifty times as long for what lies between two arrivals: where that is most
// of the time it is not even tried.
constexpr double kDenseSeconds = 200e-6;

}  // namespace

bool Landing::lands_on(const recording::Event& event) {
  return event.kind == recording::EventKind::asynchronous || event.kind == recording::EventKind::preempted;
}

Landing::Landing(Guest& guest, const recording::Event& event)
    : guest_(guest),
      event_(event),
      preempted_(event.kind == recording::EventKind::preempted),
      address_(preempted_ ? event.operands.at(0) : event.rip),
      branches_(preempted_ ? event.operands.at(1) : event.branches) {}

Landing::~Landing() { disarm(); }

void Landing::begin() {
  Vcpu* const counting = branches_ ? guest_.counting_vcpu(preempted_) : nullptr;
  if (counting == nullptr && preempted_)
    fail(ErrorKind::host_lacks,
         "thread {} was stopped there, after {} branches, for another to run, and nothing here counts them; "
         "use --machine translated where the host can, and the recording is not a stranger's",
         event_.thread, *branches_);
  if (counting == nullptr) return begin_on_own();
  guest_.move(*counting);
  counted_ = true;
}

void Landing::begin_on_own() {
  guest_.move(guest_.own_vcpu());
  if (!guest_.vcpu().has_run_to()) arm();
  begin_block(kKvmBlock);
}

void Landing::arm() { armed_ = guest_.breakpoints().add(address_); }

void Landing::disarm() {
  if (std::exchange(armed_, false)) guest_.breakpoints().remove(address_);
}

// --- the state ---

// Mappings stay as they are within a segment, so this is done once, when the first arrival is there.
void Landing::look_up() {
  if (std::exchange(looked_up_, true)) return;
  if (preempted_) return;
  look_up_stretches();
  look_up_operands();
  // The handler starts with RSP at its frame.
  constexpr uint8_t kRsp = register_number(&Registers::rsp);
  for (const recording::RegisterChange& change : event_.registers)
    if (change.number == kRsp) look_up_frame(change.value);
}

void Landing::look_up_operands() {
  RegisterWords words;
  if (event_.operands.size() != words.size()) return;
  std::ranges::copy(event_.operands, words.begin());
  words_ = words;
}

// From what the event writes to guest memory.
bool Landing::copy_written(uint64_t address, std::span<std::byte> bytes) const {
  for (const recording::MemoryWrite& write : event_.writes) {
    const uint64_t skip = address - write.address;
    if (address < write.address || skip > write.bytes.size() || write.bytes.size() - skip < bytes.size())
      continue;
    std::copy_n(write.bytes.begin() + static_cast<std::ptrdiff_t>(skip), bytes.size(), bytes.begin());
    return true;
  }
  return false;
}

// A signal's frame has what the handler interrupts: the FPU, and the registers, too, which recordings of
// earlier versions have nowhere else. That it is one is not taken for granted: the digest of the event proves
// it.
void Landing::look_up_frame(uint64_t frame) {
  // struct rt_sigframe and sigcontext_64 (arch/x86/include/asm/sigframe.h, uapi/asm/sigcontext.h).
  constexpr uint64_t kContext = 48, kFpuPointer = 184;
  using R = Registers;
  constexpr std::array kSaved = {&R::r8,  &R::r9,  &R::r10, &R::r11, &R::r12, &R::r13,
                                 &R::r14, &R::r15, &R::rdi, &R::rsi, &R::rbp, &R::rbx,
                                 &R::rdx, &R::rax, &R::rcx, &R::rsp, &R::rip, &R::rflags};
  std::array<uint64_t, kSaved.size()> saved;
  if (!copy_written(frame + kContext, std::as_writable_bytes(std::span(saved)))) return;
  Registers registers = guest_.vcpu().registers();
  for (size_t i = 0; i < kSaved.size(); ++i) registers.*kSaved[i] = saved[i];
  if (!registers_match(registers)) return;
  words_ = canonical_state(registers);
  uint64_t fpu = 0;
  if (copy_written(frame + kContext + kFpuPointer, std::as_writable_bytes(std::span(&fpu, 1))))
    look_up_fpu(fpu);
}

void Landing::look_up_fpu(uint64_t address) {
  FpuState state;
  if (!event_.fpu_digest || !copy_written(address, state.fxsave)) return;
  if (recording::digest64(canonical_fpu(state)) == *event_.fpu_digest) fpu_ = state;
}

void Landing::look_up_stretches() {
  for (const recording::MemoryDigest& digest : event_.memory) {
    const bool sample = digest.length <= kSample && samples_.size() < kMostSamples;
    bool direct = digest.length != 0 && guest_.space().accessible(digest.address, digest.length, PROT_READ);
    for (uint64_t at = digest.address; direct && at < digest.address + digest.length;) {
      const Mapping& mapping = *guest_.space().find(at);
      direct = (mapping.prot & PROT_EXEC) == 0 && !(mapping.shared && mapping.backing == Backing::file);
      at = mapping.end;
    }
    // Of a file some pages may not be there.
    direct = direct && guest_.readable(digest);
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
  const RegisterWords words = canonical_state(registers);
  return (!words_ || words == *words_) &&
         recording::has_digest(event_, guest_.running().digest().peek(words));
}

// The first arrival with the identical state of registers, memory and FPU.
bool Landing::arrived() {
  if (counted_ && branches() != *branches_) return false;
  look_up();
  ++arrivals_;
  if (counted_) last_arrival_ = guest_.vcpu().registers();
  if (all_hold(samples_) && registers_match(guest_.vcpu().registers()) && all_hold(stretches_) &&
      guest_.memory_matches(event_))
    return true;
  if (counted_) return false;
  if (arrivals_ == 1)
    begin_block(block_size_);  // what came before tells nothing
  else if (arrivals_ - block_arrivals_ >= block_size_)
    end_block();
  return false;
}

bool Landing::refused_by_words(const State& state) {
  if (!words_) return false;
  if (state.word(hot_word_) != (*words_)[hot_word_]) return true;
  for (size_t i = 0; i < kGeneral; ++i) {
    if (state.word(i) == (*words_)[i]) continue;
    hot_word_ = i;
    return true;
  }
  return false;
}

bool Landing::refused_by_xmm(const State& state) {
  if (!fpu_) return false;
  const auto differs = [&](size_t number) {
    std::array<uint64_t, 2> wanted;
    std::memcpy(wanted.data(), &fpu_->fxsave[kXmm0 + sizeof wanted * number], sizeof wanted);
    return state.xmm(number) != wanted;
  };
  if (differs(hot_xmm_)) return true;
  for (size_t i = 0; i < kXmmCount; ++i) {
    if (!differs(i)) continue;
    hot_xmm_ = i;
    return true;
  }
  return false;
}

bool Landing::refused(const State& state) {
  if (counter_) {
    uint64_t now = 0;
    std::memcpy(&now, reinterpret_cast<const void*>(counter_->address), sizeof now);
    if (now != counter_->value) return true;
  }
  if (registers_first_) {
    if (refused_by_words(state)) return true;
    if (!all_hold(samples_)) {
      registers_first_ = false;
      return true;
    }
  } else {
    if (!all_hold(samples_)) return true;
    if (refused_by_words(state)) {
      registers_first_ = true;
      return true;
    }
  }
  if (refused_by_xmm(state)) return true;
  RegisterWords words;
  for (size_t i = 0; i < words.size(); ++i) words[i] = state.word(i);
  if (!registers_match(from_words(words))) return true;
  if (event_.fpu_digest && recording::digest64(canonical_fpu(state.fpu())) != *event_.fpu_digest) return true;
  return !stretches_.empty() && !holds(stretches_.front());
}

// What can't be told here is told by arrived(), where errors may be thrown.
bool Landing::passes_by(const State& state) noexcept {
  if (patience_ == 0) return false;
  try {
    if (!refused(state)) return false;
  } catch (...) {
    return false;
  }
  ++arrivals_;
  --patience_;
  return true;
}

void Landing::watch(const recording::MemoryDigest& stretch, std::span<const std::byte> now) {
  watched_ = &stretch;
  seen_.assign(now.begin(), now.end());
  seen_arrival_ = arrivals_;
}

// Where a whole stretch must be hashed at each arrival, and its arrivals differ by one word that counts.
void Landing::search_counter() {
  if (counter_ || stretches_.empty() || !stretches_.front().direct) return;
  const recording::MemoryDigest& stretch = *stretches_.front().digest;
  if (stretch.length % CounterSearch::kUnit != 0 || stretch.length > kLongestSearched) return;
  const std::span now(reinterpret_cast<const std::byte*>(stretch.address), stretch.length);
  if (watched_ != &stretch) {
    search_.reset();
    return watch(stretch, now);
  }
  const auto [was, is] = std::ranges::mismatch(seen_, now);
  if (was == seen_.end()) return;
  const auto offset = static_cast<uint64_t>(was - seen_.begin()) & ~uint64_t{7};
  uint64_t before = 0, after = 0;
  std::memcpy(&before, &seen_[offset], sizeof before);
  std::memcpy(&after, &now[offset], sizeof after);
  const auto passed = static_cast<int64_t>(arrivals_ - seen_arrival_);
  const auto change = static_cast<int64_t>(after - before);
  const bool alone = std::ranges::equal(std::span(seen_).subspan(offset + 8), now.subspan(offset + 8));
  watch(stretch, now);
  if (!alone || passed <= 0 || change % passed != 0) return search_.reset();
  const auto step = static_cast<uint64_t>(change / passed);
  if (!search_ || offset != searched_offset_ || step != searched_step_) {
    search_.emplace(now, offset, step, stretch.digest);
    searched_offset_ = offset;
    searched_step_ = step;
  }
  if (const auto value = search_->next(kSearchedPerBlock * block_size_ *
                                       (stretch.length / CounterSearch::kUnit) / search_->cost())) {
    counter_ = Word{stretch.address + offset, *value};
    search_.reset();
    AFTERCHECK_LOG_TO(LogTopic::replay, "landing at {:#x}: the word at {:#x} is {:#x} then, and {:#x} now",
                      address_, counter_->address, *value, after);
  }
}

// --- running ---

Exit Landing::go() {
  Breakpoints& breakpoints = guest_.breakpoints();
  if (counted_) return breakpoints.run_until(*branches_, address_);
  if (!guest_.vcpu().has_run_to()) return breakpoints.run();
  look_up();
  // Others who stop there want to see each arrival.
  const bool others = breakpoints.at(address_);
  patience_ = others ? 0 : block_size_;
  return breakpoints.run_to(address_, others ? nullptr : this);
}

// Of a vCPU that needs not come back for its own sake: as often as is good for whoever waits.
uint64_t Landing::next_block(double seconds) const {
  if (seconds > kLongestBlock) return std::max(block_size_ / 2, kFirstSoftBlock);
  return seconds < kLongestBlock / 4 ? std::min(block_size_ * 2, kLastSoftBlock) : block_size_;
}

void Landing::begin_block(uint64_t size) {
  block_arrivals_ = arrivals_;
  block_size_ = size;
  block_start_ = thread_seconds();
}

void Landing::end_block() {
  const double now = thread_seconds();
  if (guest_.vcpu().has_run_to()) search_counter();
  const double block_seconds = now - block_start_;
  const double seconds =
      block_seconds / static_cast<double>(std::max<uint64_t>(arrivals_ - block_arrivals_, 1));
  if (on_soft()) {
    // The first block has translating in it.
    if (seconds > kvm_seconds_ && block_size_ != kFirstSoftBlock) {
      change();
      wait_ = waits_;
      waits_ *= 2;
      return begin_block(kKvmBlock);
    }
    return begin_block(next_block(block_seconds));
  }
  if (guest_.vcpu().has_run_to()) return begin_block(next_block(block_seconds));
  kvm_seconds_ = seconds;
  if (gave_up_ || seconds > dense_seconds(kDenseSeconds) || (wait_ != 0 && --wait_ != 0))
    return begin_block(kKvmBlock);
  change();
  begin_block(kFirstSoftBlock);
}

void Landing::change() {
  const auto tell = [this](const char* to) {
    AFTERCHECK_LOG_TO(LogTopic::replay, "landing at {:#x}: after {} arrivals on to the {} vCPU", address_,
                      arrivals_, to);
  };
  if (on_soft()) {
    tell("guest's own");
    guest_.move(guest_.own_vcpu());
    if (!armed_) arm();
    return;
  }
  // Where the guest has registers that the soft vCPU lacks, translated code, which an INT3 stops for less
  // than KVM.
  const bool soft = guest_.may_be_on_soft();
  Vcpu* const other = soft ? &guest_.soft_vcpu() : guest_.counting_vcpu();
  if (other == nullptr || other == &guest_.own_vcpu()) {
    gave_up_ = true;
    return;
  }
  tell(soft ? "soft" : "translated");
  if (other->has_run_to()) disarm();
  guest_.move(*other);
}

bool Landing::give_up() {
  if (!on_soft() || preempted_) return false;
  if (std::exchange(counted_, false)) {
    AFTERCHECK_LOG_TO(LogTopic::replay, "landing at {:#x}: branches can't be counted to it", address_);
    begin_on_own();
    return true;
  }
  gave_up_ = true;
  change();
  begin_block(kKvmBlock);
  return true;
}

}  // namespace aftercheck
