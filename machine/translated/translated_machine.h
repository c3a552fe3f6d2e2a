// The machine that translates guest code to itself: what its vCPUs share.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "machine/translated/context.h"
#include "machine/translated/counting.h"
#include "machine/translated/lent_memory.h"
#include "machine/translated/notes.h"
#include "machine/translated/page_guards.h"
#include "machine/translated/translator.h"
#include "machine/vcpu.h"

namespace aftercheck::translated {

class TranslatedVcpu;

class TranslatedMachine final : public Machine, private SpaceObserver {
 public:
  TranslatedMachine(AddressSpace& space, const CpuModel& cpu, Counting counting, Stores stores);
  ~TranslatedMachine() override;

  MachineKind kind() const override { return MachineKind::translated; }
  std::unique_ptr<Vcpu> create_vcpu() override;
  void code_changed(Range range) override;
  void program_begins(const std::string& key) override;
  void tell_prepared() override;
  StoreJournal* journal() override { return journal_ ? &*journal_ : nullptr; }

  AddressSpace& space() { return space_; }
  const CpuModel& cpu() const { return cpu_; }
  Counting counting() const { return counting_; }
  PageGuards& guards() { return guards_; }

  // The registers of translated code, which one vCPU has at a time.
  Context& context() { return low_->context; }
  // False where the guest has written over what lies around them.
  bool intact() const { return low_.intact() && (!stopping_tables_ || stopping_tables_->intact()); }
  TranslatedVcpu*& holder() { return holder_; }

  // The usual one; and one whose code stops (Style::stopping), made when it is first wanted.
  Translator& translator() { return *translator_; }
  Translator& stopping_translator();
  // As Translator::find_place(), whose code ever it is.
  std::optional<Translator::Place> find_place(uint64_t pc) const;

  // What translated code notes in notes() from now on. `forgets` is called before numbers of paths become
  // those of others.
  void set_notes(const Notes& noted, std::function<void()> forgets);
  NoteBuffer& notes() { return *notes_; }
  // Is that where a note would go for which there is no room?
  bool lacks_room(uint64_t address) const { return notes_ && notes_->is_overrun(address); }

  // A store has changed, or is about to change, code in this page. True: it does so often, and for a while
  // its code had better be executed an instruction at a time.
  bool page_written(uint64_t page);
  // Is code there to be executed an instruction at a time? Counts down.
  bool stepped(uint64_t address);

 private:
  AddressSpace& space_;
  const CpuModel cpu_;
  const Counting counting_;
  struct Low {
    Context context;
    Tables tables;
  };
  Lent<Low> low_;
  std::optional<Lent<Tables>> stopping_tables_;
  std::optional<StoreJournal> journal_;
  std::optional<NoteBuffer> notes_;
  std::function<void()> forgets_;
  Notes noted_;
  PageGuards guards_;
  std::unique_ptr<Translator> translator_, stopping_;
  TranslatedVcpu* holder_ = nullptr;
  std::string program_;  // empty: what is translated is not told
  // In a child of fork(2) that has not done away with it yet, a machine's code is its parent's, who goes on
  // executing it.
  const pid_t process_;
  struct Written {
    unsigned times = 0;
    unsigned steps_left = 0;
  };
  std::unordered_map<uint64_t, Written> written_;

  bool is_parents() const;
  void on_map(Range range, int prot) override;
  void on_unmap(Range range) override { on_map(range, 0); }
  void on_protect(Range range, int prot) override { on_map(range, prot); }
  void on_code_change(Range range) override { code_changed(range); }
};

}  // namespace aftercheck::translated
