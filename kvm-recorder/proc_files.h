// /proc/self must answer for the guest, never for the recorder whose process it shares. Kernel document:
// Documentation/filesystems/proc.rst.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kvm-recorder/guest_process.h"

namespace aftercheck {

// All descriptors open in this process, the recorder's own included.
std::vector<int> open_descriptors();

// What /proc shows as the target of a descriptor; empty when there is none.
std::string descriptor_path(int fd);

// The entry below /proc/<this process> that an open descriptor is: "maps", "fd" (task/<tid>/ left out);
// nullopt for every other file.
std::optional<std::string> own_proc_entry(int fd);

// True when the name leads to this process's "exe" link itself (whatever the spelling), before it is
// followed.
bool is_own_executable_link(int directory, const std::string& path);
// True when the name is that of a descriptor of the recorder below /proc/<this process>/fd.
bool is_own_descriptor_link(int directory, const std::string& path);
// Device and inode of the recorder's own program.
bool is_recorder_program(uint64_t device, uint64_t inode);

// Contents of an entry that must not come from the kernel, e.g. "maps".
struct ProcAnswer {
  enum class Kind { kernel, contents, forbidden } kind = Kind::kernel;
  std::string contents;
};
ProcAnswer answer_proc_entry(const GuestProcess& process, const std::string& entry);

// A read-only descriptor of a file with these contents, close-on-exec if asked. -errno on failure.
long open_contents(const std::string& contents, bool close_on_exec);

}  // namespace aftercheck
