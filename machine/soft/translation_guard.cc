#include "machine/soft/translation_guard.h"

#include <array>
#include <atomic>
#include <cstring>
#include <utility>

#include "machine/soft/fault_analysis.h"
#include "machine/soft/library_function.h"

namespace aftercheck::soft {
namespace {

// Names and signatures: qemu/include/exec/{translator,cpu_ldst}.h, qemu/include/tcg/tcg-op.h,
// qemu/accel/tcg/cputlb.c and qemu/target/i386/excp_helper.c of Unicorn 2.0.1; the suffix is Unicorn's per
// target. The library's own types stay opaque.
using Generate = void (*)(void*, void*, int);
using LoadByte = uint32_t (*)(void*, uint64_t);
using MemoryOp = void (*)(void*, void*, void*, uint64_t, uint32_t);
using Extend = void (*)(void*, void*, void*);
using Constant = void* (*)(void*, int32_t);
using Call = void (*)(void*, void*, void*, int, void**);
using AddImmediate = void (*)(void*, void*, void*, int64_t);
using SlowLoad = uint64_t (*)(void*, uint64_t, uint32_t, uintptr_t);
using SlowStore = void (*)(void*, uint64_t, uint64_t, uint32_t, uintptr_t);
using Raise = void (*)(void*, int, int, uintptr_t);

struct Library {
  Generate generate = library_function<Generate>("gen_intermediate_code_x86_64");
  LoadByte load_byte = library_function<LoadByte>("cpu_ldub_code_x86_64");
  MemoryOp load = library_function<MemoryOp>("tcg_gen_qemu_ld_i64_x86_64");
  MemoryOp store = library_function<MemoryOp>("tcg_gen_qemu_st_i64_x86_64");
  Extend extend = library_function<Extend>("tcg_gen_ext32u_i64_x86_64");
  AddImmediate add_immediate = library_function<AddImmediate>("tcg_gen_addi_i64_x86_64");
  Constant constant = library_function<Constant>("tcg_const_i32_x86_64");
  Call call = library_function<Call>("tcg_gen_callN_x86_64");
  void* enter_mmx = dlsym(RTLD_DEFAULT, "helper_enter_mmx_x86_64");
  void* with_number = dlsym(RTLD_DEFAULT, "helper_ffree_STN_x86_64");
  SlowLoad slow_load = library_function<SlowLoad>("helper_le_ldq_mmu_x86_64");
  SlowStore slow_store = library_function<SlowStore>("helper_le_stq_mmu_x86_64");
  Raise raise = library_function<Raise>("raise_exception_err_ra_x86_64");
};

const Library& library() {
  static const Library found;
  return found;
}

// qemu/include/exec/memop.h: the alignment that an access needs, as a power of two in bits 4 to 6.
constexpr uint32_t kAlign16 = 4 << 4, kAlignMask = 7 << 4;
// And there: the size, as a power of two in bits 0 and 1.
constexpr uint32_t kSizeMask = 3, kSize32 = 2;
constexpr uint8_t kHalfWord = 4;
// A slow access is told as its memory operation and, in the low four bits, the MMU's index.
constexpr uint32_t kOperationShift = 4;

bool misaligned(uint64_t address, uint32_t index) {
  return (index >> kOperationShift & kAlignMask) == kAlign16 && address % 16 != 0;
}

thread_local TranslationGuard* current = nullptr;

constexpr int32_t kX87Number = 1 << 30;  // no translator's number is as large

std::atomic<bool> seen{false};

}  // namespace

TranslationGuard* TranslationGuard::current() { return soft::current; }

TranslationGuard::Scope::Scope(TranslationGuard& guard) : previous_(soft::current) { soft::current = &guard; }
TranslationGuard::Scope::~Scope() { soft::current = previous_; }

bool TranslationGuard::interposed() { return seen.load(); }

void TranslationGuard::begin(uint64_t address) {
  seen.store(true, std::memory_order_relaxed);
  block_.clear();
  start_ = next_ = address;
  form_ = {};
}

void TranslationGuard::decode(uint64_t address) {
  start_ = address;
  form_ = {};
  const std::span<const uint8_t> code = code_at(address, tables_);
  const Verdict verdict = judge(code, model_, &form_);
  number_taken_ = false;
  first_address_ = nullptr;
  if (form_.x87) form_.x87->address = address;
  block_.push_back({address, verdict});
  next_ = address + verdict.length;
}

const uint8_t* TranslationGuard::byte_at(uint64_t address) {
  if (address == next_) decode(address);
  return address - start_ < form_.replaced ? &form_.bytes[address - start_] : nullptr;
}

bool TranslationGuard::take_alignment() {
  const bool wanted = form_.aligned;
  form_.aligned = false;
  return wanted;
}

// An instruction that is translated again keeps its number.
int32_t TranslationGuard::number_of(const X87Instruction& instruction) {
  const auto [first, last] = numbers_.equal_range(instruction.address);
  for (auto it = first; it != last; ++it)
    if (x87_[static_cast<size_t>(it->second)] == instruction) return kX87Number | it->second;
  const auto number = static_cast<int32_t>(x87_.size());
  x87_.push_back(instruction);
  numbers_.emplace(instruction.address, number);
  return kX87Number | number;
}

std::optional<int32_t> TranslationGuard::take_x87_number() {
  if (!form_.x87 || std::exchange(number_taken_, true)) return std::nullopt;
  return number_of(*form_.x87);
}

std::optional<int32_t> TranslationGuard::take_mmx_number() {
  if (!form_.mmx.any || std::exchange(number_taken_, true)) return std::nullopt;
  X87Instruction instruction;
  instruction.mmx = true;
  instruction.only_checks = form_.mmx.converts;
  instruction.modrm = form_.mmx.target < 0 ? kNoRegister : static_cast<uint8_t>(form_.mmx.target);
  return number_of(instruction);
}

const X87Instruction* TranslationGuard::x87(int32_t number) const {
  return (number & kX87Number) != 0 ? &x87_[static_cast<size_t>(number & ~kX87Number)] : nullptr;
}

namespace {

// What the library calls in place of its own functions.
#define AFTERCHECK_INTERPOSED extern "C" __attribute__((visibility("default")))

AFTERCHECK_INTERPOSED void gen_intermediate_code_x86_64(void* cpu, void* block, int most) {
  seen.store(true, std::memory_order_relaxed);
  if (current != nullptr) {
    uint64_t address = 0;  // the first member of TranslationBlock
    std::memcpy(&address, block, sizeof address);
    current->begin(address);
  }
  library().generate(cpu, block, most);
}

AFTERCHECK_INTERPOSED uint32_t cpu_ldub_code_x86_64(void* cpu, uint64_t address) {
  if (current != nullptr)
    if (const uint8_t* byte = current->byte_at(address)) return *byte;
  return library().load_byte(cpu, address);
}

AFTERCHECK_INTERPOSED void* tcg_const_i32_x86_64(void* context, int32_t value) {
  const auto number = current != nullptr ? current->take_x87_number() : std::nullopt;
  return library().constant(context, number.value_or(value));
}

// Calls of the library's functions for instructions. Before the first of an MMX instruction, which always has
// the CPU as its first argument, one of x87.cc's is put, and helper_enter_mmx, which does less, is dropped;
// it is also where no MMX register is used (CVTPI2PD with memory).
AFTERCHECK_INTERPOSED void tcg_gen_callN_x86_64(void* context, void* function, void* result, int count,
                                                void** arguments) {
  if (current != nullptr && count > 0) {
    if (const auto number = current->take_mmx_number()) {
      // A TCGv is the offset of its TCGTemp in the context (qemu/include/tcg/tcg.h).
      void* temporary =
          static_cast<char*>(context) + reinterpret_cast<uintptr_t>(library().constant(context, *number));
      std::array<void*, 2> both = {arguments[0], temporary};
      library().call(context, library().with_number, nullptr, static_cast<int>(both.size()), both.data());
    }
    if (function == library().enter_mmx) return;
  }
  library().call(context, function, result, count, arguments);
}

// Unicorn loads and stores 16 bytes as two halves; the lower one comes first. Where an instruction loads
// fewer, the second is loaded from where the first was.
AFTERCHECK_INTERPOSED void tcg_gen_qemu_ld_i64_x86_64(void* context, void* value, void* address,
                                                      uint64_t index, uint32_t operation) {
  if (current != nullptr && current->loads() != 0) {
    void*& first = current->first_address();
    if (first == nullptr) first = address;
    if (current->loads() == kHalfWord) operation = (operation & ~kSizeMask) | kSize32;
    library().load(context, value, first, index, operation);
    return;
  }
  const bool aligned = current != nullptr && current->take_alignment();
  library().load(context, value, address, index, aligned ? operation | kAlign16 : operation);
}

AFTERCHECK_INTERPOSED void tcg_gen_qemu_st_i64_x86_64(void* context, void* value, void* address,
                                                      uint64_t index, uint32_t operation) {
  const bool aligned = current != nullptr && current->take_alignment();
  library().store(context, value, address, index, aligned ? operation | kAlign16 : operation);
}

// Where translated code goes with an address that is not aligned as asked (or is not in the TLB). The
// library would call a function of its CPU class that x86 lacks.
AFTERCHECK_INTERPOSED uint64_t helper_le_ldq_mmu_x86_64(void* cpu, uint64_t address, uint32_t index,
                                                        uintptr_t return_address) {
  if (misaligned(address, index)) library().raise(cpu, vector::kGeneralProtection, 0, return_address);
  return library().slow_load(cpu, address, index, return_address);
}

AFTERCHECK_INTERPOSED void helper_le_stq_mmu_x86_64(void* cpu, uint64_t address, uint64_t value,
                                                    uint32_t index, uintptr_t return_address) {
  if (misaligned(address, index)) library().raise(cpu, vector::kGeneralProtection, 0, return_address);
  library().slow_store(cpu, address, value, index, return_address);
}

// BSF and BSR with a source of zero leave all 64 bits of their target as they were, the 32-bit forms too;
// Unicorn's end with a zero-extension, which cuts nothing but that (a bit's number is below 32). It also
// extends the source, in place.
AFTERCHECK_INTERPOSED void tcg_gen_ext32u_i64_x86_64(void* context, void* to, void* from) {
  if (current != nullptr && current->keeps_upper_half() && to != from)
    library().add_immediate(context, to, from, 0);  // a move
  else
    library().extend(context, to, from);
}

}  // namespace
}  // namespace aftercheck::soft
