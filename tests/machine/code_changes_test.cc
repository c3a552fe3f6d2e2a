// Code that changes after it was executed, in every way in which it can: each machine executes what is there.
// Where the soft vCPU is missing, machine/soft/README.md says why.
#include <unistd.h>

#include "tests/machine/machine_guest.h"

namespace aftercheck {
namespace {

using Guest = MachineGuest;
constexpr uint64_t kCode = Guest::kCode, kData = Guest::kData, kOther = kCode + 2 * kPageSize;

// call rsi; mov r8, rax; mov [rdi], bl; call rsi; syscall
const Code kCallChangeCall = {0xff, 0xd6, 0x49, 0x89, 0xc0, 0x88, 0x1f, 0xff, 0xd6, 0x0f, 0x05};

// Runs kCallChangeCall at `code` with a function at `target`, whose number is at `store` too.
void call_change_call(Guest& guest, uint64_t code, uint64_t target, uint64_t store) {
  uint8_t before = 0;
  for (unsigned value = 1; value < 30; ++value) {
    guest.regs().rsi = target;
    guest.regs().rdi = store;
    guest.regs().rbx = value;
    REQUIRE(guest.run_at(code).kind == ExitKind::syscall);
    REQUIRE(guest.regs().r8 == before);
    REQUIRE(guest.regs().rax == value);
    before = static_cast<uint8_t>(value);
  }
}

void next_instruction(MachineKind kind) {
  // mov [rip+1], bl (the next one's immediate); mov eax, 0; syscall
  Guest guest(kind, {0x88, 0x1d, 1, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0x0f, 0x05}, Guest::kRwx);
  for (unsigned value = 1; value < 30; ++value) {
    guest.regs().rbx = value;
    REQUIRE(guest.run_at(kCode).kind == ExitKind::syscall);
    REQUIRE(guest.regs().rax == value);
  }
}

void own_loop(MachineKind kind) {
  // 1: inc byte [rip+2] (the immediate of the next); add rax, 0x10; dec rcx; jnz 1b; syscall
  Guest guest(kind,
              {0xfe, 0x05, 3, 0, 0, 0, 0x48, 0x83, 0xc0, 0x10, 0x48, 0xff, 0xc9, 0x75, 0xf1, 0x0f, 0x05},
              Guest::kRwx);
  guest.regs().rcx = 40;
  REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.regs().rax == 40 * 0x10 + 40 * 41 / 2);
}

void other_page(MachineKind kind) {
  Guest guest(kind, kCallChangeCall, Guest::kRwx);
  guest.put(function(0), kOther);
  call_change_call(guest, kCode, kOther, kOther + 1);
}

void same_page(MachineKind kind) {
  Guest guest(kind, kCallChangeCall, Guest::kRwx);
  guest.put(function(0), kCode + 0x800);
  call_change_call(guest, kCode, kCode + 0x800, kCode + 0x801);
}

void other_mapping(MachineKind kind) {
  Guest guest(kind, kCallChangeCall);
  const int fd = memfd_create("code", 0);
  REQUIRE(fd >= 0);
  REQUIRE(ftruncate(fd, kPageSize) == 0);
  const uint64_t code = kMainWindow.start + 0x20'0000, alias = kMainWindow.start + 0x30'0000;
  REQUIRE(guest.space.map_file({alias, alias + kPageSize}, Guest::kRw, fd, 0, true) == 0);
  REQUIRE(guest.space.map_file({code, code + kPageSize}, Guest::kRx, fd, 0, true) == 0);
  close(fd);
  guest.put(function(0), alias);
  call_change_call(guest, kCode, code, alias + 1);
}

void by_string_instruction(MachineKind kind) {
  // push rdi; rep movsb; pop rdi; call rdi; syscall
  Guest guest(kind, {0x57, 0xf3, 0xa4, 0x5f, 0xff, 0xd7, 0x0f, 0x05}, Guest::kRwx);
  for (unsigned value = 1; value < 30; ++value) {
    const Code code = function(static_cast<uint8_t>(value));
    guest.put(code, kData);
    guest.regs().rsi = kData;
    guest.regs().rdi = kOther;
    guest.regs().rcx = code.size();
    REQUIRE(guest.run_at(kCode).kind == ExitKind::syscall);
    REQUIRE(guest.regs().rax == value);
  }
}

// Data next to code: stores that change no instruction.
void data_in_a_page_of_code(MachineKind kind) {
  // 1: inc qword [rdi]; dec rcx; jnz 1b; syscall
  Guest guest(kind, {0x48, 0xff, 0x07, 0x48, 0xff, 0xc9, 0x75, 0xf8, 0x0f, 0x05}, Guest::kRwx);
  guest.regs().rdi = kCode + 0x800;
  guest.regs().rcx = 3000;
  REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
  uint64_t value = 0;
  REQUIRE(guest.space.read(kCode + 0x800, &value, sizeof value));
  CHECK(value == 3000);
}

void by_the_host(MachineKind kind) {
  Guest guest(kind, {0xff, 0xd6, 0x0f, 0x05});  // call rsi; syscall
  for (unsigned value = 1; value < 60; ++value) {
    const Code code = function(static_cast<uint8_t>(value));
    if (value % 2 != 0) {
      guest.put(code, kOther);
    } else {  // behind the address space's back
      REQUIRE(guest.space.protect({kOther, kOther + kPageSize}, Guest::kRw) == 0);
      std::memcpy(reinterpret_cast<void*>(kOther), code.data(), code.size());
      REQUIRE(guest.space.protect({kOther, kOther + kPageSize}, Guest::kRx) == 0);
      guest.machine->code_changed({kOther, kOther + code.size()});
    }
    guest.regs().rsi = kOther;
    REQUIRE(guest.run_at(kCode).kind == ExitKind::syscall);
    REQUIRE(guest.regs().rax == value);
  }
}

void by_a_new_mapping(MachineKind kind) {
  Guest guest(kind, {0xff, 0xd6, 0x0f, 0x05});
  const Range page{kOther, kOther + kPageSize};
  for (unsigned value = 1; value < 30; ++value) {
    guest.regs().rsi = kOther;
    REQUIRE(guest.space.unmap(page) == 0);
    REQUIRE(guest.run_at(kCode) == fetch_fault(kOther));
    REQUIRE(guest.regs().rip == kOther);
    REQUIRE(guest.space.map_anonymous(page, Guest::kRx, false) == 0);
    guest.put(function(static_cast<uint8_t>(value)), kOther);
    REQUIRE(guest.run_at(kCode).kind == ExitKind::syscall);
    REQUIRE(guest.regs().rax == value);
  }
}

void moved_and_discarded(MachineKind kind) {
  Guest guest(kind, {0xff, 0xd6, 0x0f, 0x05});
  const uint64_t there = kMainWindow.start + 0x20'0000;
  guest.put(function(7), kOther);
  guest.regs().rsi = kOther;
  REQUIRE(guest.run_at(kCode).kind == ExitKind::syscall);
  REQUIRE(guest.space.remap({kOther, kOther + kPageSize}, {there, there + kPageSize}) == 0);
  CHECK(guest.run_at(kCode) == fetch_fault(kOther));
  guest.regs().rsi = there;
  REQUIRE(guest.run_at(kCode).kind == ExitKind::syscall);
  CHECK(guest.regs().rax == 7);
  REQUIRE(guest.space.discard({there, there + kPageSize}) == 0);
  guest.regs().rax = 5;  // add [rax], al
  const Exit exit = guest.run_at(kCode);
  CHECK(exit.kind == ExitKind::memory_fault);
  CHECK(exit.address == 5);  // of a read or of a write, as the processor sees ADD
  CHECK(guest.regs().rip == there);
}

void not_executable(MachineKind kind) {
  Guest guest(kind, {0xff, 0xd6, 0x0f, 0x05});
  guest.put(function(7), kOther);
  for (int i = 0; i < 5; ++i) {
    guest.regs().rsi = kOther;
    REQUIRE(guest.run_at(kCode).kind == ExitKind::syscall);
    for (const int prot : {PROT_READ, Guest::kRw, PROT_NONE}) {
      REQUIRE(guest.space.protect({kOther, kOther + kPageSize}, prot) == 0);
      REQUIRE(guest.run_at(kCode) == fetch_fault(kOther));
      REQUIRE(guest.regs().rip == kOther);
    }
    REQUIRE(guest.space.protect({kOther, kOther + kPageSize}, Guest::kRx) == 0);
  }
}

// mov eax, 0x04030201, its last two bytes on a second page; ret
void across_pages(MachineKind kind) {
  Guest guest(kind, {0xff, 0xd6, 0x0f, 0x05});
  const uint64_t second = kOther + kPageSize, start = second - 3;
  guest.put({0xb8, 1, 2, 3, 4, 0xc3}, start);
  for (uint8_t turn = 1; turn < 5; ++turn) {
    guest.regs().rsi = start;
    REQUIRE(guest.space.write(second, &turn, 1));
    REQUIRE(guest.run_at(kCode).kind == ExitKind::syscall);
    REQUIRE(guest.regs().rax == (0x04000201U | unsigned{turn} << 16));
    REQUIRE(guest.space.protect({second, second + kPageSize}, PROT_READ) == 0);
    REQUIRE(guest.run_at(kCode) == fetch_fault(second));
    REQUIRE(guest.regs().rip == start);
    REQUIRE(guest.space.protect({second, second + kPageSize}, Guest::kRx) == 0);
    REQUIRE(guest.space.protect({kOther, second}, PROT_READ) == 0);
    REQUIRE(guest.run_at(kCode) == fetch_fault(start));
    REQUIRE(guest.space.protect({kOther, second}, Guest::kRx) == 0);
  }
}

// Nearly a page of increments on each of 16, written anew again and again.
void much_code(MachineKind kind) {
  Guest guest(kind);
  constexpr uint64_t kPages = 16;
  uint64_t expected = 0;
  for (int pass = 0; pass < 100; ++pass)
    for (uint64_t page = 0; page < kPages; ++page) {
      Code code;
      const size_t size = kPageSize - static_cast<size_t>(pass) * 3;
      while (code.size() + 3 + 2 <= size) code.insert(code.end(), {0x48, 0xff, 0xc0});  // inc rax
      expected += code.size() / 3;
      code.insert(code.end(), {0x0f, 0x05});
      guest.put(code, kCode + page * kPageSize);
      REQUIRE(guest.run_at(kCode + page * kPageSize).kind == ExitKind::syscall);
      REQUIRE(guest.regs().rax == expected);
    }
}

void patched(MachineKind kind) {
  Guest guest(kind, {0x90, 0x0f, 0x31, 0x0f, 0x05});  // nop; rdtsc; syscall
  CodePatch patch;
  patch.address = kCode + 1;
  patch.instruction = {.kind = TrappedKind::rdtsc, .length = 2};
  patch.original = {0x0f, 0x31};
  guest.vcpu->run();  // not patched yet: an exit there or none
  REQUIRE(guest.space.apply_patch(patch));
  for (int i = 0; i < 3; ++i) {
    const Exit exit = guest.run_at(kCode);
    CHECK(exit.kind == ExitKind::trapped_instruction);
    CHECK(exit.instruction == patch.instruction);
    CHECK(guest.regs().rip == kCode + 1);
    CHECK(guest.run_at(kCode + 3).kind == ExitKind::syscall);
  }
}

}  // namespace

ON_ALL_MACHINES("code changed by the instruction before", next_instruction(machine))
ON_ALL_MACHINES("a loop that changes itself", own_loop(machine))
ON_ALL_MACHINES("code changed on another page", other_page(machine))
ON_ALL_MACHINES("code changed on the same page", same_page(machine))
ON_PROCESSORS("code changed through another mapping", other_mapping(machine))
ON_ALL_MACHINES("code changed by a string instruction", by_string_instruction(machine))
ON_ALL_MACHINES("data on a page of code", data_in_a_page_of_code(machine))
ON_ALL_MACHINES("code changed by the host", by_the_host(machine))
ON_ALL_MACHINES("code in a new mapping", by_a_new_mapping(machine))
ON_ALL_MACHINES("code moved, then discarded", moved_and_discarded(machine))
ON_ALL_MACHINES("code that is not executable for a while", not_executable(machine))
ON_ALL_MACHINES("an instruction across two pages", across_pages(machine))
ON_ALL_MACHINES("much code, written again and again", much_code(machine))
ON_ALL_MACHINES("code that is patched after it ran", patched(machine))

}  // namespace aftercheck
