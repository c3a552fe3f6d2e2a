#include "checks/excursion.h"

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "machine/trapped_answer.h"

namespace aftercheck {
namespace {

// How deep checks may be nested: a check that reaches its own site again does so for ever.
constexpr size_t kDeepest = 256;
// Instructions are counted by their bytes; this is about their mean length.
constexpr uint64_t kBytesPerInstruction = 4;
constexpr uint64_t kNopSize = 5;
constexpr const char* kTooMuch = "writes more than 1 GiB of the program's memory";

}  // namespace

const char* name(Verdict verdict) {
  switch (verdict) {
    case Verdict::passed:
      return "passed";
    case Verdict::failed:
      return "failed";
    case Verdict::touches_world:
      return "touches the world";
    case Verdict::fault:
      return "fault";
    case Verdict::endless:
      return "endless";
    case Verdict::unsupported:
      return "unsupported";
  }
  return "?";
}

std::unique_ptr<Machine> Excursions::machine_for(const ExcursionOptions& options, AddressSpace& space,
                                                 const CpuModel& cpu) {
  if (options.translated) try {
      return create_translated_machine(space, cpu, BranchCounts::automatic, Stores::journaled);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::host_lacks) throw;
      AFTERCHECK_LOG_TO(LogTopic::checks, "checks run on the soft vCPU: {}", error.what());
    }
  return create_soft_machine(space, cpu, Stores::trapped);
}

Excursions::Excursions(AddressSpace& space, const CpuModel& cpu, Breakpoints& breakpoints,
                       ExcursionOptions options, ExcursionSites& sites)
    : options_(std::move(options)),
      sites_(sites),
      breakpoints_(breakpoints),
      space_(space),
      cpu_(cpu),
      machine_(machine_for(options_, space, cpu)),
      vcpu_(machine_->create_vcpu()),
      memory_(ExcursionMemory::create(space, *machine_)) {}

Excursions::~Excursions() = default;

void Excursions::forked() {
  vcpu_.reset();
  machine_.reset();
  machine_ = machine_for(options_, space_, cpu_);
  vcpu_ = machine_->create_vcpu();
  memory_->move_to(*machine_);
}

void Excursions::run(Vcpu& guest, uint64_t site, uint64_t check, uint64_t time_ns) {
  ++counts_.excursions;
  time_ns_ = time_ns;
  random_ = time_ns;
  memory_->begin();
  if (cpu_.kind() != CpuModelKind::portable && machine_->kind() == MachineKind::soft)
    for (const uint64_t address : vector_words_) {
      constexpr uint32_t kXmmAlone = 0;
      memory_->write(address, &kXmmAlone, sizeof kXmmAlone);
    }
  hand_over(guest, *vcpu_, breakpoints_);
  vcpu_->clear_kick();
  try {
    enter(site, check, std::min(options_.limit, UINT64_MAX / kBytesPerInstruction) * kBytesPerInstruction);
    while (!visits_.empty()) after(breakpoints_.run());
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::unsupported) throw;
    give_up(Verdict::unsupported, error.what());
  }
  breakpoints_.switch_to(guest);
  counts_.written += memory_->end();
}

// At most `code_bytes` of code may be executed from now on.
void Excursions::enter(uint64_t site, uint64_t check, uint64_t code_bytes) {
  const bool nested = !visits_.empty();
  CheckVisit& visit = visits_.emplace_back();
  visit.site = site;
  visit.nested = nested;
  Registers& registers = vcpu_->registers();
  visit.entered = registers;
  registers.rip = check;
  vcpu_->set_bounds(site + kNopSize, code_bytes);
  if (visits_.size() > kDeepest)
    give_up(Verdict::endless, fmt::format("more than {} checks inside one another", kDeepest));
}

// The innermost check is over.
void Excursions::leave() {
  CheckVisit& visit = visits_.back();
  if (visit.verdict == Verdict::passed && !visit.failures.empty()) visit.verdict = Verdict::failed;
  sites_.left(visit);
  visits_.pop_back();
  if (!visits_.empty()) vcpu_->set_bounds(visits_.back().site + kNopSize, vcpu_->code_left());
}

// None of the checks under way can go on.
void Excursions::give_up(Verdict verdict, const std::string& detail) {
  const Registers ended = vcpu_->registers();
  while (!visits_.empty()) {
    visits_.back().verdict = verdict;
    visits_.back().detail = detail;
    visits_.back().ended = ended;
    leave();
  }
}

void Excursions::after(const Exit& exit) {
  switch (exit.kind) {
    case ExitKind::breakpoint:
      return at_breakpoint();
    case ExitKind::memory_fault:
      return at_fault(exit);
    case ExitKind::syscall:
      return at_system_call();
    case ExitKind::trapped_instruction:
      return at_trapped(exit.instruction);
    case ExitKind::exception:
      return give_up(Verdict::fault, describe(exit));
    case ExitKind::kick:
      if (memory_->full()) return give_up(Verdict::fault, kTooMuch);
      if (vcpu_->code_left() == 0)
        give_up(Verdict::endless, fmt::format("more than {} instructions", options_.limit));
      return;
    case ExitKind::step:
    case ExitKind::untrapped:
      return;
  }
}

void Excursions::at_breakpoint() {
  const uint64_t rip = vcpu_->registers().rip;
  const CheckVisit& visit = visits_.back();
  // Left by a goto, or hand-written without an END. Deeper in the stack another call of the same function has
  // come by.
  if (rip == visit.site + kNopSize && vcpu_->registers().rsp >= visit.entered.rsp) return leave();
  if (!breakpoints_.at(rip)) {
    if (rip != visit.site + kNopSize) give_up(Verdict::fault, "executes INT3");
    return;
  }
  if (const std::optional<uint64_t> check = sites_.nested_check(rip)) enter(rip, *check, vcpu_->code_left());
}

void Excursions::at_fault(const Exit& exit) {
  if (memory_->open(exit.address, exit.access)) {
    ++counts_.opened_pages;
    return;
  }
  if (memory_->full()) return give_up(Verdict::fault, kTooMuch);
  give_up(Verdict::fault, describe(exit));
}

// xorshift64*, from the time of the event: the same in every replay.
uint64_t Excursions::random_word() {
  random_ |= 1;
  random_ ^= random_ >> 12;
  random_ ^= random_ << 25;
  random_ ^= random_ >> 27;
  return random_ * 0x2545'f491'4f6c'dd1d;
}

void Excursions::at_trapped(const TrappedInstruction& instruction) {
  const auto write = [this](uint64_t address, std::span<const std::byte> bytes) {
    return memory_->write(address, bytes.data(), bytes.size());
  };
  const TrappedSources sources{
      .cpu = cpu_, .clock = time_ns_, .random = [this] { return random_word(); }, .write = write};
  if (const std::optional<Exit> fault = answer_trapped(instruction, sources, space_, *vcpu_))
    give_up(Verdict::fault, describe(*fault));
}

}  // namespace aftercheck
