#include "kvm-recorder/loader.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <span>

#include "kvm-recorder/elf_program.h"
#include "kvm-recorder/memory_limits.h"
#include "kvm-recorder/proc_files.h"
#include "kvm-recorder/process_stack.h"
#include "recording/digest.h"

namespace aftercheck {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

// Program and heap at the bottom of the main window, stack and below it the mmap area at its top: nearly 512
// GiB to grow in between, and few KVM slots in use, since those follow what is mapped.
constexpr uint64_t kProgramBase = kMainWindow.start + 64 * kMiB;
constexpr uint64_t kStackTop = kMainWindow.end - kPageSize;
// How far each moves under randomisation (in whole pages).
constexpr uint64_t kProgramSpread = 512 * kMiB;
constexpr uint64_t kHeapSpread = 32 * kMiB;  // arch/x86/kernel/process.c, arch_randomize_brk()
constexpr uint64_t kStackSpread = 256 * kMiB;
// mm/mmap.c, stack_guard_gap: 256 pages below the stack stay free.
constexpr uint64_t kStackGuard = 256 * kPageSize;
// arch/x86/mm/mmap.c, mmap_base(): mappings leave the stack room to grow as far as the limit is now, at least
// so much; at most an eighth of the window.
constexpr uint64_t kLeastStackRoom = 128 * kMiB, kMostStackRoom = uint64_t{64} << 30;

uint64_t random_number() {
  uint64_t number = 0;
  if (getrandom(&number, sizeof number, 0) != ssize_t{sizeof number})
    fail(ErrorKind::host_lacks, "getrandom: {}", errno_text(errno));
  return number;
}

uint64_t random_pages(uint64_t spread, bool randomize) {
  return randomize ? page_down(random_number() % spread) : 0;
}

// Where a program lies differs between recordings, but not between the processes of one: what machines have
// prepared of its code can be used again (Machine::program_begins). `what` tells its parts apart.
uint64_t lasting_random_pages(uint64_t spread, bool randomize, GuestProcess& process,
                              const std::string& program, const char* what) {
  if (!randomize) return 0;
  if (process.placement_seed == 0) process.placement_seed = random_number() | 1;
  const std::string place = fmt::format("{} {} {}", process.placement_seed, program, what);
  return page_down(recording::digest64(std::as_bytes(std::span(place))) % spread);
}

constexpr uint64_t align_up(uint64_t address, uint64_t alignment) {
  return (address + alignment - 1) & ~(alignment - 1);
}

void check_mapped(int result, const ElfProgram& file, Range range, const char* what) {
  if (result == 0) return;
  const ErrorKind kind =
      result == -ENOMEM || result == -EINVAL ? ErrorKind::unsupported : ErrorKind::bad_input;
  fail(kind, "{}: mapping {} at {:#x}-{:#x}: {}", file.path, what, range.start, range.end,
       errno_text(-result));
}

void map_segment(GuestTask& task, const ElfProgram& file, const ElfSegment& segment, uint64_t bias,
                 const std::string& name) {
  LoggedSpace& memory = task.process.memory;
  const uint64_t start = page_down(bias + segment.address);
  const uint64_t file_end = bias + segment.address + segment.file_size;
  const uint64_t memory_end = bias + segment.address + segment.memory_size;
  uint64_t bss = start;
  if (segment.file_size != 0) {
    bss = page_up(file_end);
    const Range range{start, bss};
    check_mapped(memory.map_file(task.answer, range, segment.prot, file.fd.get(), page_down(segment.offset),
                                 name, {.program = true}),
                 file, range, "a PT_LOAD segment");
    // ld.so's first allocator relies on zeros up to the page's end. In a segment that isn't writable the
    // kernel leaves the file's bytes there, too.
    if (memory_end > file_end && (segment.prot & PROT_WRITE) != 0) {
      const std::vector<std::byte> zeros(bss - file_end);
      if (!zeros.empty() && !task.answer.poke(file_end, zeros.data(), zeros.size()))
        fail(ErrorKind::bad_input, "{}: the end of the segment at {:#x} can't be cleared", file.path,
             file_end);
    }
  }
  if (page_up(memory_end) > bss) {
    // vm_brk_flags(): bss is always readable and writable.
    const Range range{bss, page_up(memory_end)};
    check_mapped(
        memory.map_anonymous(task.answer, range, PROT_READ | PROT_WRITE | (segment.prot & PROT_EXEC), false),
        file, range, "the zero-filled part of a PT_LOAD segment");
  }
}

// Maps all segments of `file`, `bias` added to its addresses.
void map_image(GuestTask& task, const ElfProgram& file, uint64_t bias) {
  const Range range{bias + file.low(), bias + file.high()};
  if (task.process.memory.space().claim(range) != 0)
    fail(ErrorKind::unsupported,
         "{}: is linked to {:#x}-{:#x}, which can't be given to a recorded program, because the recorder's "
         "own memory may "
         "be there; link it position-independent (-pie)",
         file.path, range.start, range.end);
  const std::string name = descriptor_path(file.fd.get());
  for (const ElfSegment& segment : file.segments) map_segment(task, file, segment, bias, name);
}

// Load bias of a movable image whose first page may be at `at` or above.
uint64_t bias_at(const ElfProgram& file, uint64_t at) {
  // p_align asks that addresses stay congruent, so the bias is a multiple of it.
  // Modulo 2^64: it may be negative.
  return align_up(at - file.low(), file.alignment);
}

uint64_t load_interpreter(GuestTask& task, const ElfProgram& interpreter) {
  const GuestProcess& process = task.process;
  if (!interpreter.position_independent) {
    const Range range{interpreter.low(), interpreter.high()};
    for (const auto& [start, mapping] : process.memory.space().mappings())
      if (start < range.end && mapping.end > range.start)
        fail(ErrorKind::bad_input, "{}: the interpreter's addresses {:#x}-{:#x} are the program's own",
             interpreter.path, range.start, range.end);
    map_image(task, interpreter, 0);
    return 0;
  }
  const uint64_t slack = interpreter.alignment - kPageSize;
  const uint64_t size = interpreter.high() - interpreter.low();
  const std::optional<Range> free = size + slack <= kMainWindow.size()
                                        ? process.memory.space().find_free(size + slack, process.mmap_top)
                                        : std::nullopt;
  if (!free)
    fail(ErrorKind::unsupported, "{}: no room for its {} bytes in the guest window", interpreter.path, size);
  const uint64_t bias = bias_at(interpreter, free->start);
  map_image(task, interpreter, bias);
  return bias;
}

void map_stack(GuestTask& task, const ElfProgram& program, bool randomize) {
  GuestProcess& process = task.process;
  const uint64_t top =
      kStackTop - lasting_random_pages(kStackSpread, randomize, process, program.path, "stack");
  const uint64_t limit = soft_limit(process, RLIMIT_STACK);
  process.stack = {top - stack_size(limit), top};
  process.mmap_top = top - page_up(std::clamp(limit, kLeastStackRoom, kMostStackRoom)) - kStackGuard;
  const int prot = PROT_READ | PROT_WRITE | (program.executable_stack ? PROT_EXEC : 0);
  check_mapped(process.memory.map_anonymous(task.answer, process.stack, prot, false, "[stack]"), program,
               process.stack, "the stack");
  process.memory.space().mark(process.stack, &Mapping::grows_down, true);
}

void place_heap(GuestProcess& process, const ElfProgram& file, uint64_t bias, bool randomize) {
  const uint64_t image_end = bias + file.high();
  // A program in the low window has its heap in the main one, where it can grow.
  const uint64_t after = kMainWindow.contains(image_end) ? image_end : kProgramBase;
  process.heap_start = process.heap_end = after + random_pages(kHeapSpread, randomize);
}

void check_room(const ElfProgram& file, uint64_t bias, const GuestProcess& process) {
  const Range image{bias + file.low(), bias + file.high()};
  const Range taken{process.stack.start - kStackGuard, process.stack.end};
  if (image.start < taken.end && image.end > taken.start)
    fail(ErrorKind::unsupported, "{}: its image {:#x}-{:#x} is too large: it would cover the stack at {:#x}",
         file.path, image.start, image.end, taken.start);
}

}  // namespace

void load_program(GuestTask& task, const Program& program, const std::vector<std::string>& environment,
                  const LoaderOptions& options) {
  const bool found = program.files && program.files->program.fd;
  ProgramFiles files = found ? std::move(*program.files) : open_program(program.path);
  ElfProgram& file = files.program;
  const std::optional<ElfProgram>& interpreter = files.interpreter;
  GuestProcess& process = task.process;
  check_argument_size(program, environment, soft_limit(process, RLIMIT_STACK));
  process.lock_future = false;
  process.memory.clear(task.answer);
  process.entry = Registers{};
  map_stack(task, file, options.randomize);
  const uint64_t bias =
      file.position_independent
          ? bias_at(file, kProgramBase + lasting_random_pages(kProgramSpread, options.randomize, process,
                                                              file.path, "program"))
          : 0;
  check_room(file, bias, process);
  map_image(task, file, bias);
  place_heap(process, file, bias, options.randomize);

  ImageAddresses addresses;
  addresses.headers = file.headers == 0 ? 0 : bias + file.headers;
  addresses.header_count = file.header_count;
  addresses.entry = bias + file.entry;
  process.entry.rip = addresses.entry;
  if (interpreter) {
    addresses.interpreter_base = load_interpreter(task, *interpreter);
    process.entry.rip = addresses.interpreter_base + interpreter->entry;
  }

  process.executable = program.executable;
  process.executable_file = std::move(file.fd);
  process.arguments = program.arguments;
  process.environment = environment;
  build_stack(task, program, environment, addresses, options.randomize ? random_number() : 0);
  prctl(PR_SET_NAME, std::filesystem::path(program.execfn).filename().c_str());
}

}  // namespace aftercheck
