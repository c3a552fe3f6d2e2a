// The initial stack of a Linux process (System V ABI, AMD64 supplement, 3.4.1; fs/binfmt_elf.c
// create_elf_tables()).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvm-recorder/guest_task.h"
#include "kvm-recorder/loader.h"

namespace aftercheck {

// RLIMIT_STACK's soft limit, of the recorder: what a guest starts with.
uint64_t host_stack_limit();

// Size of the stack mapping in bytes when the program starts: room for arguments and environment, and as much
// of 8 MiB as `limit` allows. It grows at faults (memory_limits.h); what is there from the start costs no
// event.
uint64_t stack_size(uint64_t limit);

// Throws ExecError(E2BIG) when arguments and environment together, or one of them, exceed execve(2)'s limits.
// `limit`: RLIMIT_STACK's soft limit.
void check_argument_size(const Program& program, const std::vector<std::string>& environment,
                         uint64_t limit = host_stack_limit());

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
