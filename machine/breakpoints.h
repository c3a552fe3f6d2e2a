// Breakpoints on any vCPU: INT3 in guest code, stepped over one instruction at a time. (Debug registers do
// nothing in ring 3 on some hosts.) A guest that reads its code as data can see the byte, so none is left in
// place for longer than needed.
#pragma once

#include <cstdint>
#include <map>

#include "machine/address_space.h"
#include "machine/vcpu.h"

namespace aftercheck {

class Breakpoints {
 public:
  // Both must outlive this.
  Breakpoints(Vcpu& vcpu, AddressSpace& space) : vcpu_(vcpu), space_(space) {}
  ~Breakpoints();
  Breakpoints(const Breakpoints&) = delete;
  Breakpoints& operator=(const Breakpoints&) = delete;

  // False when there is no guest memory at `address`.
  bool add(uint64_t address);
  void remove(uint64_t address);
  bool at(uint64_t address) const { return bytes_.contains(address); }

  // As Vcpu::run(), but also stops, with ExitKind::breakpoint and RIP on it, before an instruction at a
  // breakpoint is executed; one that RIP is on already is executed first. The guest's own INT3 gives the same
  // exit at other addresses.
  Exit run();

 private:
  Vcpu& vcpu_;
  AddressSpace& space_;
  std::map<uint64_t, uint8_t> bytes_;  // what was there, by address

  void put_back(uint64_t address, uint8_t byte);
};

}  // namespace aftercheck
