#include "machine/breakpoints.h"

namespace aftercheck {
namespace {
constexpr uint8_t kInt3 = 0xcc;
}

Breakpoints::~Breakpoints() {
  for (const auto& [address, byte] : bytes_) put_back(address, byte);
}

bool Breakpoints::add(uint64_t address) {
  uint8_t byte = 0;
  if (at(address)) return true;
  if (!space_.read(address, &byte, 1) || !space_.write(address, &kInt3, 1)) return false;
  bytes_.emplace(address, byte);
  return true;
}

void Breakpoints::remove(uint64_t address) {
  const auto found = bytes_.find(address);
  if (found == bytes_.end()) return;
  put_back(address, found->second);
  bytes_.erase(found);
}

// Not where the guest has written or mapped something else meanwhile.
void Breakpoints::put_back(uint64_t address, uint8_t byte) {
  uint8_t now = 0;
  if (space_.read(address, &now, 1) && now == kInt3) space_.write(address, &byte, 1);
}

Exit Breakpoints::run() {
  const uint64_t rip = vcpu_.registers().rip;
  if (const auto under = bytes_.find(rip); under != bytes_.end()) {
    put_back(rip, under->second);
    const Exit exit = vcpu_.step();
    space_.write(rip, &kInt3, 1);
    if (exit.kind != ExitKind::step) return exit;
    if (at(vcpu_.registers().rip)) return Exit{.kind = ExitKind::breakpoint};
  }
  return vcpu_.run();
}

}  // namespace aftercheck
