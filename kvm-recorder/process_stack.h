// The initial stack of a Linux process (System V ABI, AMD64 supplement, 3.4.1; fs/binfmt_elf.c
// create_elf_tables()).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvm-recorder/guest_task.h"
#include "kvm-recorder/loader.h"

namespace aftercheck {

// Size of the stack mapping in bytes: RLIMIT_STACK's soft limit, but 8 MiB at least and 64 MiB at most, since
// it can't grow later.
uint64_t stack_size();

// Throws ExecError(E2BIG) when arguments and environment together, or one of them, exceed execve(2)'s limits.
void check_argument_size(const Program& program, const std::vector<std::string>& environment);

// Addresses that the auxiliary vector passes on.
struct ImageAddresses {
  uint64_t headers = 0, header_count = 0;  // AT_PHDR, AT_PHNUM
  uint64_t interpreter_base = 0;           // AT_BASE
  uint64_t entry = 0;                      // AT_ENTRY
};

// Fills the process's stack (mapped, writable) and sets its auxv and entry.rsp. `random` moves the
// stack pointer within the first pages as the kernel's arch_align_stack() does; 0 for none.
void build_stack(GuestTask& task, const Program& program, const std::vector<std::string>& environment,
                 const ImageAddresses& addresses, uint64_t random);

}  // namespace aftercheck
