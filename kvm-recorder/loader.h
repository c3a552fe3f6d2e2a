// Builds the initial image of a Linux process: what the kernel's execve does (fs/binfmt_elf.c,
// fs/binfmt_script.c).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kvm-recorder/elf_program.h"
#include "kvm-recorder/guest_task.h"

namespace aftercheck {

// Checks a program before anything is recorded and finds what will really run: PATH search for a name without
// '/', shebang scripts (with their interpreter line, up to 4 deep as the kernel allows), ELF class, machine,
// interpreter.
struct Program {
  std::string path;                    // the ELF file
  std::vector<std::string> arguments;  // argv after shebang expansion
  std::string executable;              // `path`, absolute and resolved
  std::string execfn;                  // AT_EXECFN: the name as it was asked for
  bool script = false;                 // `path` is the interpreter of one
  // Opened and checked; whoever loads the program takes them.
  std::shared_ptr<ProgramFiles> files{};
};
// Throws Error with the file and the reason: not found, a directory, not executable, unreadable, not an ELF,
// wrong class or architecture, missing interpreter, malformed headers. `cause_errno` (if given) gets what
// execve(2) would return for it.
Program find_program(const std::string& name, const std::vector<std::string>& arguments,
                     const std::vector<std::string>& environment, int* cause_errno = nullptr);

struct LoaderOptions {
  bool randomize = true;  // address-space layout randomisation, as the kernel's; false as under `setarch -R`
};

// Clears the guest's memory and builds the image through task.answer (so that it all gets logged):
// segments, bss, interpreter, stack with arguments, environment and auxiliary vector. Fills in
// process.executable ... process.entry of the task's process. Throws Error(bad_input) for what find_program
// could not see, Error(unsupported) when addresses lie outside the windows.
void load_program(GuestTask& task, const Program& program, const std::vector<std::string>& environment,
                  const LoaderOptions& options = {});

}  // namespace aftercheck
