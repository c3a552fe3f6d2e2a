#include "machine/breakpoints.h"

#include <array>

namespace aftercheck {
namespace {
constexpr uint8_t kInt3 = 0xcc;
constexpr uint8_t kNop = 0x90;
// NOP DWORD PTR [RAX+RAX*1+0], SDM vol. 2B, NOP, table 4-12.
constexpr std::array<uint8_t, 5> kFiveByteNop = {0x0f, 0x1f, 0x44, 0x00, 0x00};
}  // namespace

Breakpoints::~Breakpoints() {
  for (const auto& [address, entry] : bytes_)
    if (entry.armed) put_back(address, entry.byte);
}

bool Breakpoints::arm(uint64_t address, Entry& entry) {
  entry.armed = space_.read(address, &entry.byte, 1) && space_.write(address, &kInt3, 1);
  return entry.armed;
}

bool Breakpoints::add(uint64_t address) {
  if (const auto found = bytes_.find(address); found != bytes_.end()) {
    if (!found->second.armed) return false;
    ++found->second.users;
    return true;
  }
  Entry entry{.users = 1};
  if (!arm(address, entry)) return false;
  bytes_.emplace(address, entry);
  return true;
}

void Breakpoints::add_waiting(uint64_t address) {
  Entry& entry = bytes_[address];
  if (entry.users++ == 0 && !arm(address, entry)) waiting_.insert(address);
}

void Breakpoints::remove(uint64_t address) {
  const auto found = bytes_.find(address);
  if (found == bytes_.end() || --found->second.users != 0) return;
  if (found->second.armed) put_back(address, found->second.byte);
  waiting_.erase(address);
  bytes_.erase(found);
}

bool Breakpoints::at(uint64_t address) const {
  const auto found = bytes_.find(address);
  return found != bytes_.end() && found->second.armed;
}

void Breakpoints::lift(Range range) {
  for (auto it = bytes_.lower_bound(range.start); it != bytes_.end() && it->first < range.end; ++it) {
    if (!it->second.armed) continue;
    put_back(it->first, it->second.byte);
    it->second.armed = false;
    waiting_.insert(it->first);
  }
}

void Breakpoints::rearm() {
  std::erase_if(waiting_, [&](uint64_t address) { return arm(address, bytes_.at(address)); });
}

void Breakpoints::restore_original(uint64_t address, std::span<std::byte> bytes) const {
  for (auto it = bytes_.lower_bound(address); it != bytes_.end() && it->first - address < bytes.size(); ++it)
    if (std::byte& byte = bytes[it->first - address]; it->second.armed && byte == std::byte{kInt3})
      byte = std::byte{it->second.byte};
}

// Not where the guest has written something else meanwhile.
void Breakpoints::put_back(uint64_t address, uint8_t byte) {
  uint8_t now = 0;
  if (space_.read(address, &now, 1) && now == kInt3) space_.write(address, &byte, 1);
}

uint64_t Breakpoints::nop_length(uint64_t address, const Entry& entry) const {
  if (entry.byte == kNop) return 1;
  std::array<uint8_t, kFiveByteNop.size()> code{};
  if (!space_.read(address, code.data(), code.size())) return 0;
  code[0] = entry.byte;
  return code == kFiveByteNop ? code.size() : 0;
}

std::optional<Exit> Breakpoints::pass(const Entry& entry) {
  Registers& registers = vcpu_->registers();
  const uint64_t rip = registers.rip;
  const bool guest_steps = (registers.rflags & rflags::kTrap) != 0;
  if (const uint64_t length = guest_steps ? 0 : nop_length(rip, entry); length != 0) {
    registers.rip += length;
    return std::nullopt;
  }
  put_back(rip, entry.byte);
  Exit exit;
  try {
    exit = vcpu_->step();
  } catch (...) {
    space_.write(rip, &kInt3, 1);
    throw;
  }
  space_.write(rip, &kInt3, 1);
  if (exit.kind != ExitKind::step) return exit;
  return std::nullopt;
}

template <typename Arrived, typename Run>
Exit Breakpoints::go(Arrived arrived, Run run) {
  if (const auto under = bytes_.find(vcpu_->registers().rip); under != bytes_.end() && under->second.armed) {
    if (const std::optional<Exit> exit = pass(under->second)) return *exit;
    const uint64_t rip = vcpu_->registers().rip;
    if (at(rip) || arrived(rip)) return Exit{.kind = ExitKind::breakpoint};
  }
  return run();
}

Exit Breakpoints::run() {
  return go([](uint64_t) { return false; }, [&] { return vcpu_->run(); });
}

Exit Breakpoints::run_to(uint64_t address, ArrivalFilter* filter) {
  return go([&](uint64_t rip) { return rip == address; }, [&] { return vcpu_->run_to(address, filter); });
}

// The count may be passed already: at another breakpoint, or by the step off one.
Exit Breakpoints::run_until(uint64_t branches, uint64_t address) {
  return go([&](uint64_t rip) { return rip == address && vcpu_->branches() == branches; },
            [&] {
              if (vcpu_->branches() > branches) return Exit{.kind = ExitKind::kick};
              return vcpu_->run_until(branches, address);
            });
}

void hand_over(Vcpu& from, Vcpu& to, Breakpoints& breakpoints) {
  to.registers() = from.registers();
  to.take_fpu(from);
  breakpoints.switch_to(to);
}

}  // namespace aftercheck
