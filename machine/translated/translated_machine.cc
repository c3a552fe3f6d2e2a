#include "machine/translated/translated_machine.h"

#include <sys/auxv.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "machine/translated/code_image.h"
#include "machine/translated/host_faults.h"
#include "machine/translated/translated_vcpu.h"

namespace aftercheck {

std::unique_ptr<Machine> create_translated_machine(AddressSpace& space, const CpuModel& cpu,
                                                   BranchCounts counts, Stores stores) {
  if (stores == Stores::trapped) fail(ErrorKind::internal, "the translated machine does not trap stores");
  return std::make_unique<translated::TranslatedMachine>(
      space, cpu,
      counts == BranchCounts::in_memory ? translated::Counting::memory : translated::best_counting(), stores);
}

namespace translated {
namespace {

// Where the context of this process's last machine was. In a child of fork(2) the next is where its parent's
// was, so that its code can be that of other processes.
std::atomic<uint64_t> last_place{0};

// By program; processes leave them when they fork and when they end.
CodeImages& images() {
  static CodeImages all(uint64_t{256} << 20);
  return all;
}

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

// Bytes of each of the two areas. They are taken as they are needed, and when one is full all is made anew.
constexpr uint64_t kAreaSize = uint64_t{128} << 20, kStoppingAreaSize = uint64_t{32} << 20,
                   kJournaledAreaSize = kStoppingAreaSize;

// A page that is written so often, counting since it was last executed in steps, is: for so many
// instructions. A store to guarded code costs some 10 us with the translation that it takes, a step 1.
constexpr unsigned kManyWrites = 16, kStepsThen = 512;

const CpuModel& probed(const CpuModel& cpu) {
  constexpr unsigned long kFsgsbase = 2;  // HWCAP2_FSGSBASE, arch/x86/include/uapi/asm/hwcap2.h
  if ((getauxval(AT_HWCAP2) & kFsgsbase) == 0)
    fail(ErrorKind::host_lacks,
         "the translated machine needs the instructions of FSGSBASE (Linux 5.9 and an x86-64 processor of "
         "2012 or later); use --machine {}",
         cpu.kind() == CpuModelKind::portable ? "soft" : "kvm");
  if (cpu.kind() == CpuModelKind::host)
    fail(
        ErrorKind::host_lacks,
        "the translated machine has the CPU models portable and v3 only, and this is --cpu {}; use --machine "
        "kvm",
        name(cpu.kind()));
  require_host(cpu.kind());
  return cpu;
}

}  // namespace

TranslatedMachine::TranslatedMachine(AddressSpace& space, const CpuModel& cpu, Counting counting,
                                     Stores stores)
    : space_(space),
      cpu_(probed(cpu)),
      counting_(counting),
      low_(space, last_place),
      guards_(space),
      process_(getpid()) {
  last_place = low_.place();
  claim_host_faults();
  const bool journaled = stores == Stores::journaled;
  if (journaled) journal_.emplace(low_->context.journal);
  translator_ = std::make_unique<Translator>(
      space_, Places{&low_->context, &low_->tables}, low_->tables,
      Style{
          .model = cpu_.kind(), .counting = counting_, .journaled = journaled, .loop = fast_loop(counting_)},
      journaled ? kJournaledAreaSize : kAreaSize, [this](uint64_t page) { guards_.executed(page); });
  space_.add_observer(this);
  AFTERCHECK_LOG_TO(LogTopic::machine, "translated: context at {:#x}, branches counted in {}",
                    reinterpret_cast<uint64_t>(&low_->context),
                    counting_ == Counting::vector ? "XMM31" : "memory");
}

TranslatedMachine::~TranslatedMachine() { space_.remove_observer(this); }

std::unique_ptr<Vcpu> TranslatedMachine::create_vcpu() { return std::make_unique<TranslatedVcpu>(*this); }

Translator& TranslatedMachine::stopping_translator() {
  if (stopping_ != nullptr) return *stopping_;
  Tables& tables = *stopping_tables_.emplace(space_);
  stopping_ = std::make_unique<Translator>(
      space_, Places{&low_->context, &tables}, tables,
      Style{.model = cpu_.kind(), .counting = counting_, .stopping = true, .loop = fast_loop(counting_)},
      kStoppingAreaSize, [this](uint64_t page) { guards_.executed(page); });
  stopping_->forgets = forgets_;
  stopping_->set_notes(noted_);
  return *stopping_;
}

bool TranslatedMachine::is_parents() const { return getpid() != process_; }

void TranslatedMachine::set_notes(const Notes& noted, std::function<void()> forgets) {
  if (is_parents()) return;
  Context& c = low_->context;
  if (noted.flow && !notes_) notes_.emplace(c.note, c.noted_target, c.noted_address);
  noted_ = noted;
  forgets_ = std::move(forgets);
  for (Translator* translator : {translator_.get(), stopping_.get()}) {
    if (translator == nullptr) continue;
    translator->forgets = forgets_;
    translator->set_notes(noted);
  }
}

void TranslatedMachine::program_begins(const std::string& key) {
  program_ = key;
  std::optional<KeptImage> image = images().find(bytes_of(key));
  const bool adopted = image && translator_->adopt(std::move(*image));
  AFTERCHECK_LOG_TO(LogTopic::machine, "translated: {} code of an earlier process",
                    adopted ? "goes on with" : "has no");
}

void TranslatedMachine::tell_prepared() {
  if (program_.empty() || !translator_->worth_sharing()) return;
  translator_->leave_image(images(), bytes_of(program_));
}

std::optional<Translator::Place> TranslatedMachine::find_place(uint64_t pc) const {
  if (const auto place = translator_->find_place(pc)) return place;
  return stopping_ != nullptr ? stopping_->find_place(pc) : std::nullopt;
}

void TranslatedMachine::code_changed(Range range) {
  if (is_parents()) return;
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
