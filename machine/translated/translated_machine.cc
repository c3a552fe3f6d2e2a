#include "machine/translated/translated_machine.h"

#include <sys/auxv.h>

#include <new>

#include "base/error.h"
#include "base/log.h"
#include "machine/translated/host_faults.h"
#include "machine/translated/translated_vcpu.h"

namespace aftercheck {

std::unique_ptr<Machine> create_translated_machine(AddressSpace& space, const CpuModel& cpu) {
  return std::make_unique<translated::TranslatedMachine>(space, cpu);
}

namespace translated {
namespace {

// Bytes of each of the two areas. They are taken as they are needed, and when one is full all is made anew.
constexpr uint64_t kAreaSize = uint64_t{128} << 20, kStoppingAreaSize = uint64_t{32} << 20;

// A page that is written so often, counting since it was last executed in steps, is: for so many
// instructions. A store to guarded code costs some 10 us with the translation that it takes, a step 1.
constexpr unsigned kManyWrites = 16, kStepsThen = 512;

struct Low {
  Context context;
  Tables tables;
};

void probe_host(const CpuModel& cpu) {
  constexpr unsigned long kFsgsbase = 2;  // HWCAP2_FSGSBASE, arch/x86/include/uapi/asm/hwcap2.h
  if ((getauxval(AT_HWCAP2) & kFsgsbase) == 0)
    fail(ErrorKind::host_lacks,
         "the translated machine needs the instructions of FSGSBASE (Linux 5.9 and an x86-64 processor of "
         "2012 or later); use --machine soft");
  if (cpu.kind() != CpuModelKind::portable)
    fail(ErrorKind::host_lacks,
         "the translated machine has the portable CPU model only, and this is --cpu {}; use --machine kvm",
         name(cpu.kind()));
}

uint64_t whole_pages(uint64_t size) { return page_up(size); }

}  // namespace

TranslatedMachine::TranslatedMachine(AddressSpace& space, const CpuModel& cpu, Counting counting)
    : space_(space), cpu_(cpu), counting_(counting), guards_(space) {
  probe_host(cpu);
  claim_host_faults();
  lent_ = space_.lend(whole_pages(sizeof(Low)));
  try {
    Low* const low = new (reinterpret_cast<void*>(lent_.start)) Low;
    context_ = &low->context;
    translator_ = std::make_unique<Translator>(
        space_, Places{context_, &low->tables}, low->tables, Style{.counting = counting_}, kAreaSize,
        [this](uint64_t page) { guards_.executed(page); });
  } catch (...) {
    space_.take_back(lent_);
    throw;
  }
  space_.add_observer(this);
  AFTERCHECK_LOG_TO(LogTopic::machine, "translated: context at {:#x}, branches counted in {}", lent_.start,
                    counting_ == Counting::vector ? "XMM31" : "memory");
}

TranslatedMachine::~TranslatedMachine() {
  space_.remove_observer(this);
  stopping_.reset();
  translator_.reset();
  if (stopping_tables_.size() != 0) space_.take_back(stopping_tables_);
  space_.take_back(lent_);
}

std::unique_ptr<Vcpu> TranslatedMachine::create_vcpu() { return std::make_unique<TranslatedVcpu>(*this); }

Translator& TranslatedMachine::stopping_translator() {
  if (stopping_ != nullptr) return *stopping_;
  stopping_tables_ = space_.lend(whole_pages(sizeof(Tables)));
  Tables* const tables = new (reinterpret_cast<void*>(stopping_tables_.start)) Tables;
  stopping_ = std::make_unique<Translator>(
      space_, Places{context_, tables}, *tables, Style{.counting = counting_, .stopping = true},
      kStoppingAreaSize, [this](uint64_t page) { guards_.executed(page); });
  return *stopping_;
}

void TranslatedMachine::code_changed(Range range) {
  translator_->forget(range);
  if (stopping_ != nullptr) stopping_->forget(range);
}

void TranslatedMachine::on_map(Range range, int) {
  code_changed(range);
  for (const uint64_t page : guards_.mapped(range)) code_changed({page, page + kPageSize});
  if (!written_.empty())
    std::erase_if(written_, [range](const auto& entry) { return range.contains(entry.first); });
}

bool TranslatedMachine::page_written(uint64_t page) {
  code_changed({page, page + kPageSize});
  Written& written = written_[page];
  if (++written.times < kManyWrites) return false;
  written = {0, kStepsThen};
  return true;
}

bool TranslatedMachine::stepped(uint64_t address) {
  if (written_.empty()) return false;
  const auto found = written_.find(page_down(address));
  if (found == written_.end() || found->second.steps_left == 0) return false;
  --found->second.steps_left;
  return true;
}

}  // namespace translated
}  // namespace aftercheck
