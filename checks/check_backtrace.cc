#include "checks/check_backtrace.h"

#include <elfutils/libdwfl.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <optional>

#include "base/elf_headers.h"
#include "base/fd.h"
#include "base/guarded_copy.h"

namespace aftercheck {
namespace {

constexpr size_t kDeepest = 128;
constexpr pid_t kThread = 1;  // libdwfl wants a number

// What to add to a file's addresses when its first byte is mapped at `start`; nullopt: not such a file.
std::optional<uint64_t> bias_of(int fd, uint64_t start) {
  constexpr unsigned kMostHeaders = 256;
  const auto read = [fd](uint64_t offset, std::span<std::byte> bytes) {
    return read_file(fd, offset, bytes);
  };
  const ElfHeaders elf = read_elf_headers(read, kMostHeaders);
  if (!elf.complete()) return std::nullopt;
  for (const Elf64_Phdr& segment : elf.segments)
    if (segment.p_type == PT_LOAD && page_down(segment.p_offset) == 0)
      return start - page_down(segment.p_vaddr);
  return std::nullopt;
}

// Only the recording's own files are looked at: nothing is searched for on this host or fetched.
int no_debug_file(Dwfl_Module*, void**, const char*, Dwarf_Addr, const char*, const char*, GElf_Word,
                  char**) {
  return -1;
}
int no_file(Dwfl_Module*, void**, const char*, Dwarf_Addr, char**, Elf**) { return -1; }

}  // namespace

class Backtraces::Unwinder {
 public:
  Unwinder(const AddressSpace& space, const std::map<uint64_t, recording::Digest128>& files,
           recording::Store& store);

  // `visit(address, after_call)` for each frame.
  template <typename Visit>
  void run(const Registers& registers, Visit visit);

 private:
  struct End {
    void operator()(Dwfl* dwfl) const { dwfl_end(dwfl); }
  };
  std::unique_ptr<Dwfl, End> dwfl_;
  const Registers* registers_ = nullptr;
  bool attached_ = false;

  static bool read_word(Dwfl*, Dwarf_Addr address, Dwarf_Word* result, void* self);
  static pid_t next_thread(Dwfl*, void* self, void** thread);
  static bool initial_registers(Dwfl_Thread* thread, void* self);
  static const Dwfl_Thread_Callbacks kThreads;
};

const Dwfl_Thread_Callbacks Backtraces::Unwinder::kThreads = {
    .next_thread = next_thread,
    .get_thread = nullptr,
    .memory_read = read_word,
    .set_initial_registers = initial_registers,
    .detach = nullptr,
    .thread_detach = nullptr,
};

Backtraces::Unwinder::Unwinder(const AddressSpace& space,
                               const std::map<uint64_t, recording::Digest128>& files,
                               recording::Store& store) {
  static const Dwfl_Callbacks kCallbacks = {.find_elf = no_file,
                                            .find_debuginfo = no_debug_file,
                                            .section_address = nullptr,
                                            .debuginfo_path = nullptr};
  dwfl_.reset(dwfl_begin(&kCallbacks));
  if (dwfl_ == nullptr) return;
  dwfl_report_begin(dwfl_.get());
  for (const auto& [start, digest] : files) {
    const Mapping* mapping = space.find(start);
    if (mapping == nullptr || mapping->backing != Backing::file) continue;
    // An ordinary descriptor: those out of the guest's reach are few, a guest may map many libraries, and a
    // replayed guest has no descriptors.
    UniqueFd file(fcntl(store.open(digest).fd.get(), F_DUPFD_CLOEXEC, 3));
    if (!file) continue;
    const std::optional<uint64_t> bias = bias_of(file.get(), start);
    // On success the descriptor is libdwfl's.
    if (bias && dwfl_report_elf(dwfl_.get(), mapping->name.c_str(), mapping->name.c_str(), file.get(), *bias,
                                true) != nullptr)
      file.release();
  }
  dwfl_report_end(dwfl_.get(), nullptr, nullptr);
  attached_ = dwfl_attach_state(dwfl_.get(), nullptr, kThread, &kThreads, this);
}

bool Backtraces::Unwinder::read_word(Dwfl*, Dwarf_Addr address, Dwarf_Word* result, void*) {
  return in_windows(address, sizeof *result) &&
         guarded_copy(result, reinterpret_cast<const void*>(address), sizeof *result);
}

pid_t Backtraces::Unwinder::next_thread(Dwfl*, void* self, void** thread) {
  if (*thread != nullptr) return 0;
  *thread = self;
  return kThread;
}

bool Backtraces::Unwinder::initial_registers(Dwfl_Thread* thread, void* self) {
  const Registers& r = *static_cast<Unwinder*>(self)->registers_;
  // System V ABI, AMD64 supplement, figure 3.36: DWARF register numbers.
  const std::array<Dwarf_Word, 17> words = {r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8,
                                            r.r9,  r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rip};
  return dwfl_thread_state_registers(thread, 0, words.size(), words.data());
}

template <typename Visit>
void Backtraces::Unwinder::run(const Registers& registers, Visit visit) {
  registers_ = &registers;
  size_t frames = 0;
  struct Context {
    Visit& visit;
    size_t& frames;
  } context{visit, frames};
  const auto on_frame = [](Dwfl_Frame* frame, void* argument) -> int {
    auto* c = static_cast<Context*>(argument);
    Dwarf_Addr address = 0;
    bool activation = false;
    if (!dwfl_frame_pc(frame, &address, &activation)) return DWARF_CB_ABORT;
    c->visit(address, !activation);
    return ++c->frames < kDeepest ? DWARF_CB_OK : DWARF_CB_ABORT;
  };
  if (attached_) dwfl_getthread_frames(dwfl_.get(), kThread, on_frame, &context);
  if (frames == 0) visit(registers.rip, false);
}

Backtraces::Backtraces(Replay& replay)
    : replay_(replay),
      space_(replay.guest().space()),
      store_(replay.directory(), false),
      process_(replay.meta().process) {}

Backtraces::~Backtraces() = default;

void Backtraces::applied(const recording::Event& event, uint64_t number) {
  using recording::SpaceOpKind;
  const bool begins = event.kind == recording::EventKind::start;
  if (begins && replay_.meta().process != process_) {
    process_ = replay_.meta().process;
    code_.reset();
  }
  // A child has what its parent had, of which its own log says nothing.
  if (begins && (number != 0 || replay_.meta().parent))
    start_ =
        RecordedCode::Start{number, replay_.log_place(),
                            number != 0 ? event.space_ops : replay_.guest().describe().front().space_ops};
  for (const recording::SpaceOp& op : event.space_ops) {
    if (op.kind == SpaceOpKind::clear) files_.clear();
    if (op.kind == SpaceOpKind::map_blob) {
      if (op.blob_offset == 0 && op.blob != recording::Digest128{})
        files_[op.address] = op.blob;
      else
        files_.erase(op.address);
    }
    if (op.kind == SpaceOpKind::clear || op.kind == SpaceOpKind::map_blob || op.kind == SpaceOpKind::unmap)
      unwinder_.reset();
  }
}

const symbols::Symbols& Backtraces::symbols(uint64_t event) {
  if (!code_)
    code_ = start_ ? std::make_unique<RecordedCode>(replay_.directory(), *start_)
                   : std::make_unique<RecordedCode>(replay_.directory());
  code_->answered(event);
  return code_->symbols();
}

std::string Backtraces::function_at(uint64_t address, uint64_t event) {
  const symbols::Location location = symbols(event).find(address);
  return location.function != nullptr ? location.function->name : std::string();
}

void Backtraces::append(std::vector<CheckFrame>& stack, uint64_t address, bool after_call,
                        const symbols::Symbols& names) {
  // A return address may be the first of something else.
  const uint64_t within = after_call ? address - 1 : address;
  CheckFrame frame;
  frame.address = address;
  if (const Mapping* mapping = space_.find(within)) frame.module = mapping->name;
  const std::vector<symbols::Frame> inner = names.frames(within);
  for (const symbols::Frame& known : inner) {
    frame.function = known.function;
    frame.file = known.source.file != nullptr ? *known.source.file : std::string();
    frame.line = known.source.line;
    frame.inlined = known.inlined;
    stack.push_back(frame);
  }
  if (inner.empty()) stack.push_back(std::move(frame));
}

std::vector<CheckFrame> Backtraces::at(const Registers& registers, uint64_t event) {
  const symbols::Symbols& names = symbols(event);
  if (!unwinder_) unwinder_ = std::make_unique<Unwinder>(space_, files_, store_);
  std::vector<CheckFrame> stack;
  unwinder_->run(registers,
                 [&](uint64_t address, bool after_call) { append(stack, address, after_call, names); });
  return stack;
}

}  // namespace aftercheck
