#include "machine/translated/translated_vcpu.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "machine/fault_address.h"
#include "machine/trapped_answer.h"
#include "x86/decode.h"

namespace aftercheck::translated {
namespace {

// In FXSAVE64's image (SDM vol. 1, table 10-2).
constexpr size_t kX87Pointer = 8;
// What XMM registers are to YMM's.
constexpr size_t kHalf = 16;

Exit plain(ExitKind kind) { return Exit{.kind = kind}; }

Exit exception(uint8_t number) { return Exit{.kind = ExitKind::exception, .vector = number}; }

void set_gs_base(uint64_t base) {
  // Nobody else in this process sets it.
  thread_local uint64_t there = 0;
  thread_local bool known = false;
  if (known && there == base) return;
  asm volatile("wrgsbase %0" ::"r"(base));
  there = base;
  known = true;
}

// Asking the kernel at each entry would be most of a short one's cost. In a child of fork(2) the calling
// thread is another one.
thread_local int known_thread = 0;

int own_thread() {
  static const int forks = pthread_atfork(nullptr, nullptr, [] { known_thread = 0; });
  static_cast<void>(forks);
  if (known_thread == 0) known_thread = static_cast<int>(syscall(SYS_gettid));
  return known_thread;
}

}  // namespace

TranslatedVcpu::TranslatedVcpu(TranslatedMachine& machine)
    : machine_(machine), journal_(machine.journal()), fpu_(FpuState::initial()) {}

TranslatedVcpu::~TranslatedVcpu() {
  flow_ = nullptr;
  instrument_ = nullptr;
  change_teller();
  if (machine_.holder() == this) machine_.holder() = nullptr;
}

// --- state ---

// The context is this vCPU's from now on.
void TranslatedVcpu::hold() {
  TranslatedVcpu*& holder = machine_.holder();
  if (holder == this) return;
  if (holder != nullptr) holder->fpu_ = holder->fpu();
  x87_unsettled_ = holder == nullptr || holder->x87_unsettled_;
  holder = this;
  set_fpu(fpu_);
}

FpuState TranslatedVcpu::fpu() {
  if (machine_.holder() != this) return fpu_;
  const Context& c = context();
  FpuState state = FpuState::of_image(c.fpu.data());
  if (machine_.cpu().kind() == CpuModelKind::v3)
    for (size_t i = 0; i < c.ymm.size(); ++i) {
      std::memcpy(&state.fxsave[xsave::kXmm0 + i * kHalf], c.ymm[i].data(), kHalf);
      std::memcpy(&state.upper[i * kHalf], &c.ymm[i][kHalf], kHalf);
    }
  return state;
}

void TranslatedVcpu::set_fpu(const FpuState& state) {
  if (machine_.holder() != this) {
    fpu_ = state;
    return;
  }
  Context& c = context();
  // Up to the XMM registers, but for MXCSR and its mask.
  const auto same_x87 = [&state](const std::byte* image) {
    constexpr size_t kSt0 = xsave::kSt0;
    return std::memcmp(image, state.fxsave.data(), xsave::kMxcsr) == 0 &&
           std::memcmp(image + kSt0, &state.fxsave[kSt0], xsave::kXmm0 - kSt0) == 0;
  };
  static const FpuState initial = FpuState::initial();
  if (same_x87(initial.fxsave.data()))
    x87_unsettled_ = false;
  else if (!same_x87(c.fpu.data()))
    x87_unsettled_ = true;
  std::memcpy(c.fpu.data(), state.fxsave.data(), FpuState::kUsed);
  if (machine_.cpu().kind() == CpuModelKind::v3)
    for (size_t i = 0; i < c.ymm.size(); ++i) {
      std::memcpy(c.ymm[i].data(), &state.fxsave[xsave::kXmm0 + i * kHalf], kHalf);
      std::memcpy(&c.ymm[i][kHalf], &state.upper[i * kHalf], kHalf);
    }
  // Reserved bits of MXCSR fault when it is loaded.
  uint32_t mxcsr = 0;
  std::memcpy(&mxcsr, &c.fpu[xsave::kMxcsr], sizeof mxcsr);
  mxcsr &= UINT16_MAX;
  std::memcpy(&c.fpu[xsave::kMxcsr], &mxcsr, sizeof mxcsr);
}

// Checks begin with it, so it counts: of one context to another's, without a form in between.
void TranslatedVcpu::take_fpu(Vcpu& from) {
  auto* const other = dynamic_cast<TranslatedVcpu*>(&from);
  if (other == nullptr || machine_.holder() != this || other->machine_.holder() != other ||
      machine_.cpu().kind() != other->machine_.cpu().kind())
    return set_fpu(from.fpu());
  constexpr size_t kStart = offsetof(Context, fpu), kVectors = offsetof(Context, ymm);
  static_assert(kVectors == kStart + sizeof(Context::fpu));
  size_t size = sizeof(Context::fpu);
  if (machine_.cpu().kind() == CpuModelKind::v3) size += sizeof(Context::ymm);
  std::memcpy(reinterpret_cast<std::byte*>(&context()) + kStart,
              reinterpret_cast<const std::byte*>(&other->context()) + kStart, size);
  x87_unsettled_ = other->x87_unsettled_;
}

// What a processor makes of it, even if no instruction will touch it: reserved bits, and those that sum up
// others.
void TranslatedVcpu::settle_x87() {
  x87_unsettled_ = false;
  Context& c = context();
  asm volatile("fxrstor64 %0\n\tfxsave64 %0\n\tfninit\n\tldmxcsr %1"
               : "+m"(c.fpu)
               : "m"(c.host_mxcsr)
               : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
                 "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

void TranslatedVcpu::load() {
  Context& c = context();
  for (size_t i = 0; i < kByEncoding.size(); ++i) c.gpr[i] = registers_.*kByEncoding[i];
  c.rip = registers_.rip;
  registers_.rflags = (registers_.rflags & rflags::kUser) | rflags::kFixed;
  c.flags = registers_.rflags & ~rflags::kTrap;
  c.branches = branches_;
  if (machine_.counting() == Counting::memory) {
    c.slots.fill(0);
    c.slots[0] = branches_;
  }
  c.fs_base = registers_.fs_base;
  set_gs_base(registers_.fs_base);
}

// All but the trap flag, which is never in the context.
void TranslatedVcpu::store() {
  const Context& c = context();
  for (size_t i = 0; i < kByEncoding.size(); ++i) registers_.*kByEncoding[i] = c.gpr[i];
  registers_.rip = c.rip;
  registers_.rflags = (c.flags & (rflags::kUser | rflags::kNestedTask)) | rflags::kFixed |
                      (registers_.rflags & rflags::kTrap);
}

void TranslatedVcpu::count() {
  const Context& c = context();
  branches_ = machine_.counting() == Counting::vector
                  ? c.branches
                  : std::accumulate(c.slots.begin(), c.slots.end(), uint64_t{0});
}

// One branch.
void TranslatedVcpu::uncount() {
  Context& c = context();
  --c.branches;
  --c.slots[0];
  count();
}

// What the last x87 instruction was the processor tells by where its translation is.
void TranslatedVcpu::translate_x87_pointer() {
  uint64_t pointer = 0;
  auto& image = context().fpu;
  std::memcpy(&pointer, &image[kX87Pointer], sizeof pointer);
  if (pointer == shown_x87_pointer_) return;
  shown_x87_pointer_ = pointer;
  const auto place = machine_.find_place(pointer);
  if (!place || place->mark == nullptr) return;
  shown_x87_pointer_ = place->mark->guest;
  std::memcpy(&image[kX87Pointer], &shown_x87_pointer_, sizeof shown_x87_pointer_);
}

// --- kicks ---

void TranslatedVcpu::kick() noexcept {
  kicked_.store(true);
  if (const int thread = thread_.load(); thread != 0) interrupt(thread);
}

// --- running ---

void TranslatedVcpu::enter(const Translator& translator, uint64_t entry, bool goes_on) {
  if (x87_unsettled_) settle_x87();
  Context& c = context();
  if (teller_) teller_->change_paths(translator.paths());
  left_.inside = false;
  c.target = entry;
  c.exit = kLeftByKick;
  {
    const Running running(machine_, fault_, left_);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (!goes_on && kicked_.load(std::memory_order_relaxed)) return;
    using Routine = void (*)();
    reinterpret_cast<Routine>(machine_.translator().common_routines().enter)();
  }
  count();
  translate_x87_pointer();
  if (teller_ && left_.inside) teller_->went(left_.so_far);
}

// --- telling ---

bool TranslatedVcpu::set_control_flow(ControlFlow* flow) {
  if (journal_ != nullptr) return flow == nullptr;
  flow_ = flow;
  change_teller();
  return true;
}

bool TranslatedVcpu::set_instrument(Instrument* instrument) {
  if (journal_ != nullptr) return instrument == nullptr;
  instrument_ = instrument;
  change_teller();
  return true;
}

void TranslatedVcpu::change_teller() {
  const bool wanted = flow_ != nullptr || instrument_ != nullptr;
  if (!wanted && !teller_) return;
  machine_.set_notes({}, {});
  teller_.reset();
  if (!wanted) return;
  machine_.set_notes({.flow = true}, {});  // makes the buffer
  teller_ = std::make_unique<PathTeller>(flow_, instrument_, machine_.notes());
  machine_.set_notes(
      {.flow = true, .code = teller_->wants_all_paths(), .accesses = teller_->wants_accesses()},
      [this] { teller_->drain(); });
}

// What the host has executed.
void TranslatedVcpu::executed(const Instruction& instruction) {
  if (teller_) teller_->executed(instruction.address, instruction.next());
}

Exit TranslatedVcpu::run_until(uint64_t branches, uint64_t rip) {
  goal_branches_ = branches;
  goal_rip_ = rip;
  return execute(Mode::until);
}

// --- bounds ---

void TranslatedVcpu::set_bounds(uint64_t end, uint64_t code_bytes) {
  if (end != 0 && std::exchange(isolated_, end) != end) machine_.translator().isolate(end);
  end_ = end;
  context().code_left = kCodeLeftBias + std::min(code_bytes, UINT64_MAX / 2);
}

uint64_t TranslatedVcpu::code_left() const {
  const uint64_t left = context().code_left;
  return left > kCodeLeftBias ? left - kCodeLeftBias : 0;
}

// Before an instruction is executed, the `first` since the vCPU was set going?
TranslatedVcpu::Outcome TranslatedVcpu::at_bounds(bool first) {
  if (code_left() == 0) return plain(ExitKind::kick);
  if (!first && end_ != 0 && context().rip == end_) return plain(ExitKind::breakpoint);
  return std::nullopt;
}

Exit TranslatedVcpu::execute(Mode mode) {
  hold();
  load();
  machine_.guards().impose();
  const int thread = own_thread();
  // Before anybody looks at `kicked_`: who kicks stores that, then looks at `thread_`.
  thread_.store(thread);
  way_ = {};
  struct Scope {
    TranslatedVcpu& vcpu;
    ~Scope() {
      vcpu.thread_.store(0, std::memory_order_release);  // a kick that comes late does no harm
      vcpu.machine_.guards().lift();
      vcpu.store();
      if (vcpu.teller_) vcpu.teller_->stop();
    }
  } const scope{*this};
  for (bool first = true;; first = false) {
    if (journal_ != nullptr && mode == Mode::run)
      if (const Outcome exit = at_bounds(first)) return *exit;
    if (const Outcome exit = turn(mode)) return *exit;
  }
}

TranslatedVcpu::Outcome TranslatedVcpu::turn(Mode mode) {
  if (mode != Mode::step && kicked_.load() && kicked_.exchange(false)) return plain(ExitKind::kick);
  const bool traps = (registers_.rflags & rflags::kTrap) != 0;
  if (mode == Mode::step || traps) {
    if (const Outcome exit = alone()) return exit;
    return mode == Mode::step ? plain(ExitKind::step) : exception(vector::kDebug);
  }
  if (mode == Mode::until) return turn_to_goal();
  if (machine_.stepped(context().rip)) return alone();
  return block_turn(machine_.translator());
}

TranslatedVcpu::Outcome TranslatedVcpu::turn_to_goal() {
  if (branches_ < goal_branches_) {
    Outcome exit;
    if (machine_.stepped(context().rip)) {
      exit = alone();
    } else {
      Translator& stopping = machine_.stopping_translator();
      context().left = goal_branches_ - branches_;
      exit = block_turn(stopping);
    }
    // The last branch may lead there.
    if (!exit && branches_ == goal_branches_ && context().rip == goal_rip_)
      return plain(ExitKind::breakpoint);
    return exit;
  }
  // From the last branch on, instruction by instruction.
  if (branches_ == goal_branches_) {
    if (const Outcome exit = alone()) return exit;
    if (branches_ == goal_branches_)
      return context().rip == goal_rip_ ? Outcome(plain(ExitKind::breakpoint)) : std::nullopt;
  }
  return plain(ExitKind::kick);
}

TranslatedVcpu::Outcome TranslatedVcpu::block_turn(Translator& translator) {
  const uint64_t rip = context().rip;
  if (!is_canonical(rip)) return exception(vector::kGeneralProtection);
  const Block& block = translator.block(rip, std::exchange(way_, {}));
  enter(translator, block.entry, false);
  return left_block(translator);
}

TranslatedVcpu::Outcome TranslatedVcpu::left_block(Translator& translator) {
  Context& c = context();
  const auto why = static_cast<uint32_t>(c.exit);
  if (!machine_.intact() || why == kLeftAstray) went_astray();
  if (why == kLeftByKick) return std::nullopt;
  if (why == kLeftByFault) {
    if (fault_.counted) uncount();
    return fault();
  }
  if (why == kLeftUnnoted) return unnoted(translator);
  if (why == kLeftByTable) return left_by_table(translator);
  const ExitPoint exit = translator.exit(why);
  c.rip = exit.target;
  if (teller_ && exit.path != kNoPath) teller_->went(translator.paths()[exit.path]);
  switch (exit.kind) {
    case ExitPoint::Kind::link:
      way_.exit = why;
      return std::nullopt;
    case ExitPoint::Kind::special:
    case ExitPoint::Kind::stop:
      return alone();
    case ExitPoint::Kind::breakpoint:
      return plain(ExitKind::breakpoint);
    case ExitPoint::Kind::code_left:
      c.code_left = 0;
      return std::nullopt;
    case ExitPoint::Kind::system_call:
      break;
  }
  c.gpr[kRcx] = exit.target;
  c.gpr[kR11] =
      canonical_r11((c.flags & rflags::kUser) | rflags::kFixed | (registers_.rflags & rflags::kTrap));
  return plain(ExitKind::syscall);
}

// There was no room to note the path.
TranslatedVcpu::Outcome TranslatedVcpu::unnoted(Translator& translator) {
  Context& c = context();
  if (left_.inside) {  // it was an access, and its instruction comes again
    c.gpr[kRcx] = c.note_spill;
    c.gpr[kRax] = c.note_rax;
    return std::nullopt;
  }
  const Path& path = translator.paths()[left_.unnoted];
  if (path.indirect()) {
    if (is_canonical(c.rip)) teller_->went(path, c.rip);
    return left_by_table(translator, false);
  }
  teller_->went(path);
  c.gpr[kRcx] = c.note_spill;
  c.rip = path.next;
  return std::nullopt;
}

TranslatedVcpu::Outcome TranslatedVcpu::left_by_table(Translator& translator, bool noted) {
  Context& c = context();
  const Site site = translator.site(static_cast<uint32_t>(c.site));
  if (is_canonical(c.rip)) {
    way_.table = site.form == Form::ret ? Table::returns : Table::jumps;
    return std::nullopt;
  }
  // It faults before it has done anything (SDM vol. 2, CALL, JMP, RET). What CALL has overwritten below the
  // stack is lost.
  constexpr uint64_t kPointer = 8;
  if (site.form == Form::indirect_call) c.gpr[kRsp] += kPointer;
  if (site.form == Form::ret) c.gpr[kRsp] -= kPointer + site.dropped;
  if (teller_ && site.path != kNoPath) {
    if (noted) teller_->take_back_indirect();
    Path path = translator.paths()[site.path];
    path.end = path.next = site.address;
    path.accesses = site.accesses;
    path.how = PathEnd::behind;
    teller_->went(path);
  }
  c.rip = site.address;
  uncount();
  return exception(vector::kGeneralProtection);
}

// --- instructions alone ---

TranslatedVcpu::Outcome TranslatedVcpu::alone() {
  way_ = {};
  Instruction instruction;
  machine_.translator().reader().read(context().rip, instruction);
  if (journal_ != nullptr) {
    context().code_left -= std::min<uint64_t>(context().code_left, instruction.decoded.length);
    const bool all_turns = x86::is_repeated(instruction.decoded) && instruction.form == Form::copied;
    note_stores(instruction, all_turns);
    if (journal_->full()) return plain(ExitKind::kick);
    // Its turns are noted, so they need not be taken one by one.
    if (all_turns) return alone_as_it_is(instruction);
  }
  if (teller_ && teller_->wants_accesses()) return alone_observed(instruction);
  return alone_unobserved(instruction);
}

TranslatedVcpu::Outcome TranslatedVcpu::alone_unobserved(const Instruction& instruction) {
  if (instruction.form == Form::special) return special(instruction);
  if (x86::is_repeated(instruction.decoded)) return repeated(instruction);
  return alone_as_it_is(instruction);
}

// Of one turn, if it is repeated.
std::vector<MemoryAccess> TranslatedVcpu::accesses_of(const Instruction& instruction) {
  const FpuState vectors = fpu();
  return memory_accesses(instruction.code(), registers_now(), &vectors).value_or(std::vector<MemoryAccess>{});
}

// The host finds out what it accesses.
TranslatedVcpu::Outcome TranslatedVcpu::alone_observed(const Instruction& instruction) {
  const bool repeats = x86::is_repeated(instruction.decoded);
  if (!repeats) {
    teller_->expect(accesses_of(instruction));
    const Outcome exit = alone_unobserved(instruction);
    teller_->expect({});
    return exit;
  }
  if (instruction.form != Form::copied) return alone_unobserved(instruction);  // turn by turn
  // Its operands are told in one piece.
  const Registers before = registers_now();
  std::vector<MemoryAccess> accesses = accesses_of(instruction);
  const Outcome exit = alone_as_it_is(instruction);
  const uint64_t turns = before.rcx - context().gpr[kRcx];
  const uint64_t count = instruction.decoded.address_width == 32 ? static_cast<uint32_t>(turns) : turns;
  if (count == 0) return exit;
  for (MemoryAccess& access : accesses) {
    if ((before.rflags & rflags::kDirection) != 0) access.address -= (count - 1) * access.size;
    access.size *= count;
  }
  teller_->expect(std::move(accesses));
  teller_->tell_accesses(instruction.address);
  return exit;
}

TranslatedVcpu::Outcome TranslatedVcpu::alone_as_it_is(const Instruction& instruction, bool notes) {
  Translator& translator = machine_.translator();
  if (teller_) teller_->drain();
  const uint64_t entry = translator.alone(instruction, notes && teller_ != nullptr).entry;
  // A kick leads out before it; the next one is for whoever looks for it.
  do {
    enter(translator, entry, true);
  } while (context().exit == kLeftByKick);
  const Outcome exit = left_block(translator);
  if (teller_) teller_->drain();
  way_ = {};  // its numbers are gone with it
  return exit;
}

// As they are while the vCPU runs.
Registers TranslatedVcpu::registers_now() const {
  const Context& c = context();
  Registers now = registers_;
  for (size_t i = 0; i < kByEncoding.size(); ++i) now.*kByEncoding[i] = c.gpr[i];
  now.rip = c.rip;
  now.rflags = c.flags;
  return now;
}

// In the journal goes what the instruction stores, of a repeated string instruction in all its turns.
void TranslatedVcpu::note_stores(const Instruction& instruction, bool all_turns) {
  const Registers registers = registers_now();
  const auto accesses = memory_accesses(instruction.code(), registers);
  if (!accesses) return;
  machine_.guards().lift();
  for (const MemoryAccess& access : *accesses) {
    if (access.access != Access::write) continue;
    if (all_turns)
      note_turns(
          access,
          instruction.decoded.address_width == 32 ? static_cast<uint32_t>(registers.rcx) : registers.rcx,
          (registers.rflags & rflags::kDirection) != 0);
    else
      journal_->note(access.address, access.size);
  }
  machine_.guards().impose();
}

// So many, up or down from the first. What lies behind memory that can't be read is not reached.
void TranslatedVcpu::note_turns(const MemoryAccess& first, uint64_t turns, bool down) {
  uint64_t left = 0;
  if (__builtin_mul_overflow(turns, first.size, &left)) left = UINT64_MAX;
  if (!down) {
    journal_->note(first.address, std::min(left, UINT64_MAX - 1 - first.address));
    return;
  }
  for (uint64_t end = first.address + first.size; left != 0 && end > kPageSize;) {
    const uint64_t size = std::min(left, end - page_down(end - 1));
    if (!journal_->note(end - size, size) || journal_->full()) return;
    end -= size;
    left -= size;
  }
}

// One iteration (SDM vol. 2, REP): the instruction without its prefix, and what the prefix does.
TranslatedVcpu::Outcome TranslatedVcpu::repeated(const Instruction& instruction) {
  Context& c = context();
  const bool narrow = instruction.decoded.address_width == 32;
  const auto counter = [&] { return narrow ? static_cast<uint32_t>(c.gpr[kRcx]) : c.gpr[kRcx]; };
  if (counter() == 0) {
    // With 32-bit addresses some processors clear the upper half of registers even then: as the host does it.
    const Outcome exit = alone_as_it_is(instruction, false);
    if (exit || c.rip != instruction.next()) return exit;
    executed(instruction);
    return std::nullopt;
  }
  Instruction once = instruction;
  size_t kept = 0;
  bool prefixes = true;
  for (const uint8_t byte : instruction.code()) {
    constexpr uint8_t kRepne = 0xf2, kRep = 0xf3;
    const bool repeats = byte == kRepne || byte == kRep;
    if (prefixes && repeats) continue;
    if ((byte & 0xf0) == 0xa0) prefixes = false;  // the opcode: A4 to AF, but for A8 and A9
    once.bytes[kept++] = byte;
  }
  once.decoded.length = static_cast<uint8_t>(kept);
  const uint64_t before = c.gpr[kRcx];
  const bool observed = teller_ && teller_->wants_accesses();
  if (observed) teller_->expect(accesses_of(instruction));
  const Outcome exit = alone_as_it_is(once, false);
  if (exit || c.rip != once.next()) {  // it was not executed
    if (observed) teller_->expect({});
    return exit;
  }
  if (observed) teller_->tell_accesses(instruction.address);
  c.gpr[kRcx] = narrow ? static_cast<uint32_t>(before - 1) : before - 1;
  const ZydisMnemonic mnemonic = instruction.decoded.mnemonic;
  const bool compares = mnemonic == ZYDIS_MNEMONIC_CMPSB || mnemonic == ZYDIS_MNEMONIC_CMPSW ||
                        mnemonic == ZYDIS_MNEMONIC_CMPSD || mnemonic == ZYDIS_MNEMONIC_CMPSQ ||
                        mnemonic == ZYDIS_MNEMONIC_SCASB || mnemonic == ZYDIS_MNEMONIC_SCASW ||
                        mnemonic == ZYDIS_MNEMONIC_SCASD || mnemonic == ZYDIS_MNEMONIC_SCASQ;
  const bool while_equal = (instruction.decoded.attributes & ZYDIS_ATTRIB_HAS_REPNE) == 0;
  const bool goes_on = counter() != 0 && (!compares || ((c.flags & rflags::kZero) != 0) == while_equal);
  c.rip = goes_on ? instruction.address : instruction.next();
  if (!goes_on) executed(instruction);
  return std::nullopt;
}

TranslatedVcpu::Outcome TranslatedVcpu::special(const Instruction& instruction) {
  Context& c = context();
  if (const CodePatch* patch = machine_.space().patch_at(c.rip);
      patch != nullptr && std::equal(kTrapBytes.begin(), kTrapBytes.end(), instruction.bytes.begin()))
    return Exit{.kind = ExitKind::trapped_instruction, .instruction = patch->instruction};
  switch (instruction.special) {
    case Special::trapped:
      if (const auto trapped = decode_trapped(instruction.code(), machine_.cpu().kind()))
        return Exit{.kind = ExitKind::trapped_instruction, .instruction = *trapped};
      return exception(vector::kInvalidOpcode);
    case Special::cpuid:
      store();
      answer_cpuid(machine_.cpu(), registers_);
      for (size_t i = 0; i < kByEncoding.size(); ++i) c.gpr[i] = registers_.*kByEncoding[i];
      c.rip = instruction.next();
      executed(instruction);
      return std::nullopt;
    case Special::invalid_opcode:
      return exception(vector::kInvalidOpcode);
    case Special::general_protection:
      return exception(vector::kGeneralProtection);
    case Special::debug:
      c.rip = instruction.next();  // a trap, not a fault (SDM vol. 3, table 6-1)
      return exception(vector::kDebug);
    case Special::breakpoint:
      c.rip = instruction.next() - 1;  // the two-byte form as if it were the one-byte INT3 that ends there
      return plain(ExitKind::breakpoint);
    case Special::flags:
      return move_flags(instruction);
    case Special::guest_gs:
      return with_guest_gs(instruction);
    case Special::x87_pointer:
      return alone_copied(instruction);
    case Special::no_fetch:
      if (machine_.space().bring_in(instruction.target)) {
        machine_.translator().read_anew();
        return alone();
      }
      return Exit{.kind = ExitKind::memory_fault, .address = instruction.target, .access = Access::fetch};
    case Special::noted:  // only blocks are told that
    case Special::unsupported:
      break;
  }
  refuse(instruction);
}

// The instruction where it may stand alone only.
TranslatedVcpu::Outcome TranslatedVcpu::alone_copied(const Instruction& instruction) {
  Instruction copied = instruction;
  copied.form = Form::copied;
  if (x86::is_repeated(copied.decoded)) return repeated(copied);
  switch (copied.decoded.meta.category) {
    case ZYDIS_CATEGORY_CALL:
      copied.form = Form::indirect_call;
      break;
    case ZYDIS_CATEGORY_UNCOND_BR:
      copied.form = Form::indirect_jump;
      break;
    default:
      break;
  }
  return alone_as_it_is(copied);
}

TranslatedVcpu::Outcome TranslatedVcpu::with_guest_gs(const Instruction& instruction) {
  set_gs_base(registers_.gs_base);
  const Outcome exit = alone_copied(instruction);
  set_gs_base(registers_.fs_base);
  return exit;
}

// PUSHF, POPF: done here, where the trap flag is known.
TranslatedVcpu::Outcome TranslatedVcpu::move_flags(const Instruction& instruction) {
  Context& c = context();
  const bool narrow = instruction.decoded.operand_width == 16;
  const uint64_t size = narrow ? 2 : 8;
  const bool loads = instruction.decoded.mnemonic == ZYDIS_MNEMONIC_POPF ||
                     instruction.decoded.mnemonic == ZYDIS_MNEMONIC_POPFQ;
  const uint64_t address = loads ? c.gpr[kRsp] : c.gpr[kRsp] - size;
  if (!is_canonical(address) || !is_canonical(address + size - 1))
    return exception(vector::kGeneralProtection);
  constexpr uint64_t kShown = rflags::kUser | rflags::kFixed | rflags::kNestedTask;
  uint64_t value = (c.flags & kShown) | (registers_.rflags & rflags::kTrap);
  const Access access = loads ? Access::read : Access::write;
  AddressSpace& space = machine_.space();
  machine_.guards().lift();
  const std::optional<uint64_t> forbidden = first_inaccessible(space, address, size, access);
  const bool misaligned = (c.flags & rflags::kAlignmentCheck) != 0 && address % size != 0;
  const bool done = !forbidden && !misaligned &&
                    (loads ? space.read(address, &value, size) : space.write(address, &value, size));
  machine_.guards().impose();
  // Before its pages are looked at.
  if (misaligned) return exception(vector::kAlignmentCheck);
  if (!done)
    return Exit{.kind = ExitKind::memory_fault, .address = forbidden.value_or(address), .access = access};
  if (loads) {
    constexpr uint64_t kChanged = rflags::kUser | rflags::kNestedTask;
    const uint64_t changed = narrow ? kChanged & UINT16_MAX : kChanged;
    const uint64_t now = (registers_.rflags & rflags::kTrap) | (c.flags & ~rflags::kTrap);
    const uint64_t flags = (now & ~changed) | (value & changed);
    registers_.rflags = (registers_.rflags & ~rflags::kTrap) | (flags & rflags::kTrap);
    c.flags = (flags & kChanged & ~rflags::kTrap) | rflags::kFixed;
    c.gpr[kRsp] += size;
  } else {
    c.gpr[kRsp] = address;
  }
  c.rip = instruction.next();
  executed(instruction);
  return std::nullopt;
}

void TranslatedVcpu::refuse(const Instruction& instruction) const {
  fail(ErrorKind::unsupported, "the translated machine can't execute `{}` at {:#x}; use --machine kvm",
       x86::disassemble(instruction.code(), instruction.address), instruction.address);
}

void TranslatedVcpu::went_astray() const {
  fail(ErrorKind::unsupported,
       "the guest has written over memory of the translated machine's own, in code after {:#x}; use "
       "--machine kvm "
       "or --machine soft",
       registers_.rip);
}

// --- faults ---

TranslatedVcpu::Outcome TranslatedVcpu::fault() {
  const Outcome exit = outcome_of_fault();
  if (!exit) return exit;
  Registers settled = registers_now();
  if (settle_fault(machine_.space(), *exit, settled)) {
    for (size_t i = 0; i < kByEncoding.size(); ++i) context().gpr[i] = settled.*kByEncoding[i];
    context().flags = settled.rflags;
  }
  return exit;
}

TranslatedVcpu::Outcome TranslatedVcpu::outcome_of_fault() {
  switch (fault_.number) {
    case vector::kPageFault:
      return page_fault();
    case vector::kGeneralProtection:
    case vector::kStackFault:
      return exception(vector::kGeneralProtection);
    default:
      return exception(static_cast<uint8_t>(fault_.number));
  }
}

TranslatedVcpu::Outcome TranslatedVcpu::page_fault() {
  constexpr uint64_t kWrite = 2;  // SDM vol. 3, figure 4-12
  const bool write = (fault_.error_code & kWrite) != 0;
  if (journal_ != nullptr && journal_->is_overrun(fault_.address)) {
    machine_.guards().lift();
    journal_->drain();
    machine_.guards().impose();
    return journal_->full() ? Outcome(plain(ExitKind::kick)) : std::nullopt;
  }
  if (fault_.signal == SIGSEGV) {
    const PageGuards::Verdict verdict = machine_.guards().fault(fault_.address, write);
    for (const uint64_t page : verdict.code) machine_.page_written(page);
    // A store: this once, before its page, which may have the instruction itself, is guarded again.
    if (verdict.only_guarded) return alone();
  }
  if (journal_ != nullptr && write) journal_->not_stored(page_down(fault_.address));
  const Access access = write ? Access::write : Access::read;
  machine_.guards().lift();
  const uint64_t lowest = lowest_fault(
      machine_.space(), registers_now(), [this] { return fpu(); }, fault_.address, access);
  machine_.guards().impose();
  return Exit{.kind = ExitKind::memory_fault, .address = lowest, .access = access};
}

}  // namespace aftercheck::translated
