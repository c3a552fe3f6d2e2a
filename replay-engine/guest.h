// The guest of a replay as an object: its memory, the machine that runs it, its threads. It takes what the
// log says and compares itself with it; it runs nothing by itself.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "machine/breakpoints.h"
#include "machine/page_map.h"
#include "machine/vcpu.h"
#include "recording/digest.h"
#include "recording/event.h"
#include "recording/position.h"
#include "recording/store.h"
#include "replay-engine/exit_text.h"
#include "replay-engine/shared_files.h"

namespace aftercheck {

// One thread of the guest. Its registers and FPU are in the guest's vCPU while that runs it, else here.
class GuestThread {
 public:
  explicit GuestThread(uint32_t number) : number_(number) {}

  uint32_t number() const { return number_; }
  Registers& registers() { return vcpu_ != nullptr ? vcpu_->registers() : registers_; }
  FpuState fpu() const { return vcpu_ != nullptr ? vcpu_->fpu() : fpu_; }
  void set_fpu(const FpuState& state);
  // Over the registers at all of its exits so far.
  recording::RunningDigest& digest() { return digest_; }

 private:
  friend class Guest;
  const uint32_t number_;
  Vcpu* vcpu_ = nullptr;  // that runs it
  Registers registers_{};
  FpuState fpu_ = FpuState::initial();
  recording::RunningDigest digest_;
};

// How the guest is not what the log says.
struct Difference {
  std::string actual;  // what came, as describe_exit() has it
  std::string detail;
};

struct GuestOptions {
  MachineChoice machine = MachineChoice::automatic;
  MachineNeeds needs;  // of each machine that runs it
  CpuModel cpu;
  SystemCallName system_call_name;
  // Where in the log the event under way is, for errors: "DIR/events: event 7 (in the chunk at offset 0)".
  std::function<std::string()> where;
};

// One at a time in a process, because of its address space. Not thread-safe. What the log says is hostile
// input: it ends in Error(bad_input) that names the event.
//
// However many threads it has, one runs at a time, and all run on the same vCPU: a vCPU has translated code,
// or is one of the few that a virtual machine can have, and a recording may start a hundred thousand threads.
class Guest {
 public:
  // `store` must outlive the guest. Throws Error(host_lacks) where the machine can't be had.
  Guest(GuestOptions options, recording::Store& store);
  ~Guest();
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;

  AddressSpace& space() { return space_; }
  const AddressSpace& space() const { return space_; }
  // Shared by all who set any. They outlive what answers write or map over them.
  Breakpoints& breakpoints() { return *breakpoints_; }
  const CpuModel& cpu() const { return options_.cpu; }
  Machine& machine() { return *machine_; }
  const MachineNeeds& needs() const { return options_.needs; }
  SharedFiles& shared_files() { return files_; }
  // The one with this number, which must exist.
  GuestThread& thread(uint32_t number);
  // By number. Thread 0 may be gone before others.
  const std::map<uint32_t, std::unique_ptr<GuestThread>>& threads() const { return threads_; }
  // The one that the vCPU runs. It may be gone already, until another runs.
  GuestThread& running() { return *running_; }
  const GuestThread& running() const { return *running_; }
  // From now on the vCPU runs this one.
  void run(GuestThread& thread);

  // The vCPU that runs the guest now, and the one of its own machine.
  Vcpu& vcpu() { return *vcpu_; }
  Vcpu& own_vcpu() { return *own_; }

  // Makes the event's answer happen, in the thread it belongs to, which comes or goes where the event says
  // that.
  void apply(const recording::Event& event);
  // As before the first event.
  void reset();
  // The thread has come to this exit: nothing where event and exit agree, memory included; its running digest
  // counts it then.
  std::optional<Difference> differs_from(const recording::Event& event, const Exit& exit);
  // Are memory and the thread's FPU as at this event?
  bool memory_matches(const recording::Event& event) { return memory_difference(event).empty(); }
  // One stretch of it; and whether all of that can be read.
  bool memory_matches(const recording::MemoryDigest& stretch);
  bool readable(const recording::MemoryDigest& stretch) { return read_stretch(stretch); }

  // Guest memory as it is without breakpoints; false where some byte can't be read.
  bool read(uint64_t address, std::span<std::byte> bytes) const;

  // Another vCPU goes on with the guest: the one place where registers, FPU and breakpoints move.
  void move(Vcpu& to);
  // A soft vCPU on the same memory, whatever the guest's own machine is.
  Vcpu& soft_vcpu();
  // May it be the soft vCPU that runs the guest? Not with the v3 model, whose registers it lacks.
  bool may_be_on_soft() const { return options_.cpu.kind() != CpuModelKind::v3; }
  // One that counts branches: its own, or where the guest's machine is KVM a translated one on the same
  // memory. `must`: a soft one will do, which from now on counts. Null: there is none.
  Vcpu* counting_vcpu(bool must = false);

  // XXH3-64 over its canonical registers and canonical FPU state.
  uint64_t registers_digest(GuestThread& thread);
  // The state of the thread's instant, memory and FPU included. Reads all of the guest's memory.
  recording::FullState full_state(GuestThread& thread);
  // XXH3-128 over address and contents of every page, by ascending address, that is not all zeros; without
  // breakpoints, in original code. The same whatever machine runs the guest and however it got there.
  recording::Digest128 memory_digest();

  // The guest as events that would build it, but for the contents of its memory: a start, and a start of each
  // thread but the first.
  std::vector<recording::Event> describe();

  // fork(2), parent and child each with a guest of their own. In the child machines are made anew (KVM's
  // descriptors serve the process that made them only), so what was set in vCPUs is gone, and its own one
  // runs it again. Memory that is shared is still the same in both where its files are joined with those of
  // other processes and `shares` says so; else a copy. -1 with errno, as fork.
  pid_t fork(bool shares = false);

 private:
  const GuestOptions options_;
  recording::Store& store_;
  AddressSpace space_;
  SharedFiles files_;
  std::unique_ptr<Machine> machine_;
  // Besides, for parts of a replay that go better there.
  std::unique_ptr<Machine> soft_machine_, counting_machine_;
  bool cannot_count_ = false;  // the host lacks what a counting machine needs
  std::unique_ptr<Vcpu> own_;
  std::unique_ptr<Vcpu> soft_, counting_;  // of the other machines; made when they are first wanted
  Vcpu* vcpu_;
  std::map<uint32_t, std::unique_ptr<GuestThread>> threads_;
  GuestThread* running_;
  std::unique_ptr<GuestThread> gone_;       // running_, where that has ended
  std::vector<bool> had_threads_ = {true};  // by number; those of before a checkpoint are not known
  std::optional<Breakpoints> breakpoints_;
  std::unique_ptr<PageMap> pages_;
  std::vector<std::byte> buffer_;

  [[noreturn]] void bad(const std::string& what) const;
  // Puts the stretch into buffer_; false where it can't be read.
  bool read_stretch(const recording::MemoryDigest& stretch);
  std::string memory_difference(const recording::Event& event);
  std::string text(recording::EventKind kind, uint64_t rip, const std::vector<uint64_t>& operands) const;
  void claim(Range range);
  void apply_space_op(const recording::SpaceOp& op);
  void map_blob(const recording::SpaceOp& op, Range range);
  void map_numbered(const recording::SpaceOp& op, Range range);
  void resize_file(const recording::SpaceOp& op);
  void fill_file(const recording::SpaceOp& op);
  std::vector<Range> file_pages(const Mapping& mapping);
  void grow_shared(const recording::SpaceOp& op);
  void only_thread(uint32_t number);
  void start_thread(const recording::Event& event);
  void end_thread(GuestThread& thread);
  void apply_registers(GuestThread& thread, const recording::Event& event);
  Vcpu* translated_counting_vcpu();
  Machine& machine_of(const Vcpu& vcpu);
  // The vCPU lets go of the thread that it runs, or takes it up again.
  void park();
  void unpark();
  void separate(MachineChoice choice, bool shares);
};

}  // namespace aftercheck
