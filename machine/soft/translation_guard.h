// Stands between Unicorn's translator and the guest's code. Unicorn 2.0.1 aborts the process ("tcg fatal
// error") on encodings that no processor accepts, a LOCK before BT with a register for one, and it reads some
// prefixes as no processor does. So each instruction is decoded when the translator reads its first byte, and
// where it must not see the code as it is, it is given other bytes: one that is undefined in 64-bit mode for
// what must fault or be refused, and prefixes of the same meaning. The guest's memory stays as it is.
//
// The library's own functions are interposed, as in unicorn_stores.cc. Without that the soft vCPU is not
// safe, and UnicornEngine refuses to work.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "machine/soft/instruction_check.h"
#include "machine/soft/page_tables.h"

namespace aftercheck::soft {

class TranslationGuard {
 public:
  struct Instruction {
    uint64_t address = 0;
    Verdict verdict;
  };

  // `tables` must outlive the guard.
  TranslationGuard(const PageTables& tables, CpuModelKind model) : tables_(tables), model_(model) {}

  // While one lives, what this thread translates is guarded.
  class Scope {
   public:
    explicit Scope(TranslationGuard& guard);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    TranslationGuard* previous_;
  };

  // The instructions of the block that was translated last, in order.
  std::span<const Instruction> block() const { return block_; }

  // Has the library ever translated through us?
  static bool interposed();

  // For the interposed functions: the translator begins a block at `address`; it reads the byte at `address`,
  // which nullptr leaves as it is.
  void begin(uint64_t address);
  const uint8_t* byte_at(uint64_t address);
  // Of the instruction being translated: must its first access be aligned to 16 bytes (asked once)? Does it
  // leave the upper half of its register alone where Unicorn clears it?
  bool take_alignment();
  bool keeps_upper_half() const { return form_.keeps_upper_half; }
  // The number that stands for it in place of the one that the translator takes from what it was shown
  // (asked once), where it is of x87; and the instruction that a number stands for, null for others.
  std::optional<int32_t> take_x87_number();
  const X87Instruction* x87(int32_t number) const;
  // The same for what comes before an MMX instruction.
  std::optional<int32_t> take_mmx_number();
  bool uses_mmx() const { return form_.mmx.any; }

  // Bytes that the instruction at hand loads where Unicorn loads 16 in two halves; 0: as it does.
  uint8_t loads() const { return form_.loads; }
  // The address of the first half, kept for the second.
  void*& first_address() { return first_address_; }

  // Of the guest that runs.
  LastX87& last_x87() { return last_x87_; }
  // Whose Scope this thread is in; null: none.
  static TranslationGuard* current();

 private:
  void decode(uint64_t address);
  int32_t number_of(const X87Instruction& instruction);

  const PageTables& tables_;
  CpuModelKind model_;
  std::vector<Instruction> block_;
  uint64_t start_ = 0, next_ = 0;  // the instruction at hand, and the one behind it
  Form form_;
  bool number_taken_ = false;
  void* first_address_ = nullptr;
  std::vector<X87Instruction> x87_;                     // by number
  std::unordered_multimap<uint64_t, int32_t> numbers_;  // by address
  LastX87 last_x87_;
};

}  // namespace aftercheck::soft
