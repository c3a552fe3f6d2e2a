#include "replay-engine/replayer.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <vector>

#include "base/fd.h"
#include "recording/digest.h"
#include "recording/meta.h"
#include "recording/reader.h"
#include "recording/store.h"
#include "replay-engine/dense_stops.h"
#include "replay-engine/landing.h"

namespace aftercheck {
namespace {

using recording::Event;
using recording::EventKind;
using recording::SpaceOp;
using recording::SpaceOpKind;

// Progress is reported once in so many events: often enough for a terminal, too seldom to cost anything.
constexpr uint64_t kProgressEvery = 1024;

std::string describe_registers(const Registers& r) {
  return fmt::format(
      "rax {:#x} rbx {:#x} rcx {:#x} rdx {:#x} rsi {:#x} rdi {:#x} rsp {:#x} rbp {:#x} r8 {:#x} r9 {:#x} r10 "
      "{:#x} "
      "r11 {:#x} r12 {:#x} r13 {:#x} r14 {:#x} r15 {:#x} rip {:#x} rflags {:#x} fs_base {:#x} gs_base {:#x}",
      r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rsp, r.rbp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14,
      r.r15, r.rip, r.rflags, r.fs_base, r.gs_base);
}

EventKind kind_of(const Exit& exit) {
  switch (exit.kind) {
    case ExitKind::syscall:
      return EventKind::syscall;
    case ExitKind::trapped_instruction:
      return EventKind::trapped_instruction;
    case ExitKind::memory_fault:
      return EventKind::memory_fault;
    default:
      return EventKind::exception;
  }
}

std::vector<uint64_t> operands_of(const Exit& exit, const Registers& r) {
  switch (exit.kind) {
    case ExitKind::syscall:
      return {r.rax, r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9};
    case ExitKind::trapped_instruction:
      return {static_cast<uint64_t>(exit.instruction.kind), r.rax, r.rcx};
    case ExitKind::memory_fault:
      return {exit.address, static_cast<uint64_t>(exit.access)};
    case ExitKind::breakpoint:
      return {vector::kBreakpoint, 0};
    default:
      return {exit.vector, exit.error_code};
  }
}

CpuModel cpu_of(const recording::Meta& meta, const std::filesystem::path& directory) {
  for (const CpuModelKind kind : {CpuModelKind::portable, CpuModelKind::host})
    if (meta.cpu_model == name(kind)) return CpuModel(kind);
  fail(ErrorKind::unsupported, "{}: cpu_model \"{}\" is not known to this version",
       (directory / "meta").string(), meta.cpu_model);
}

class Session {
 public:
  explicit Session(const ReplayOptions& options);
  ReplayResult run();

 private:
  const ReplayOptions& options_;
  const recording::Meta meta_;
  recording::Reader reader_;
  recording::Store store_;
  const CpuModel cpu_;
  AddressSpace space_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<Vcpu> vcpu_;
  Breakpoints breakpoints_;
  std::optional<DenseStops> dense_stops_;  // where the machine was left to us
  recording::RunningDigest digest_;
  ReplayResult result_;
  std::vector<std::byte> buffer_;
  std::map<uint64_t, UniqueFd> shared_files_;  // by number
  struct Attached {
    std::vector<Participant*> list;
    ~Attached() {
      for (Participant* participant : list) participant->detach();
    }
  } attached_;  // destroyed first

  [[noreturn]] void bad(const std::string& what) const;
  bool read_memory(uint64_t address, uint64_t length);
  void stopped(Vcpu& vcpu, uint64_t address);
  Exit run_to_exit();
  Exit run_guest();
  void verify_exit(const Event& event, const Exit& exit);
  void verify_memory(const Event& event);
  std::string memory_difference(const Event& event, Vcpu& vcpu);
  void land_on(const Event& event);
  void replay_outputs(const Event& event);
  void apply(const Event& event);
  void apply_space_op(const SpaceOp& op);
  void map_blob(const SpaceOp& op, Range range);
  void map_shared(const SpaceOp& op, Range range, const recording::Store::Blob& blob);
  void grow_shared(const SpaceOp& op);
  void finish(const Event& event);
  std::string text(EventKind kind, uint64_t rip, const std::vector<uint64_t>& operands) const;
  [[noreturn]] void diverged(const Event& event, const std::string& actual, const std::string& detail) const;
};

Session::Session(const ReplayOptions& options)
    : options_(options),
      meta_(recording::read_meta(options.directory)),
      reader_(options.directory),
      store_(options.directory, false),
      cpu_(cpu_of(meta_, options.directory)),
      machine_(create_machine(options.machine, space_, cpu_)),
      vcpu_(machine_->create_vcpu()),
      breakpoints_(*vcpu_, space_) {
  result_.machine = machine_->kind();
  if (options_.machine == MachineChoice::automatic && machine_->kind() == MachineKind::kvm)
    dense_stops_.emplace(space_, cpu_, *vcpu_, breakpoints_);
  const ReplayGuest guest{*machine_, *vcpu_, space_, cpu_, breakpoints_, options_.directory};
  for (Participant* participant : options_.participants) {
    attached_.list.push_back(participant);
    participant->attach(guest);
  }
}

void Session::bad(const std::string& what) const {
  fail(ErrorKind::bad_input, "{}: event {} (in the chunk at offset {}): {}",
       (options_.directory / "events").string(), reader_.number(), reader_.chunk_offset(), what);
}

std::string Session::text(EventKind kind, uint64_t rip, const std::vector<uint64_t>& operands) const {
  auto operand = [&](size_t index) { return index < operands.size() ? operands[index] : 0; };
  std::string what;
  switch (kind) {
    case EventKind::syscall:
      what = options_.system_call_name ? options_.system_call_name(operand(0))
                                       : fmt::format("system call {}", operand(0));
      what += "(";
      for (size_t i = 1; i < operands.size(); ++i)
        what += fmt::format("{}{:#x}", i > 1 ? ", " : "", operands[i]);
      what += ")";
      break;
    case EventKind::trapped_instruction:
      what = operand(0) <= static_cast<uint64_t>(kLastTrappedKind)
                 ? std::string("instruction ") + name(static_cast<TrappedKind>(operand(0)))
                 : "unknown trapped instruction";
      break;
    case EventKind::exception:
      what = describe(Exit{.kind = ExitKind::exception,
                           .vector = static_cast<uint8_t>(operand(0)),
                           .error_code = static_cast<uint32_t>(operand(1))});
      break;
    case EventKind::memory_fault:
      what = operand(1) > 2 ? "memory fault"
                            : describe(Exit{.kind = ExitKind::memory_fault,
                                            .address = operand(0),
                                            .access = static_cast<Access>(operand(1))});
      break;
    case EventKind::asynchronous:
      what = "a signal between two exits";
      break;
    default:
      what = "no exit";
  }
  return fmt::format("{} at {:#x}", what, rip);
}

void Session::diverged(const Event& event, const std::string& actual, const std::string& detail) const {
  std::string all = detail;
  for (Participant* participant : options_.participants) {
    const std::string more = participant->explain(event, reader_.number());
    if (!more.empty()) all += "\n  " + more;
  }
  throw Divergence(reader_.number(), text(event.kind, event.rip, event.operands), actual, all);
}

void Session::verify_exit(const Event& event, const Exit& exit) {
  const Registers& registers = vcpu_->registers();
  const EventKind kind = kind_of(exit);
  const std::vector<uint64_t> operands = operands_of(exit, registers);
  const uint32_t digest = digest_.update(canonical_state(registers));
  const bool same_operands = event.operands.size() <= operands.size() &&
                             std::equal(event.operands.begin(), event.operands.end(), operands.begin());
  if (kind == event.kind && registers.rip == event.rip && same_operands && digest == event.digest) return;
  const bool only_digest = kind == event.kind && registers.rip == event.rip && same_operands;
  diverged(
      event, text(kind, registers.rip, operands),
      fmt::format("{}registers in the replay: {}",
                  only_digest
                      ? fmt::format("the exit is the same but registers differ (digest {:#010x}, recorded "
                                    "{:#010x}); ",
                                    digest, event.digest)
                      : "",
                  describe_registers(registers)));
}

// Empty when memory and FPU are as recorded, else what is not.
std::string Session::memory_difference(const Event& event, Vcpu& vcpu) {
  for (const recording::MemoryDigest& stretch : event.memory) {
    constexpr uint64_t kLongest = 64 << 20;
    if (stretch.length > kLongest || !in_windows(stretch.address, stretch.length))
      bad(fmt::format("memory digest of {} bytes at {:#x} is outside the guest", stretch.length,
                      stretch.address));
    const bool readable = read_memory(stretch.address, stretch.length);
    if (!readable || recording::digest128(buffer_) != stretch.digest)
      return fmt::format("memory {:#x}-{:#x} {}", stretch.address, stretch.address + stretch.length,
                         readable ? "has other contents" : "is not mapped");
  }
  if (event.fpu_digest && recording::digest64(canonical_fpu(vcpu.fpu())) != *event.fpu_digest)
    return "the x87 or SSE registers differ";
  return {};
}

void Session::verify_memory(const Event& event) {
  if (event.memory.empty() && !event.fpu_digest) return;
  const std::string difference = memory_difference(event, *vcpu_);
  if (!difference.empty())
    diverged(event, "the same exit with the same general registers",
             difference + "; it went wrong after the last event before this one that has memory digests");
  result_.memory_digests += event.memory.size();
}

// Brings the guest to the instant that an asynchronous event was recorded at: the first arrival at its RIP
// with the identical state of registers, memory and FPU. On KVM each arrival costs two exits, so after some
// the rest of the segment is left to the soft vCPU, which works on the same memory.
void Session::land_on(const Event& event) {
  constexpr uint64_t kArrivalsOnKvm = 2000;
  LandingTarget target;
  target.rip = event.rip;
  target.registers_match = [&](Vcpu& vcpu) {
    return digest_.peek(canonical_state(vcpu.registers())) == event.digest;
  };
  target.all_matches = [&](Vcpu& vcpu) { return memory_difference(event, vcpu).empty(); };

  const bool on_kvm = machine_->kind() == MachineKind::kvm;
  Landing landing =
      land(*vcpu_, breakpoints_, target, on_kvm ? kArrivalsOnKvm : std::numeric_limits<uint64_t>::max(),
           [&](uint64_t address) { stopped(*vcpu_, address); });
  if (landing.kind == Landing::Kind::gave_up) {
    const std::unique_ptr<Machine> machine = create_soft_machine(space_, cpu_);
    const std::unique_ptr<Vcpu> soft = machine->create_vcpu();
    soft->registers() = vcpu_->registers();
    soft->set_fpu(vcpu_->fpu());
    breakpoints_.switch_to(*soft);
    landing = land(*soft, breakpoints_, target, std::numeric_limits<uint64_t>::max(),
                   [&](uint64_t address) { stopped(*soft, address); });
    breakpoints_.switch_to(*vcpu_);
    vcpu_->registers() = soft->registers();
    vcpu_->set_fpu(soft->fpu());
  }
  if (landing.kind != Landing::Kind::landed)
    diverged(
        event,
        text(kind_of(landing.exit), vcpu_->registers().rip, operands_of(landing.exit, vcpu_->registers())),
        fmt::format(
            "the guest left the segment without passing the recorded state at {:#x} ({} arrivals there)",
            event.rip, landing.arrivals));
  digest_.update(canonical_state(vcpu_->registers()));
  result_.memory_digests += event.memory.size();
}

void Session::replay_outputs(const Event& event) {
  for (const recording::Output& output : event.outputs) {
    recording::OutputDigest digest;
    // Twice over the pieces: nothing is shown before all of it is known to be right.
    for (const bool show : {false, true}) {
      if (show && (output.stream == 0 || !options_.output)) break;
      for (const recording::Output::Piece& piece : output.pieces) {
        constexpr size_t kPart = 1 << 20;
        for (uint64_t done = 0; done < piece.length;) {
          const size_t size = std::min<uint64_t>(kPart, piece.length - done);
          if (!in_windows(piece.address, piece.length) || !read_memory(piece.address + done, size))
            diverged(event, "the same exit",
                     fmt::format("output at {:#x} can't be read in the replay", piece.address));
          if (show)
            options_.output(output.stream, buffer_.data(), size);
          else
            digest.update(buffer_);
          done += size;
        }
      }
      if (!show && digest.value() != output.digest)
        diverged(event, "the same exit with the same registers",
                 fmt::format("what the program writes to descriptor {} has other bytes", output.fd));
    }
  }
}

void Session::map_blob(const SpaceOp& op, Range range) {
  recording::Store::Blob blob = store_.open(op.blob);
  if (!op.shared) {
    if (const int error =
            space_.map_file(range, static_cast<int>(op.prot), blob.fd.get(), op.blob_offset, false, op.name);
        error != 0)
      bad(fmt::format("mapping of {} at {:#x} fails: {}", op.name, op.address, errno_text(-error)));
    return;
  }
  map_shared(op, range, blob);
}

// A file that the guest maps shared is a memory file here: all mappings of it see what each writes. It is as
// long as any mapping needs, because the guest's file may have grown meanwhile.
void Session::map_shared(const SpaceOp& op, Range range, const recording::Store::Blob& blob) {
  constexpr uint64_t kLongestFile = uint64_t{1} << 43;
  if (op.new_length % kPageSize != 0 || op.new_length > kLongestFile)
    bad(fmt::format("mapping of {} at {:#x}: offset {:#x} in the file", op.name, op.address, op.new_length));
  UniqueFd own;
  UniqueFd& file = op.new_address == 0 ? own : shared_files_[op.new_address];
  if (file.get() < 0) file = UniqueFd(memfd_create("guest file", MFD_CLOEXEC));
  const uint64_t end = op.new_length + range.size();
  struct stat status {};
  if (fstat(file.get(), &status) != 0 ||
      (static_cast<uint64_t>(status.st_size) < end && ftruncate(file.get(), static_cast<off_t>(end)) != 0))
    fail(ErrorKind::io, "memory for the file {}, which the program shares: {}", op.name, errno_text(errno));
  // Of a file that was kept whole all is put in: the mapping may grow.
  const bool whole = op.new_length == op.blob_offset;
  constexpr size_t kPart = 1 << 20;
  buffer_.resize(kPart);
  for (uint64_t done = whole ? 0 : op.blob_offset; whole || done < op.blob_offset + range.size();) {
    const ssize_t got = pread(blob.fd.get(), buffer_.data(), kPart, static_cast<off_t>(done));
    if (got <= 0) break;
    const auto place = static_cast<off_t>(op.new_length - op.blob_offset + done);
    if (pwrite(file.get(), buffer_.data(), static_cast<size_t>(got), place) != got)
      fail(ErrorKind::io, "memory for the file {}, which the program shares: {}", op.name, errno_text(errno));
    done += static_cast<uint64_t>(got);
  }
  if (const int error = space_.map_file(range, static_cast<int>(op.prot), file.get(), op.new_length, true,
                                        op.name, 0, op.new_address);
      error != 0)
    bad(fmt::format("mapping of {} at {:#x} fails: {}", op.name, op.address, errno_text(-error)));
}

// What a shared mapping grows into must be there.
void Session::grow_shared(const SpaceOp& op) {
  const Mapping* mapping = space_.find(op.address);
  if (mapping == nullptr || !mapping->shared || mapping->backing != Backing::file) return;
  const auto file = shared_files_.find(mapping->inode);
  if (file == shared_files_.end()) return;
  const uint64_t end = mapping->offset + (op.address - mapping->start) + op.new_length;
  struct stat status {};
  if (fstat(file->second.get(), &status) == 0 && static_cast<uint64_t>(status.st_size) < end &&
      ftruncate(file->second.get(), static_cast<off_t>(end)) != 0)
    fail(ErrorKind::io, "memory for the file {}, which the program shares: {}", mapping->name,
         errno_text(errno));
}

void Session::apply_space_op(const SpaceOp& op) {
  if (op.kind == SpaceOpKind::clear) {
    space_.clear();
    breakpoints_.forget({0, UINT64_MAX});
    return;
  }
  constexpr uint32_t kProtections = PROT_READ | PROT_WRITE | PROT_EXEC;
  if (!in_windows(op.address, op.length) || (op.prot & ~kProtections) != 0)
    bad(fmt::format("change of mappings at {:#x}, {} bytes, protection {:#x}: outside the guest", op.address,
                    op.length, op.prot));
  const Range range{op.address, op.address + op.length};
  const int prot = static_cast<int>(op.prot);
  int error = 0;
  switch (op.kind) {
    case SpaceOpKind::map_anonymous:
      error = space_.map_anonymous(range, prot, op.shared, op.name);
      break;
    case SpaceOpKind::map_blob:
      map_blob(op, range);
      break;
    case SpaceOpKind::unmap:
      error = space_.unmap(range);
      break;
    case SpaceOpKind::protect:
      error = space_.protect(range, prot);
      break;
    case SpaceOpKind::remap:
      if (!in_windows(op.new_address, op.new_length)) error = -EINVAL;
      if (error == 0) grow_shared(op);
      if (error == 0) error = space_.remap(range, {op.new_address, op.new_address + op.new_length});
      break;
    case SpaceOpKind::discard:
      error = space_.discard(range);
      break;
    case SpaceOpKind::clear:
      break;
  }
  if (op.kind != SpaceOpKind::protect) breakpoints_.forget(range);
  if (op.kind == SpaceOpKind::remap) breakpoints_.forget({op.new_address, op.new_address + op.new_length});
  if (error != 0)
    bad(fmt::format("change {} of mappings at {:#x}, {} bytes, fails: {}", static_cast<unsigned>(op.kind),
                    op.address, op.length, errno_text(-error)));
}

void Session::apply(const Event& event) {
  for (const SpaceOp& op : event.space_ops) apply_space_op(op);
  for (const recording::MemoryWrite& write : event.writes) {
    if (!space_.write(write.address, write.bytes.data(), write.bytes.size()))
      bad(fmt::format("write of {} bytes to {:#x}, which is not mapped", write.bytes.size(), write.address));
    breakpoints_.forget({write.address, write.address + write.bytes.size()});
  }
  for (const recording::CodePatch& patch : event.patches) {
    CodePatch applied;
    applied.address = patch.address;
    applied.instruction = {static_cast<TrappedKind>(patch.kind), patch.length, patch.operand,
                           patch.operand_bits};
    applied.original = patch.original;
    if (patch.kind > static_cast<uint8_t>(kLastTrappedKind) || !space_.apply_patch(applied))
      bad(fmt::format("code patch at {:#x} does not fit the code there", patch.address));
  }
  RegisterWords words = to_words(vcpu_->registers());
  for (const recording::RegisterChange& change : event.registers) {
    if (change.number >= kRegisterCount) bad(fmt::format("register number {}", change.number));
    words[change.number] = change.value;
  }
  vcpu_->registers() = from_words(words);
  for (const uint64_t base : {vcpu_->registers().fs_base, vcpu_->registers().gs_base})
    if (!is_canonical(base)) bad(fmt::format("the segment base {:#x} is not canonical", base));
  if (!event.fpu.empty()) {
    FpuState state;
    if (event.fpu.size() != state.fxsave.size()) bad(fmt::format("FPU state of {} bytes", event.fpu.size()));
    std::copy(event.fpu.begin(), event.fpu.end(), state.fxsave.begin());
    constexpr size_t kMxcsr = 24;  // SDM vol. 1, table 10-2
    uint32_t mxcsr = 0;
    std::memcpy(&mxcsr, &state.fxsave[kMxcsr], sizeof mxcsr);
    if (mxcsr > 0xffff) bad(fmt::format("MXCSR {:#x} has reserved bits", mxcsr));
    vcpu_->set_fpu(state);
  }
}

void Session::finish(const Event& event) {
  if (event.operands.size() != 2 ||
      event.operands[0] > static_cast<uint64_t>(recording::EndReason::recording_stopped))
    bad("the end event is malformed");
  result_.signaled = event.operands[0] == static_cast<uint64_t>(recording::EndReason::killed_by_signal);
  result_.status = static_cast<int>(event.operands[1]);
}

// Guest memory, as it is without breakpoints, into buffer_.
bool Session::read_memory(uint64_t address, uint64_t length) {
  buffer_.resize(length);
  if (!space_.read(address, buffer_.data(), length)) return false;
  breakpoints_.restore_original(address, buffer_);
  return true;
}

void Session::stopped(Vcpu& vcpu, uint64_t address) {
  for (Participant* participant : options_.participants) participant->stopped(vcpu, address);
}

// To the next exit, with a visit to every breakpoint on the way.
Exit Session::run_to_exit() {
  if (dense_stops_) dense_stops_->begin();
  for (;;) {
    Vcpu* vcpu = dense_stops_ ? &dense_stops_->vcpu() : vcpu_.get();
    // The answer before may have put the guest on a breakpoint.
    if (const uint64_t rip = vcpu->registers().rip; breakpoints_.at(rip)) {
      stopped(*vcpu, rip);
      if (dense_stops_) dense_stops_->stopped();
    }
    try {
      const Exit exit = breakpoints_.run();
      if (dense_stops_) vcpu = &dense_stops_->vcpu();
      if (exit.kind == ExitKind::breakpoint && breakpoints_.at(vcpu->registers().rip)) continue;
      if (dense_stops_) dense_stops_->finish();
      return exit;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::unsupported || !dense_stops_ || !dense_stops_->give_up()) throw;
    }
  }
}

// What the host can't do may be the recording's doing.
Exit Session::run_guest() {
  try {
    return run_to_exit();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::host_lacks) throw;
    fail(ErrorKind::host_lacks, "{}: event {}: {}", (options_.directory / "events").string(),
         reader_.number(), error.what());
  }
}

ReplayResult Session::run() {
  const Event* event = reader_.next();
  if (event != nullptr) {
    if (event->kind != EventKind::start) bad("the first event is not the start of a guest");
    apply(*event);
    for (Participant* participant : options_.participants) participant->applied(*event, reader_.number());
  }
  while (event != nullptr && (event = reader_.next()) != nullptr) {
    if (event->kind == EventKind::end) {
      finish(*event);
      break;
    }
    if (event->kind == EventKind::start) bad("a second start");
    if (event->kind != EventKind::continuation) {
      for (Participant* participant : options_.participants) participant->running(reader_.number() - 1);
      if (event->kind == EventKind::asynchronous) {
        land_on(*event);
      } else {
        verify_exit(*event, run_guest());
        verify_memory(*event);
      }
      replay_outputs(*event);
      for (Participant* participant : options_.participants) participant->reached(*event, reader_.number());
      ++result_.events;
      if (options_.progress && result_.events % kProgressEvery == 0)
        options_.progress(reader_.progress(), result_.events);
    }
    apply(*event);
    for (Participant* participant : options_.participants) participant->applied(*event, reader_.number());
  }
  result_.truncated = reader_.truncated(&result_.truncation);
  for (Participant* participant : options_.participants) participant->finished(result_);
  return result_;
}

}  // namespace

Divergence::Divergence(uint64_t event, const std::string& expected, const std::string& actual,
                       const std::string& detail)
    : Error(ErrorKind::divergence,
            fmt::format("the replay diverges at event {}\n  expected: {}\n  came:     {}\n  {}", event,
                        expected, actual, detail)),
      event_(event),
      expected_(expected),
      actual_(actual),
      detail_(detail) {}

ReplayResult replay(const ReplayOptions& options) {
  Session session(options);
  return session.run();
}

}  // namespace aftercheck
