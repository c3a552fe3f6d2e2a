// Breakpoints on any vCPU: INT3 in guest code. (Debug registers do nothing in ring 3 on some hosts.) Where a
// breakpoint is on a NOP it is passed by moving RIP, elsewhere it is lifted for one single step. A guest that
// reads its code as data can see the byte, so none is left in place for longer than needed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>

#include "machine/address_space.h"
#include "machine/vcpu.h"

namespace aftercheck {

class Breakpoints {
 public:
  // Both must outlive this.
  Breakpoints(Vcpu& vcpu, AddressSpace& space) : vcpu_(&vcpu), space_(space) {}
  ~Breakpoints();
  Breakpoints(const Breakpoints&) = delete;
  Breakpoints& operator=(const Breakpoints&) = delete;

  // Each add() of an address needs its remove(). False, with nothing added, when there is no guest memory.
  bool add(uint64_t address);
  // As add(), but where there is no memory the breakpoint waits for some: see rearm().
  void add_waiting(uint64_t address);
  void remove(uint64_t address);
  // Is there one that stops the guest?
  bool at(uint64_t address) const;

  // Guest memory in the range is about to be given other contents or to be mapped anew: what is set there is
  // taken out, and waits.
  void lift(Range range);
  // Sets all that wait, where there is memory: to be called when a change is complete.
  void rearm();
  // `bytes` is a copy of guest memory from `address` on: puts in what is under the breakpoints. Where the
  // guest has written over one its own byte stays.
  void restore_original(uint64_t address, std::span<std::byte> bytes) const;

  // Another vCPU, on the same memory, goes on with the guest.
  void switch_to(Vcpu& vcpu) { vcpu_ = &vcpu; }

  // As Vcpu::run(), but also stops, with ExitKind::breakpoint and RIP on it, before an instruction at a
  // breakpoint is executed; one that RIP is on already is executed first. The guest's own INT3 gives the same
  // exit at other addresses.
  Exit run();
  // Stops before `address` too, where `filter` (if any) does not go by; only for vCPUs with has_run_to().
  Exit run_to(uint64_t address, ArrivalFilter* filter = nullptr);
  // Stops before `address` too, where so many branches have been executed, and with ExitKind::kick where more
  // have been: as Vcpu::run_until(). Only for vCPUs with counts_branches().
  Exit run_until(uint64_t branches, uint64_t address);

 private:
  struct Entry {
    uint8_t byte = 0;    // what was there
    bool armed = false;  // INT3 is in place; else it waits
    uint32_t users = 0;
  };
  Vcpu* vcpu_;
  AddressSpace& space_;
  std::map<uint64_t, Entry> bytes_;  // by address
  std::set<uint64_t> waiting_;       // of them

  bool arm(uint64_t address, Entry& entry);
  // Executes what RIP is on if that is under a breakpoint, and goes on with `run` unless something stops the
  // guest behind it: a breakpoint, or `arrived`, which is given RIP.
  template <typename Arrived, typename Run>
  Exit go(Arrived arrived, Run run);
  // Executes the instruction at RIP, which is under a breakpoint; nothing if it was only that.
  std::optional<Exit> pass(const Entry& entry);
  uint64_t nop_length(uint64_t address, const Entry& entry) const;
  void put_back(uint64_t address, uint8_t byte);
};

// `to` goes on with the guest thread that `from` has run, on the same memory: registers, FPU and breakpoints
// move. `from` keeps its state; events of kick() do not move.
void hand_over(Vcpu& from, Vcpu& to, Breakpoints& breakpoints);

}  // namespace aftercheck
