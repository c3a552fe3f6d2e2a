// One virtual CPU and the machine it belongs to: the interface that both backends implement.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "machine/address_space.h"
#include "machine/control_flow.h"
#include "machine/cpu_model.h"
#include "machine/exit.h"
#include "machine/instrument.h"
#include "machine/registers.h"
#include "machine/store_journal.h"

namespace aftercheck {

// Lets run_to() go by arrivals that don't concern its caller, for much less than coming back with each would
// take. Called at every arrival, before the instruction, on the thread that runs the vCPU; it may read guest
// memory, and touch nothing else of the guest or the vCPU.
class ArrivalFilter {
 public:
  // What the vCPU holds: fetching one register takes some 10 ns, all of them some 300.
  class State {
   public:
    virtual uint64_t word(size_t number) const = 0;  // as to_words() counts
    virtual std::array<uint64_t, 2> xmm(size_t number) const = 0;
    virtual FpuState fpu() const = 0;

   protected:
    ~State() = default;
  };

  virtual ~ArrivalFilter() = default;
  // True: go on.
  virtual bool passes_by(const State& state) noexcept = 0;
};

// A vCPU runs guest code on the thread that calls run(); only kick() may be called from elsewhere. Of a
// machine's vCPUs one runs at a time, each on whatever thread, and nothing else is done with the machine or
// its address space meanwhile; who hands on sees to it that what was done is seen (a mutex does).
class Vcpu {
 public:
  virtual ~Vcpu() = default;

  // Runs guest code until the next exit. Exits are described in exit.h. Throws Error(unsupported) with
  // instruction and address when the backend can't execute what the guest wants, Error(host_lacks) when the
  // host fails.
  virtual Exit run() = 0;
  // Executes exactly one instruction (a REP-prefixed string instruction may take several steps, one per
  // iteration); gives ExitKind::step, or what the instruction itself caused.
  virtual Exit step() = 0;

  // As run(), but also stops, with ExitKind::breakpoint and RIP on it, before the instruction at `address` is
  // executed; one that RIP is on already is executed first. Unlike an INT3, nothing of this is in guest
  // memory. `filter`, if any, says which arrivals count. Only where has_run_to(); others use Breakpoints
  // (breakpoints.h).
  virtual bool has_run_to() const { return false; }
  virtual Exit run_to(uint64_t address, ArrivalFilter* filter = nullptr);

  // From now on run() also stops before the block at `end` (ExitKind::breakpoint), except where it starts
  // there, and when code of this many bytes, counted at the start of each block, has been executed
  // (ExitKind::kick, code_left() is 0 then). Where blocks start is the backend's own affair, but a branch's
  // target always starts one. Only where has_bounds().
  virtual bool has_bounds() const { return false; }
  virtual void set_bounds(uint64_t end, uint64_t code_bytes);
  virtual uint64_t code_left() const;

  // Counts the branches that the guest executes: conditional ones, taken or not (LOOP and JRCXZ too), and
  // indirect ones (RET, JMP and CALL through a register or memory): those for which a processor's trace has a
  // TNT bit or a TIP. A branch counts when it is executed; what faults does not. Only while
  // counts_branches(): for most vCPUs always or never. The soft vCPU counts while it is told to, from 0 on:
  // that costs it time, and each change all its translations. Not while it runs; gives counts_branches().
  virtual bool counts_branches() const { return false; }
  virtual bool count_branches(bool) { return counts_branches(); }
  // Executed since the vCPU was made or reset_branches() was called. Not while it runs.
  virtual uint64_t branches();
  virtual void reset_branches();
  // As run(), executing at least one instruction, but also stops where `branches` of them have been executed
  // and RIP is `rip`: ExitKind::breakpoint, with both as they were asked for (the guest's own INT3 gives the
  // same exit elsewhere); it may come by there several times. ExitKind::kick where one more than `branches`
  // have been executed: it will not come by there any more.
  virtual Exit run_until(uint64_t branches, uint64_t rip);

  // State at the last exit; changes take effect at the next run() or step().
  virtual Registers& registers() = 0;
  virtual FpuState fpu() = 0;
  virtual void set_fpu(const FpuState& state) = 0;
  // The same as set_fpu(from.fpu()), and sooner done between two vCPUs of a kind.
  virtual void take_fpu(Vcpu& from) { set_fpu(from.fpu()); }

  // From the next run() or step() on, tells `flow` what executes; null: no more. False where the backend
  // can't; `flow` must outlive the vCPU or be taken away.
  virtual bool set_control_flow(ControlFlow* flow) { return flow == nullptr; }
  // Likewise for an instrument. Only translated code has any.
  virtual bool set_instrument(Instrument* instrument) { return instrument == nullptr; }

  // From now on the processor executes everything: it is being traced. Nothing to do for most vCPUs, which
  // have one way to execute (dense_exits.h). Before the first run().
  virtual void stay_on_processor() {}

  // From now on run() and step() stop with ExitKind::untrapped before code that this machine can't execute
  // faithfully: in memory that is writable and executable, with bytes that may be an instruction that it
  // can't trap, or that writes where it is. Somebody else has to execute it. Not while the vCPU runs. Nothing
  // to do for a machine that traps everything.
  virtual void leave_untrapped(bool) {}

  // Makes run() return ExitKind::kick soon, or the next run() if none is under way. Async-signal-safe; any
  // thread. One kick gives at most one such exit, and none if another exit came first and clear_kick() was
  // called.
  virtual void kick() noexcept = 0;
  virtual void clear_kick() noexcept = 0;
};

enum class MachineKind : uint8_t { kvm, soft, translated };
const char* name(MachineKind kind);

class Machine {
 public:
  virtual ~Machine() = default;
  virtual MachineKind kind() const = 0;
  // The machine must outlive its vCPUs.
  virtual std::unique_ptr<Vcpu> create_vcpu() = 0;

  // For vCPUs that are several in one (dense_exits.h): which of those of this machine ran last, null for one
  // that is gone or none; and is its guest thread on another machine now?
  struct LastRun {
    const Vcpu* vcpu = nullptr;
    bool elsewhere = false;
  };
  LastRun& last_run() { return last_run_; }

  // Where has_view(), a machine's vCPUs may have a view of the guest's memory that is not what its mappings
  // say. show() gives them other permissions (PROT_*; of whole pages), until these mappings change; also in
  // kGhostWindow, which holds no guest mappings. allows(): may they touch the page that holds `address`? Not
  // while a vCPU runs.
  virtual bool has_view() const { return false; }
  virtual void show(Range range, int prot);
  virtual bool allows(uint64_t address, Access access) const;

  // Of a machine with Stores::journaled: what its vCPUs have stored. Others have none.
  virtual StoreJournal* journal() { return nullptr; }

  // The host, or the guest on another machine, has changed guest memory without the address space's knowing,
  // and there may be code in it. Not while a vCPU runs.
  virtual void code_changed(Range range) = 0;

  // A program begins, whose image is loaded, or goes on in a child of fork(2); and it ends, or forks. `key`
  // says which, and where it lies. Of a machine that prepares code for execution, processes that were forked
  // after the first program has begun tell each other what they have prepared. Not while a vCPU runs.
  virtual void program_begins(const std::string&) {}
  virtual void tell_prepared() {}

 private:
  LastRun last_run_;
};

// Calls `visit` for all memory whose code the guest may change without an exit.
void for_each_changeable_code(const AddressSpace& space, const std::function<void(Range)>& visit);
// The guest goes on with `machine`, and has run on another: all of that was changed.
void code_changed_elsewhere(Machine& machine, const AddressSpace& space);

// What becomes of the guest's stores to its writable memory.
enum class Stores : uint8_t {
  performed,
  trapped,    // memory_fault, as if nothing were writable, until Machine::show() makes it so
  journaled,  // performed, and undone by Machine::journal()
};

// `space` must outlive the machine; the machine observes it. Throws Error(host_lacks) with the reason (and
// what to do) when the backend can't work here.
std::unique_ptr<Machine> create_kvm_machine(AddressSpace& space, const CpuModel& cpu);
// This one has bounds and a view, counts branches when told to, and does not journal stores. What other
// models than the portable one have more it refuses where it meets it, and the upper halves of vector
// registers are zero: no whole run of a guest with the v3 model is for it.
std::unique_ptr<Machine> create_soft_machine(AddressSpace& space, const CpuModel& cpu,
                                             Stores stores = Stores::performed);

// This one counts branches. Guest code is translated to itself and runs in the recorder's process. Throws
// Error(host_lacks) for the host's CPU model, too.
enum class BranchCounts : uint8_t {
  automatic,  // in XMM31 where the processor has it, which is cheap, in memory elsewhere
  in_memory,
};
// Not Stores::trapped; with Stores::journaled it has one vCPU, which has bounds.
std::unique_ptr<Machine> create_translated_machine(AddressSpace& space, const CpuModel& cpu,
                                                   BranchCounts counts = BranchCounts::automatic,
                                                   Stores stores = Stores::performed);

enum class MachineChoice : uint8_t { automatic, kvm, soft, translated };
// The choice that gives a machine of that kind.
MachineChoice choice_of(MachineKind kind);

// What an automatic choice must give.
struct MachineNeeds {
  bool processor_trace = false;  // Intel PT by the processor
  bool walls = false;            // a guest that tries to can't reach this process
  bool control_flow = false;     // vCPUs tell it (Vcpu::set_control_flow)
};
// automatic: by what exits cost on this host, `cpu` and `needs` (machine_choice.h); nothing is mapped in
// `space` yet. `*reason` (if given) then says why it is this machine.
std::unique_ptr<Machine> create_machine(MachineChoice choice, AddressSpace& space, const CpuModel& cpu,
                                        const MachineNeeds& needs = {}, std::string* reason = nullptr);

}  // namespace aftercheck
