#include "replay-engine/guest.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/space_description.h"
#include "machine/dense_exits.h"

namespace aftercheck {

using recording::Event;
using recording::SpaceOp;
using recording::SpaceOpKind;

namespace {

// Numbers are not used again, so this is how many threads a recording may start: for those that had one a bit
// is kept.
constexpr uint32_t kLastThread = (1 << 26) - 1;

}  // namespace

Guest::Guest(GuestOptions options, recording::Store& store)
    : options_(std::move(options)),
      store_(store),
      machine_(create_machine(options_.machine, space_, options_.cpu, options_.needs)),
      own_(create_leaving_vcpu(*machine_, space_, options_.cpu)),
      vcpu_(own_.get()),
      running_(threads_.emplace(0, std::make_unique<GuestThread>(0)).first->second.get()),
      pages_(std::make_unique<PageMap>()) {
  running_->vcpu_ = vcpu_;
  breakpoints_.emplace(*vcpu_, space_);
}

Guest::~Guest() = default;

void Guest::bad(const std::string& what) const {
  fail(ErrorKind::bad_input, "{}: {}", options_.where(), what);
}

// --- threads ---

void GuestThread::set_fpu(const FpuState& state) {
  if (vcpu_ != nullptr)
    vcpu_->set_fpu(state);
  else
    fpu_ = state;
}

GuestThread& Guest::thread(uint32_t number) {
  const auto found = threads_.find(number);
  if (found == threads_.end())
    bad(fmt::format(
        "it is of thread {}, which {}", number,
        number < had_threads_.size() && had_threads_[number] ? "has ended" : "was never started"));
  return *found->second;
}

void Guest::park() {
  running_->registers_ = vcpu_->registers();
  running_->fpu_ = vcpu_->fpu();
  running_->vcpu_ = nullptr;
}

void Guest::unpark() {
  running_->vcpu_ = vcpu_;
  vcpu_->registers() = running_->registers_;
  vcpu_->set_fpu(running_->fpu_);
}

void Guest::run(GuestThread& thread) {
  if (running_ == &thread) return;
  park();
  running_ = &thread;
  unpark();
  gone_.reset();
}

// As the guest begins.
void Guest::only_thread(uint32_t number) {
  if (number > kLastThread) bad(fmt::format("thread {} starts, beyond {}", number, kLastThread));
  auto thread = std::make_unique<GuestThread>(number);
  run(*thread);
  threads_.clear();
  threads_.emplace(number, std::move(thread));
  had_threads_.assign(uint64_t{number} + 1, false);
  had_threads_[number] = true;
}

void Guest::start_thread(const Event& event) {
  if (event.thread > kLastThread) bad(fmt::format("thread {} starts, beyond {}", event.thread, kLastThread));
  if (event.thread >= had_threads_.size()) had_threads_.resize(uint64_t{event.thread} + 1);
  if (had_threads_[event.thread])
    bad(fmt::format("thread {} starts, and there was one with that number", event.thread));
  if (threads_.size() == kMaxCheckpointThreads) bad(fmt::format("more than {} threads", threads_.size()));
  RegisterWords words{};
  std::array<bool, kRegisterCount> set{};
  for (const recording::RegisterChange& change : event.registers) {
    if (change.number >= kRegisterCount) bad(fmt::format("register number {}", change.number));
    words[change.number] = change.value;
    set[change.number] = true;
  }
  if (std::ranges::count(set, true) != kRegisterCount || event.fpu.empty())
    bad(fmt::format("thread {} starts, and not all of its registers are said", event.thread));
  had_threads_[event.thread] = true;
  threads_.emplace(event.thread, std::make_unique<GuestThread>(event.thread));
}

void Guest::end_thread(GuestThread& thread) {
  const auto found = threads_.find(thread.number());
  if (&thread == running_) gone_ = std::move(found->second);
  threads_.erase(found);
}

bool Guest::read(uint64_t address, std::span<std::byte> bytes) const {
  if (!space_.read(address, bytes.data(), bytes.size())) return false;
  breakpoints_->restore_original(address, bytes);
  return true;
}

// --- comparing ---

std::string Guest::text(recording::EventKind kind, uint64_t rip,
                        const std::vector<uint64_t>& operands) const {
  return describe_exit(kind, rip, operands, options_.system_call_name);
}

bool Guest::read_stretch(const recording::MemoryDigest& stretch) {
  constexpr uint64_t kLongest = 64 << 20;
  if (stretch.length > kLongest || !in_windows(stretch.address, stretch.length))
    bad(fmt::format("memory digest of {} bytes at {:#x} is outside the guest", stretch.length,
                    stretch.address));
  buffer_.resize(stretch.length);
  return read(stretch.address, buffer_);
}

bool Guest::memory_matches(const recording::MemoryDigest& stretch) {
  return read_stretch(stretch) && recording::digest128(buffer_) == stretch.digest;
}

// Empty when memory and FPU are as recorded, else what is not.
std::string Guest::memory_difference(const Event& event) {
  for (const recording::MemoryDigest& stretch : event.memory) {
    const bool readable = read_stretch(stretch);
    if (!readable || recording::digest128(buffer_) != stretch.digest)
      return fmt::format("memory {:#x}-{:#x} {}", stretch.address, stretch.address + stretch.length,
                         readable ? "has other contents" : "is not mapped");
  }
  if (event.fpu_digest && recording::digest64(canonical_fpu(thread(event.thread).fpu())) != *event.fpu_digest)
    return "the x87 or SSE registers differ";
  return {};
}

std::optional<Difference> Guest::differs_from(const Event& event, const Exit& exit) {
  GuestThread& thread = this->thread(event.thread);
  const Registers& registers = thread.registers();
  const recording::EventKind kind = kind_of(exit);
  const std::vector<uint64_t> operands = operands_of(exit, registers);
  recording::RunningDigest running = thread.digest();
  const uint32_t digest = running.update(canonical_state(registers));
  const bool same_exit = kind == event.kind && registers.rip == event.rip &&
                         event.operands.size() <= operands.size() &&
                         std::equal(event.operands.begin(), event.operands.end(), operands.begin());
  if (!same_exit || digest != event.digest)
    return Difference{
        text(kind, registers.rip, operands),
        fmt::format("{}registers in the replay: {}",
                    same_exit
                        ? fmt::format("the exit is the same but registers differ (digest {:#010x}, recorded "
                                      "{:#010x}); ",
                                      digest, event.digest)
                        : "",
                    aftercheck::describe(registers))};
  thread.digest() = running;
  if (const std::string difference = memory_difference(event); !difference.empty())
    return Difference{
        "the same exit with the same general registers",
        difference + "; it went wrong after the last event before this one that has memory digests"};
  return std::nullopt;
}

recording::Digest128 Guest::memory_digest() {
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(),
                                                                              XXH3_freeState);
  if (state == nullptr) throw std::bad_alloc();
  XXH3_128bits_reset(state.get());
  static constexpr std::array<std::byte, kPageSize> kZeros{};
  std::array<std::byte, kPageSize> page;
  const auto add = [&](Range range) {
    for (uint64_t at = range.start; at < range.end; at += kPageSize) {
      if (!read(at, page)) continue;  // behind the end of its file
      restore_unpatched(space_, at, page);
      if (page == kZeros) continue;
      XXH3_128bits_update(state.get(), &at, sizeof at);
      XXH3_128bits_update(state.get(), page.data(), page.size());
    }
  };
  constexpr uint64_t kLongestRun = 1 << 20;
  for (const auto& [start, mapping] : space_.mappings()) {
    if (mapping.number != 0)
      for (const Range run : file_pages(mapping)) add(run);
    else if (mapping.backing == Backing::file)
      add({start, mapping.end});
    else
      pages_->own_pages(mapping, kLongestRun, add);
  }
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state.get()));
  recording::Digest128 digest;
  std::copy(std::begin(canonical.digest), std::end(canonical.digest), digest.begin());
  return digest;
}

// Of a file's mapping the pages that can hold something else than zeros, by address.
std::vector<Range> Guest::file_pages(const Mapping& mapping) {
  std::vector<Range> runs, joined;
  files_.data_in(mapping.number, mapping.offset, mapping.extent(), [&](Range data) {
    runs.push_back({mapping.start + (page_down(data.start) - mapping.offset),
                    mapping.start + (page_up(data.end) - mapping.offset)});
  });
  if (!mapping.shared)
    pages_->own_pages(mapping, kMainWindow.size(), [&](Range run) { runs.push_back(run); });
  std::ranges::sort(runs, {}, &Range::start);
  for (const Range& run : runs) {
    if (joined.empty() || joined.back().end < run.start)
      joined.push_back(run);
    else
      joined.back().end = std::max(joined.back().end, run.end);
  }
  return joined;
}

uint64_t Guest::registers_digest(GuestThread& thread) {
  const RegisterWords words = canonical_state(thread.registers());
  const auto fpu = canonical_fpu(thread.fpu());
  recording::OutputDigest digest;
  digest.update(std::as_bytes(std::span(words)));
  digest.update(fpu);
  return digest.value();
}

recording::FullState Guest::full_state(GuestThread& thread) {
  return {thread.registers().rip, registers_digest(thread), memory_digest()};
}

// --- changing ---

void Guest::map_blob(const SpaceOp& op, Range range) {
  if (op.shared || op.new_address != 0) return map_numbered(op, range);
  const recording::Store::Blob blob = store_.open(op.blob);
  if (const int error = space_.map_file(range, static_cast<int>(op.prot), blob.fd.get(), op.blob_offset,
                                        false, op.name, {.contents = op.blob});
      error != 0)
    bad(fmt::format("mapping of {} at {:#x} fails: {}", op.name, op.address, errno_text(-error)));
}

// Where the log does not say how long the file is, it is as long as any mapping needs, because the guest's
// file may have grown meanwhile.
void Guest::map_numbered(const SpaceOp& op, Range range) {
  if (op.new_length % kPageSize != 0 || op.new_length > SharedFiles::kLongest)
    bad(fmt::format("mapping of {} at {:#x}: offset {:#x} in the file", op.name, op.address, op.new_length));
  const uint64_t number = op.new_address == 0 ? files_.new_number() : op.new_address;
  const int file = files_.open(number, op.new_length + range.size(), op.name);
  // Without a name for its contents fill_file or a checkpoint brings them.
  if (op.blob != recording::Digest128{}) {
    const recording::Store::Blob blob = store_.open(op.blob);
    // Of a file that was kept whole all is put in: the mapping may grow.
    const bool whole = op.new_length == op.blob_offset;
    if (whole) files_.open(number, page_up(blob.size), op.name);
    constexpr size_t kPart = 1 << 20;
    buffer_.resize(kPart);
    for (uint64_t done = whole ? 0 : op.blob_offset; whole || done < op.blob_offset + range.size();) {
      const ssize_t got = pread(blob.fd.get(), buffer_.data(), kPart, static_cast<off_t>(done));
      if (got <= 0) break;
      files_.write(number, op.new_length - op.blob_offset + done,
                   std::span(buffer_).first(static_cast<size_t>(got)), op.name);
      done += static_cast<uint64_t>(got);
    }
  }
  if (const int error = space_.map_file(range, static_cast<int>(op.prot), file, op.new_length, op.shared,
                                        op.name, {.contents = op.blob, .number = number});
      error != 0)
    bad(fmt::format("mapping of {} at {:#x} fails: {}", op.name, op.address, errno_text(-error)));
}

// What a shared mapping grows into must be there.
void Guest::grow_shared(const SpaceOp& op) {
  const Mapping* mapping = space_.find(op.address);
  if (mapping == nullptr || !mapping->shared || mapping->backing != Backing::file) return;
  if (!files_.has(mapping->number)) return;
  files_.open(mapping->number, mapping->offset + (op.address - mapping->start) + op.new_length,
              mapping->name);
}

void Guest::resize_file(const SpaceOp& op) {
  if (op.new_address == 0 || op.new_length > SharedFiles::kLongest)
    bad(fmt::format("file {} can't have {} bytes", op.new_address, op.new_length));
  for (const auto& [start, mapping] : space_.mappings())
    if (mapping.number == op.new_address) breakpoints_->lift({start, mapping.end});
  files_.resize(op.new_address, op.new_length, op.name);
  space_.file_resized(op.new_address, op.new_length);
}

void Guest::fill_file(const SpaceOp& op) {
  const uint64_t number = op.new_address, offset = op.new_length;
  const auto no_room = [&] {
    bad(fmt::format("{} bytes at {:#x} of file {}, which is not so long", op.length, offset, number));
  };
  if (!files_.has(number)) no_room();
  const uint64_t length = files_.length(number);
  if (offset > length || op.length > length - offset) no_room();
  for (const auto& [start, mapping] : space_.mappings())
    if (mapping.number == number) breakpoints_->lift({start, mapping.end});
  if (!op.bytes.empty()) {
    if (op.bytes.size() != op.length)
      bad(fmt::format("{} bytes for {} of file {}", op.bytes.size(), op.length, number));
    files_.write(number, offset, op.bytes, op.name);
  } else if (op.blob == recording::Digest128{}) {
    files_.clear(number, offset, op.length, op.name);
  } else {
    const recording::Store::Blob blob = store_.open(op.blob);
    constexpr uint64_t kPart = 1 << 20;
    buffer_.resize(kPart);
    for (uint64_t done = 0; done < op.length;) {
      const auto part = std::span(buffer_).first(std::min(kPart, op.length - done));
      if (op.blob_offset > blob.size || read_file(blob.fd.get(), op.blob_offset + done, part) != part.size())
        bad(fmt::format("file {} has {} bytes of a blob that has not so many", number, op.length));
      files_.write(number, offset + done, part, op.name);
      done += part.size();
    }
  }
  space_.file_written(number, offset, op.length);
}

// What the recorded program had beyond the windows must be free here, too.
void Guest::claim(Range range) {
  if (space_.claim(range) != 0)
    fail(ErrorKind::host_lacks,
         "{}: the program had memory at {:#x}-{:#x}, where this process has its own; try again, or replay on "
         "a host with "
         "another layout of address spaces",
         options_.where(), range.start, range.end);
}

void Guest::apply_space_op(const SpaceOp& op) {
  if (op.kind == SpaceOpKind::resize_file) return resize_file(op);
  if (op.kind == SpaceOpKind::fill_file) return fill_file(op);
  if (op.kind == SpaceOpKind::clear) {
    breakpoints_->lift({0, UINT64_MAX});
    space_.clear();
    return;
  }
  constexpr uint32_t kProtections = PROT_READ | PROT_WRITE | PROT_EXEC;
  if (!may_be_guest(op.address, op.length) || (op.prot & ~kProtections) != 0)
    bad(fmt::format("change of mappings at {:#x}, {} bytes, protection {:#x}: outside the guest", op.address,
                    op.length, op.prot));
  const Range range{op.address, op.address + op.length};
  claim(range);
  const int prot = static_cast<int>(op.prot);
  breakpoints_->lift(range);  // with a protection trapped instructions come and go, too
  if (op.kind == SpaceOpKind::remap) breakpoints_->lift({op.new_address, op.new_address + op.new_length});
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
      if (!may_be_guest(op.new_address, op.new_length)) error = -EINVAL;
      if (error == 0) claim({op.new_address, op.new_address + op.new_length});
      if (error == 0) grow_shared(op);
      if (error == 0) error = space_.remap(range, {op.new_address, op.new_address + op.new_length});
      break;
    case SpaceOpKind::discard:
      error = space_.discard(range);
      break;
    case SpaceOpKind::clear:
    case SpaceOpKind::resize_file:
    case SpaceOpKind::fill_file:
      break;
  }
  if (error != 0)
    bad(fmt::format("change {} of mappings at {:#x}, {} bytes, fails: {}", static_cast<unsigned>(op.kind),
                    op.address, op.length, errno_text(-error)));
}

void Guest::reset() {
  breakpoints_->lift({0, UINT64_MAX});
  space_.clear();
  files_ = {};
  only_thread(0);
}

void Guest::apply(const Event& event) {
  if (event.kind == recording::EventKind::start) only_thread(event.thread);
  if (event.kind == recording::EventKind::thread_start) start_thread(event);
  GuestThread& thread = this->thread(event.thread);
  if (event.kind == recording::EventKind::thread_end) return end_thread(thread);
  for (const SpaceOp& op : event.space_ops) apply_space_op(op);
  for (const recording::MemoryWrite& write : event.writes) {
    breakpoints_->lift({write.address, write.address + write.bytes.size()});
    if (!space_.write(write.address, write.bytes.data(), write.bytes.size()))
      bad(fmt::format("write of {} bytes to {:#x}, which is not mapped", write.bytes.size(), write.address));
  }
  std::vector<CodePatch> patches;
  for (const recording::CodePatch& patch : event.patches) {
    CodePatch& applied = patches.emplace_back();
    applied.address = patch.address;
    applied.instruction = {static_cast<TrappedKind>(patch.kind), patch.length, patch.operand,
                           patch.operand_bits};
    applied.original = patch.original;
    breakpoints_->lift({patch.address, patch.address + patch.length});
    if (patch.kind > static_cast<uint8_t>(kLastTrappedKind))
      bad(fmt::format("code patch at {:#x} of unknown kind {}", patch.address, patch.kind));
  }
  const std::vector<uint64_t> applied = space_.apply_patches(patches);
  for (size_t i = 0; i < patches.size(); ++i)
    if (i == applied.size() || applied[i] != patches[i].address)
      bad(fmt::format("code patch at {:#x} does not fit the code there", patches[i].address));
  breakpoints_->rearm();
  apply_registers(thread, event);
}

void Guest::apply_registers(GuestThread& thread, const Event& event) {
  RegisterWords words = to_words(thread.registers());
  for (const recording::RegisterChange& change : event.registers) {
    if (change.number >= kRegisterCount) bad(fmt::format("register number {}", change.number));
    words[change.number] = change.value;
  }
  thread.registers() = from_words(words);
  for (const uint64_t base : {thread.registers().fs_base, thread.registers().gs_base})
    if (!is_canonical(base)) bad(fmt::format("the segment base {:#x} is not canonical", base));
  if (event.fpu.empty()) return;
  const std::optional<FpuState> found = FpuState::of_bytes(event.fpu);
  if (!found) bad(fmt::format("FPU state of {} bytes", event.fpu.size()));
  const FpuState& state = *found;
  constexpr size_t kMxcsr = 24;  // SDM vol. 1, table 10-2
  uint32_t mxcsr = 0;
  std::memcpy(&mxcsr, &state.fxsave[kMxcsr], sizeof mxcsr);
  if (mxcsr > 0xffff) bad(fmt::format("MXCSR {:#x} has reserved bits", mxcsr));
  thread.set_fpu(state);
}

// --- moving and copying ---

Machine& Guest::machine_of(const Vcpu& vcpu) {
  if (&vcpu == soft_.get()) return *soft_machine_;
  return &vcpu == counting_.get() ? *counting_machine_ : *machine_;
}

void Guest::move(Vcpu& to) {
  if (vcpu_ == &to) return;
  code_changed_elsewhere(machine_of(to), space_);
  hand_over(*vcpu_, to, *breakpoints_);
  running_->vcpu_ = vcpu_ = &to;
}

Vcpu& Guest::soft_vcpu() {
  if (machine_->kind() == MachineKind::soft) return *own_;
  if (soft_machine_ == nullptr) soft_machine_ = create_soft_machine(space_, options_.cpu);
  if (soft_ == nullptr) soft_ = soft_machine_->create_vcpu();
  return *soft_;
}

Vcpu* Guest::translated_counting_vcpu() {
  if (machine_->kind() != MachineKind::kvm || options_.needs.walls || cannot_count_) return nullptr;
  try {
    if (counting_machine_ == nullptr) counting_machine_ = create_translated_machine(space_, options_.cpu);
    if (counting_ == nullptr) counting_ = counting_machine_->create_vcpu();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::host_lacks) throw;
    AFTERCHECK_LOG_TO(LogTopic::replay, "branches can't be counted by translated code here: {}",
                      error.what());
    cannot_count_ = true;
  }
  return counting_.get();
}

Vcpu* Guest::counting_vcpu(bool must) {
  if (own_->counts_branches()) return own_.get();
  if (Vcpu* const translated = translated_counting_vcpu()) return translated;
  // It loses its translations where it begins to count, or ends.
  return must && may_be_on_soft() && soft_vcpu().count_branches(true) ? &soft_vcpu() : nullptr;
}

std::vector<Event> Guest::describe() {
  std::vector<Event> events;
  for (const auto& [number, thread] : threads_) {
    Event& event = events.emplace_back();
    event.kind = events.size() == 1 ? recording::EventKind::start : recording::EventKind::thread_start;
    event.thread = number;
    const RegisterWords words = to_words(thread->registers());
    for (size_t i = 0; i < kRegisterCount; ++i)
      event.registers.push_back({static_cast<uint8_t>(i), words[i]});
    event.fpu = thread->fpu().bytes();
  }
  if (events.empty()) events.emplace_back().thread = running_->number();
  events.front().space_ops = describe_mappings(space_);
  events.front().patches = describe_patches(space_);
  return events;
}

pid_t Guest::fork(bool shares) {
  // A KVM vCPU answers nothing in the child.
  const FpuState fpu = vcpu_->fpu();
  const MachineKind kind = machine_->kind();
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) return -1;
  UniqueFd told(ends[0]), tell(ends[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    told.reset();
    running_->fpu_ = fpu;
    separate(choice_of(kind), shares && files_.joined());
    return child;  // `tell` is closed: the parent goes on
  }
  tell.reset();
  // Shared memory is still the same in both. The end comes too where the child died.
  char end = 0;
  while (child > 0 && ::read(told.get(), &end, 1) < 0 && errno == EINTR) continue;
  return child;
}

void Guest::separate(MachineChoice choice, bool shares) {
  running_->registers_ = vcpu_->registers();
  running_->vcpu_ = vcpu_ = nullptr;
  for (std::unique_ptr<Vcpu>* vcpu : {&own_, &soft_, &counting_}) vcpu->reset();
  // First of all: a machine on KVM has page tables in memory that it shares with the parent's.
  for (std::unique_ptr<Machine>* machine : {&machine_, &soft_machine_, &counting_machine_}) machine->reset();
  pages_ = std::make_unique<PageMap>();
  if (!shares) {
    files_.leave();
    files_.separate(space_);
  }
  machine_ = create_machine(choice, space_, options_.cpu, options_.needs);
  own_ = create_leaving_vcpu(*machine_, space_, options_.cpu);
  vcpu_ = own_.get();
  unpark();
  breakpoints_->switch_to(*vcpu_);
}

}  // namespace aftercheck
