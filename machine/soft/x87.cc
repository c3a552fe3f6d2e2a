#include "machine/soft/x87.h"

#include <algorithm>
#include <cstring>

#include "machine/exit.h"
#include "machine/soft/library_cpu.h"
#include "machine/soft/library_function.h"
#include "machine/soft/translation_guard.h"

namespace aftercheck::soft {
namespace {

// Each form with a RET behind it, four bytes each: at 4 * (opcode << 8 | ModRM), and from 0x2000 on memory
// forms with a prefix of 66, at 4 * (opcode << 3 | ModRM.reg). Those with memory have it at [RSI].
asm(R"(
  .pushsection .text
  .balign 16
aftercheck_x87_forms:
  .set form, 0
  .rept 2048
  .byte 0xd8 + (form >> 8), form & 0xff, 0xc3, 0xcc
  .set form, form + 1
  .endr
  .set form, 0
  .rept 64
  .byte 0x66, 0xd8 + (form >> 3), (form & 7) << 3 | 6, 0xc3
  .set form, form + 1
  .endr
  .popsection
)");
extern "C" __attribute__((visibility("hidden"))) const char aftercheck_x87_forms[];

const char* form_of(uint8_t opcode, uint8_t modrm, bool narrow) {
  constexpr size_t kForm = 4, kNarrow = 0x2000;
  if (narrow) return aftercheck_x87_forms + kNarrow + kForm * (size_t{opcode} << 3 | (modrm >> 3 & 7U));
  return aftercheck_x87_forms + kForm * (size_t{opcode} << 8 | modrm);
}

// FXSAVE (SDM vol. 1, table 10-2), as far as x87 goes; the control of our own SSE code is in it, too.
struct alignas(16) Image {
  uint16_t control = 0, status = 0;
  uint8_t tags = 0, reserved = 0;  // a bit is set where the register is in use
  uint16_t opcode = 0;
  uint64_t instruction = 0, operand = 0;
  uint32_t mxcsr = 0x1f80, mask = 0;
  std::array<std::array<uint8_t, 16>, 8> stack{};  // from its top on
  std::array<uint8_t, 352> rest{};
};
static_assert(sizeof(Image) == 512);

// EFLAGS that FCOMI sets and FCMOVcc obeys.
constexpr uint64_t kCondition = rflags::kCarry | rflags::kParity | rflags::kZero;

// Executes the form on the image and, where it has memory, on that. Exceptions, unmasked ones too, only
// become pending in it: neither FXSAVE nor what empties the registers for our own code waits. `flags`: EFLAGS
// before (which POPF takes long to load) and after.
template <bool obeys_flags>
void execute(const char* form, Image& image, void* memory, uint64_t& flags) {
  uint64_t status = flags & kCondition;
#define AFTERCHECK_EXECUTE(load_flags)                                                                  \
  asm volatile(                                                                                         \
      "lea -128(%%rsp), %%rsp\n\t" /* the red zone */                                                   \
      "fxrstor64 (%[image])\n\t" load_flags                                                             \
      "call *%[form]\n\t"                                                                               \
      "pushfq\n\tpop %[status]\n\t"                                                                     \
      "fxsave64 (%[image])\n\t"                                                                         \
      "lea 128(%%rsp), %%rsp"                                                                           \
      : [status] "+r"(status)                                                                           \
      : [form] "r"(form), [image] "r"(&image), "S"(memory)                                              \
      : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", \
        "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")
  if constexpr (obeys_flags)
    AFTERCHECK_EXECUTE("push %[status]\n\tpopfq\n\t");
  else
    AFTERCHECK_EXECUTE("");
#undef AFTERCHECK_EXECUTE
  constexpr uint16_t kOurs = 0x37f;  // System V ABI, AMD64, 3.2.1
  if (image.control == kOurs)
    asm volatile("emms");  // a fraction of FNINIT's time
  else
    asm volatile("fninit");
  flags = (flags & ~kCondition) | (status & kCondition);
}

// SDM vol. 1, figures 8-4 and 8-6.
constexpr unsigned kExceptions = 0x3f, kTopShift = 11, kTop = 7 << kTopShift, kSummary = 1 << 7;
bool error_pending(unsigned status, unsigned control) { return (status & ~control & kExceptions) != 0; }

// --- the library's CPU ---

// struct CPUX86State, qemu/target/i386/cpu.h: these follow one another, the registers are aligned to 16.
struct X87Place {
  size_t top = 0, status = 0, control = 0, empty = 0, registers = 0;
};

const X87Place& place() {
  static const X87Place found = [] {
    const LibraryCpu& cpu = LibraryCpu::places();
    return X87Place{cpu.x87, cpu.x87 + 4, cpu.x87 + 6, cpu.x87 + 8, cpu.x87_registers};
  }();
  return found;
}

constexpr unsigned kRegisters = 8, kRegisterSize = 10, kRegisterSlot = 16, kExponent = 8;

void read_cpu(void* cpu, Image& image) {
  const X87Place& at = place();
  const unsigned top = LibraryCpu::at<uint32_t>(cpu, at.top) % kRegisters;
  image.control = LibraryCpu::at<uint16_t>(cpu, at.control);
  image.status = static_cast<uint16_t>((LibraryCpu::at<uint16_t>(cpu, at.status) & ~kTop) | top << kTopShift);
  const auto* empty = &LibraryCpu::at<uint8_t>(cpu, at.empty);
  for (unsigned i = 0; i < kRegisters; ++i) {
    if (empty[i] == 0) image.tags = static_cast<uint8_t>(image.tags | 1U << i);
    std::memcpy(image.stack[i].data(),
                &LibraryCpu::at<uint8_t>(cpu, at.registers + kRegisterSlot * ((top + i) % kRegisters)),
                kRegisterSize);
  }
}

void write_cpu(void* cpu, const Image& image) {
  const X87Place& at = place();
  const unsigned top = image.status >> kTopShift & 7;
  LibraryCpu::at<uint32_t>(cpu, at.top) = top;
  LibraryCpu::at<uint16_t>(cpu, at.control) = image.control;
  LibraryCpu::at<uint16_t>(cpu, at.status) = static_cast<uint16_t>(image.status & ~kTop);
  auto* empty = &LibraryCpu::at<uint8_t>(cpu, at.empty);
  for (unsigned i = 0; i < kRegisters; ++i) {
    empty[i] = (image.tags >> i & 1) == 0 ? 1 : 0;
    std::memcpy(&LibraryCpu::at<uint8_t>(cpu, at.registers + kRegisterSlot * ((top + i) % kRegisters)),
                image.stack[i].data(), kRegisterSize);
  }
}

// --- the guest's memory, through the library's page tables: faults unwind from here ---

// qemu/accel/tcg/cputlb.c of Unicorn 2.0.1.
using LoadWord = uint64_t (*)(void*, uint64_t, uintptr_t);
using LoadHalf = uint32_t (*)(void*, uint64_t, uintptr_t);
using StoreWord = void (*)(void*, uint64_t, uint64_t, uintptr_t);
using StoreHalf = void (*)(void*, uint64_t, uint32_t, uintptr_t);

struct Library {
  LoadWord load8 = library_function<LoadWord>("cpu_ldq_data_ra_x86_64");
  LoadHalf load4 = library_function<LoadHalf>("cpu_ldl_data_ra_x86_64");
  LoadHalf load2 = library_function<LoadHalf>("cpu_lduw_data_ra_x86_64");
  StoreWord store8 = library_function<StoreWord>("cpu_stq_data_ra_x86_64");
  StoreHalf store4 = library_function<StoreHalf>("cpu_stl_data_ra_x86_64");
  StoreHalf store2 = library_function<StoreHalf>("cpu_stw_data_ra_x86_64");
};
const Library& library() {
  static const Library found;
  return found;
}

constexpr size_t kLargest = 108;  // FNSAVE
using Memory = std::array<uint8_t, kLargest + 4>;

// Sizes are even.
void load(void* cpu, uint64_t address, Memory& memory, size_t size, uintptr_t caller) {
  size_t at = 0;
  for (; at + 8 <= size; at += 8) {
    const uint64_t word = library().load8(cpu, address + at, caller);
    std::memcpy(&memory[at], &word, sizeof word);
  }
  for (; at + 4 <= size; at += 4) {
    const uint32_t word = library().load4(cpu, address + at, caller);
    std::memcpy(&memory[at], &word, sizeof word);
  }
  for (; at + 2 <= size; at += 2) {
    const auto word = static_cast<uint16_t>(library().load2(cpu, address + at, caller));
    std::memcpy(&memory[at], &word, sizeof word);
  }
}

void store(void* cpu, uint64_t address, const Memory& memory, size_t size, uintptr_t caller) {
  size_t at = 0;
  const auto next = [&](auto& word) {
    std::memcpy(&word, &memory[at], sizeof word);
    return address + at;
  };
  uint64_t eight = 0;
  uint32_t four = 0;
  uint16_t two = 0;
  for (; at + 8 <= size; at += 8) {
    const uint64_t to = next(eight);
    library().store8(cpu, to, eight, caller);
  }
  for (; at + 4 <= size; at += 4) {
    const uint64_t to = next(four);
    library().store4(cpu, to, four, caller);
  }
  for (; at + 2 <= size; at += 2) {
    const uint64_t to = next(two);
    library().store2(cpu, to, two, caller);
  }
}

// --- environments ---

// SDM vol. 1, figures 8-9 to 8-12: where they tell of the last instruction.
struct EnvironmentPlaces {
  size_t address, opcode, operand, segment;
};
constexpr EnvironmentPlaces kWide = {12, 18, 20, 24}, kNarrow = {6, 0, 10, 12};

// What this host's processor tells of the last instruction: processors differ.
struct Tells {
  bool opcode = false, operand = false;
  uint16_t code_segment = 0, data_segment = 0;
};
const Tells& tells() {
  static const Tells found = [] {
    std::array<uint8_t, 28> environment{};
    const float number = 1;
    asm volatile("fninit\n\tflds %1\n\tfnstenv %0\n\tfninit" : "=m"(environment) : "m"(number));
    Tells result;
    uint32_t operand = 0;
    uint16_t opcode = 0;
    std::memcpy(&operand, &environment[kWide.operand], sizeof operand);
    std::memcpy(&opcode, &environment[kWide.opcode], sizeof opcode);
    std::memcpy(&result.code_segment, &environment[kWide.address + 4], sizeof result.code_segment);
    std::memcpy(&result.data_segment, &environment[kWide.segment], sizeof result.data_segment);
    result.opcode = opcode != 0;
    result.operand = operand != 0;
    return result;
  }();
  return found;
}

// Our own code executed it last, not the guest's.
void tell_last(Memory& environment, bool narrow, const LastX87& last) {
  const EnvironmentPlaces& at = narrow ? kNarrow : kWide;
  const auto put = [&environment](size_t to, auto value) {
    std::memcpy(&environment[to], &value, sizeof value);
  };
  const bool any = last.address != 0;
  const uint16_t code = any ? tells().code_segment : uint16_t{0},
                 data = any ? tells().data_segment : uint16_t{0};
  if (narrow) {
    put(at.address, static_cast<uint16_t>(last.address));
    put(at.address + 2, code);
    put(at.operand, static_cast<uint16_t>(last.operand));
    put(at.segment, data);
    return;
  }
  put(at.address, static_cast<uint32_t>(last.address));
  put(at.address + 4, code);
  put(at.opcode, last.opcode);
  put(at.operand, static_cast<uint32_t>(last.operand));
  put(at.segment, data);
}

LastX87 told_last(const Memory& environment, bool narrow) {
  LastX87 last;
  const EnvironmentPlaces& at = narrow ? kNarrow : kWide;
  std::memcpy(&last.address, &environment[at.address], narrow ? 2 : 4);
  std::memcpy(&last.operand, &environment[at.operand], narrow ? 2 : 4);
  if (!narrow) std::memcpy(&last.opcode, &environment[at.opcode], 2);
  return last;
}

// Forms by opcode and ModRM.reg (memory) or ModRM (registers).
bool is(const X87Instruction& i, uint8_t opcode, unsigned reg) {
  return i.size != 0 && i.opcode == opcode && (i.modrm >> 3 & 7U) == reg;
}
bool is_pair(const X87Instruction& i, uint8_t opcode, uint8_t modrm) {
  return i.size == 0 && i.opcode == opcode && i.modrm == modrm;
}
bool stores_environment(const X87Instruction& i) { return is(i, 1, 6) || is(i, 5, 6); }
bool loads_environment(const X87Instruction& i) { return is(i, 1, 4) || is(i, 5, 4); }
bool initializes(const X87Instruction& i) { return is_pair(i, 3, 0xe3) || is(i, 5, 6); }

// Of an error all is told.
LastX87 last_of(const X87Instruction& instruction, uint64_t operand, bool error, const LastX87& before) {
  LastX87 last;
  last.address = instruction.address;
  if (error || tells().operand) last.operand = instruction.size != 0 ? operand : before.operand;
  if (error || tells().opcode)
    last.opcode = static_cast<uint16_t>(instruction.opcode << 8 | instruction.modrm);
  return last;
}

// An unmasked exception may have kept it from storing. What it stores does not depend on what was there.
bool has_stored(const char* form, const Image& before) {
  Image image = before;
  Memory memory, untouched;
  constexpr uint8_t kAnything = 0xa5;
  uint64_t flags = 0;
  memory.fill(kAnything);
  untouched.fill(kAnything);
  execute<false>(form, image, memory.data(), flags);
  if (memory != untouched) return true;
  image = before;
  memory.fill(0);
  untouched.fill(0);
  execute<false>(form, image, memory.data(), flags);
  return memory != untouched;
}

// Executes one at `address`, its operand's, on the library's CPU.
void execute(void* cpu, const X87Instruction& instruction, uint64_t address, LastX87& last, uint64_t& flags,
             uintptr_t caller) {
  Image image;
  read_cpu(cpu, image);
  if (instruction.waits && error_pending(image.status, image.control))
    raise_in_library(cpu, vector::kX87Error, caller);
  Memory memory{};
  const bool environment = stores_environment(instruction);
  if (!instruction.stores) load(cpu, address, memory, instruction.size, caller);
  if (loads_environment(instruction)) last = told_last(memory, instruction.narrow);
  const Image before = image;
  const char* form = form_of(instruction.opcode, instruction.modrm, instruction.narrow);
  execute<false>(form, image, memory.data(), flags);
  if (environment) tell_last(memory, instruction.narrow, last);
  if (instruction.stores && (environment || (image.status & kSummary) == 0 || has_stored(form, before)))
    store(cpu, address, memory, instruction.size, caller);
  write_cpu(cpu, image);
  if (initializes(instruction)) last = {};
  if (instruction.has_address) last = last_of(instruction, address, (image.status & kSummary) != 0, last);
}

// SDM vol. 1, 9.5 and 9.6: an MMX instruction faults where an x87 exception is pending; it makes register 0
// the top of the stack and all of them valid, and what it writes gets an exponent of all ones. EMMS, too, has
// it so before it empties them.
void begin_mmx(void* cpu, const X87Instruction& instruction, uintptr_t caller) {
  const X87Place& at = place();
  if (error_pending(LibraryCpu::at<uint16_t>(cpu, at.status), LibraryCpu::at<uint16_t>(cpu, at.control)))
    raise_in_library(cpu, vector::kX87Error, caller);
  if (instruction.only_checks) return;
  LibraryCpu::at<uint32_t>(cpu, at.top) = 0;
  std::memset(&LibraryCpu::at<uint8_t>(cpu, at.empty), 0, kRegisters);  // not aligned as a word
  if (instruction.modrm != kNoRegister)
    LibraryCpu::at<uint16_t>(cpu, at.registers + kRegisterSlot * instruction.modrm + kExponent) = 0xffff;
}

thread_local uint64_t comparison = 0;  // EFLAGS of the FCOMI at hand

// Names and signatures: qemu/target/i386/helper.h of Unicorn 2.0.1.
using StoreEnvironment = void (*)(void*, uint64_t, int32_t);
using WithIndex = void (*)(void*, int32_t);
using Compare = void (*)(void*);

#define AFTERCHECK_INTERPOSED extern "C" __attribute__((visibility("default")))
#define AFTERCHECK_CALLER reinterpret_cast<uintptr_t>(__builtin_return_address(0))

AFTERCHECK_INTERPOSED void helper_fstenv_x86_64(void* cpu, uint64_t address, int32_t number) {
  static const auto own = library_function<StoreEnvironment>("helper_fstenv_x86_64");
  TranslationGuard* guard = TranslationGuard::current();
  const X87Instruction* instruction = guard != nullptr ? guard->x87(number) : nullptr;
  uint64_t flags = 0;
  if (instruction == nullptr) return own(cpu, address, number);
  execute(cpu, *instruction, address, guard->last_x87(), flags, AFTERCHECK_CALLER);
}

AFTERCHECK_INTERPOSED void helper_ffree_STN_x86_64(void* cpu, int32_t number) {
  static const auto own = library_function<WithIndex>("helper_ffree_STN_x86_64");
  TranslationGuard* guard = TranslationGuard::current();
  const X87Instruction* instruction = guard != nullptr ? guard->x87(number) : nullptr;
  uint64_t flags = 0;
  if (instruction == nullptr) return own(cpu, number);
  if (instruction->mmx) return begin_mmx(cpu, *instruction, AFTERCHECK_CALLER);
  execute(cpu, *instruction, 0, guard->last_x87(), flags, AFTERCHECK_CALLER);
}

// The two calls that FCOMI is translated to.
AFTERCHECK_INTERPOSED void helper_fmov_FT0_STN_x86_64(void* cpu, int32_t number) {
  static const auto own = library_function<WithIndex>("helper_fmov_FT0_STN_x86_64");
  TranslationGuard* guard = TranslationGuard::current();
  const X87Instruction* instruction = guard != nullptr ? guard->x87(number) : nullptr;
  if (instruction == nullptr) return own(cpu, number);
  comparison = 0;
  execute(cpu, *instruction, 0, guard->last_x87(), comparison, AFTERCHECK_CALLER);
}
AFTERCHECK_INTERPOSED void helper_fcomi_ST0_FT0_x86_64(void* cpu) {
  LibraryCpu::at<uint64_t>(cpu, LibraryCpu::places().flags) = comparison;
}

bool is_fcmov(uint8_t opcode, uint8_t modrm) {
  return (opcode == 2 || opcode == 3) && modrm >= 0xc0 && modrm < 0xe0;
}

}  // namespace

std::optional<X87Instruction> x87_instruction(const x86::WithOperands& decoded,
                                              std::span<const uint8_t> code) {
  const ZydisDecodedInstruction& from = decoded.instruction;
  constexpr uint8_t kFirst = 0xd8, kLast = 0xdf;
  if (from.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT || from.opcode < kFirst || from.opcode > kLast)
    return std::nullopt;
  X87Instruction result;
  result.opcode = static_cast<uint8_t>(from.opcode - kFirst);
  result.modrm = code[from.raw.modrm.offset];
  constexpr uint8_t kRegister = 3;  // ModRM.mod
  if (from.raw.modrm.mod != kRegister) {
    result.modrm = static_cast<uint8_t>(from.raw.modrm.reg << 3 | 6);
    const std::span operands(decoded.operands.data(), from.operand_count);
    for (const ZydisDecodedOperand& operand : operands) {
      if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY) continue;
      result.size = static_cast<uint8_t>(operand.size / 8);
      result.stores = (operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    }
    if (result.size == 0) return std::nullopt;
  }
  constexpr size_t kNarrowEnvironment = 14, kNarrowState = 94;
  result.narrow = result.size == kNarrowEnvironment || result.size == kNarrowState;
  if (is_fcmov(result.opcode, result.modrm) || is_pair(result, 7, 0xe0)) return std::nullopt;
  // FNSTENV, FNSTCW, FNSAVE, FNSTSW; FNENI, FNDISI, FNCLEX, FNINIT, FNSETPM.
  const bool at_once = result.size == 0 && result.opcode == 3 && result.modrm >= 0xe0 && result.modrm <= 0xe4;
  result.waits = !(stores_environment(result) || is(result, 1, 7) || is(result, 5, 7) || at_once);
  const bool loads_control = is(result, 1, 5) || loads_environment(result);
  result.has_address = result.waits && !loads_control;
  result.compares = result.size == 0 && (result.opcode == 3 || result.opcode == 7) && result.modrm >= 0xe8 &&
                    result.modrm < 0xf8;
  return result;
}

Shown shown_for(const X87Instruction& instruction) {
  constexpr Shown kFnstenv = {0xd9, 6 << 3}, kFfree = {0xdd, 0xc0}, kFcomi = {0xdb, 0xf0};
  if (instruction.size != 0) return kFnstenv;
  return instruction.compares ? kFcomi : kFfree;
}

void execute_fcmov(uint8_t opcode, uint8_t modrm, uint64_t rflags, FpuState& fpu) {
  Image image;
  constexpr size_t kHead = 5, kStack = 32, kStackSize = 128;  // control and status word, tags
  std::memcpy(static_cast<void*>(&image), fpu.fxsave.data(), kHead);
  std::memcpy(image.stack.data(), &fpu.fxsave[kStack], kStackSize);
  execute<true>(form_of(opcode, modrm, false), image, nullptr, rflags);
  std::memcpy(fpu.fxsave.data(), &image, kHead);
  std::memcpy(&fpu.fxsave[kStack], image.stack.data(), kStackSize);
}

// FXSAVE64 (SDM vol. 1, table 10-2).
constexpr size_t kLastOpcode = 6, kLastAddress = 8, kLastOperand = 16;

bool x87_error_pending(const FpuState& fpu) {
  uint16_t control = 0, status = 0;
  std::memcpy(&control, fpu.fxsave.data(), sizeof control);
  std::memcpy(&status, &fpu.fxsave[sizeof control], sizeof status);
  return error_pending(status, control);
}

LastX87 last_x87(const FpuState& fpu) {
  LastX87 last;
  std::memcpy(&last.opcode, &fpu.fxsave[kLastOpcode], sizeof last.opcode);
  std::memcpy(&last.address, &fpu.fxsave[kLastAddress], sizeof last.address);
  std::memcpy(&last.operand, &fpu.fxsave[kLastOperand], sizeof last.operand);
  return last;
}

void tell_last_x87(const LastX87& last, FpuState& fpu) {
  std::memcpy(&fpu.fxsave[kLastOpcode], &last.opcode, sizeof last.opcode);
  std::memcpy(&fpu.fxsave[kLastAddress], &last.address, sizeof last.address);
  std::memcpy(&fpu.fxsave[kLastOperand], &last.operand, sizeof last.operand);
}

void enter_mmx(void* cpu, const void* operand) {
  const X87Place& at = place();
  const auto* registers = &LibraryCpu::at<uint8_t>(cpu, at.registers);
  const auto* where = static_cast<const uint8_t*>(operand);
  if (where < registers || where >= registers + kRegisters * kRegisterSlot) return;
  LibraryCpu::at<uint32_t>(cpu, at.top) = 0;
  std::memset(&LibraryCpu::at<uint8_t>(cpu, at.empty), 0, kRegisters);
}

void write_mmx(void* operand, uint64_t value) {
  constexpr uint16_t kOnes = 0xffff;
  std::memcpy(operand, &value, sizeof value);
  std::memcpy(static_cast<uint8_t*>(operand) + kExponent, &kOnes, sizeof kOnes);
}

void check_x87() { place(); }

}  // namespace aftercheck::soft
