// The guest of a replay as an object: its memory, the machine that runs it, its threads. It takes what the
// log says and compares itself with it; it runs nothing by itself.
#pragma once

#include <cstdint>
#include <functional>
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

// One thread of the guest. Registers and FPU are in the vCPU that runs it, which may change.
class GuestThread {
 public:
  GuestThread(uint32_t number, std::unique_ptr<Vcpu> own)
      : number_(number), own_(std::move(own)), vcpu_(own_.get()) {}

  uint32_t number() const { return number_; }
  // The one that runs it now, and the one of the guest's own machine.
  Vcpu& vcpu() { return *vcpu_; }
  Vcpu& own_vcpu() { return *own_; }
  Registers& registers() { return vcpu_->registers(); }
  // Over the registers at all of its exits so far.
  recording::RunningDigest& digest() { return digest_; }

 private:
  friend class Guest;
  const uint32_t number_;
  std::unique_ptr<Vcpu> own_;
  std::unique_ptr<Vcpu> soft_, counting_;  // of the guest's other machines; made when they are first wanted
  Vcpu* vcpu_;
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
  GuestThread& thread(uint32_t number = 0);
  const std::vector<std::unique_ptr<GuestThread>>& threads() const { return threads_; }

  // Makes the event's answer happen, in the thread it belongs to.
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

  // Another vCPU goes on with the thread: the one place where registers, FPU and breakpoints move.
  void move(GuestThread& thread, Vcpu& to);
  // A soft vCPU for the thread on the same memory, whatever its own machine is.
  Vcpu& soft_vcpu(GuestThread& thread);
  // May it be the soft vCPU that runs the guest? Not with the v3 model, whose registers it lacks.
  bool may_be_on_soft() const { return options_.cpu.kind() != CpuModelKind::v3; }
  // One that counts branches: its own, or where the guest's machine is KVM another on the same memory. Null:
  // there is none.
  Vcpu* counting_vcpu(GuestThread& thread);

  // XXH3-64 over its canonical registers and canonical FPU state.
  uint64_t registers_digest(GuestThread& thread);
  // The state of the thread's instant, memory and FPU included. Reads all of the guest's memory.
  recording::FullState full_state(GuestThread& thread);
  // XXH3-128 over address and contents of every page, by ascending address, that is not all zeros; without
  // breakpoints, in original code. The same whatever machine runs the guest and however it got there.
  recording::Digest128 memory_digest();

  // The guest as a start event that would build it, but for the contents of its memory.
  recording::Event describe();

  // fork(2), parent and child each with a guest of their own. In the child machines are made anew (KVM's
  // descriptors serve the process that made them only), so what was set in vCPUs is gone, and each thread has
  // its own one again. -1 with errno, as fork.
  pid_t fork();

 private:
  const GuestOptions options_;
  recording::Store& store_;
  AddressSpace space_;
  SharedFiles files_;
  std::unique_ptr<Machine> machine_;
  // Besides, for parts of a replay that go better there.
  std::unique_ptr<Machine> soft_machine_, counting_machine_;
  bool cannot_count_ = false;  // the host lacks what a counting machine needs
  std::vector<std::unique_ptr<GuestThread>> threads_;
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
  void apply_registers(GuestThread& thread, const recording::Event& event);
  Machine& machine_of(const GuestThread& thread, const Vcpu& vcpu);
  void separate(MachineChoice choice, const std::vector<FpuState>& fpus);
};

}  // namespace aftercheck
