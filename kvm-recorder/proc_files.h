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

// Opens what the functions below need. Before the guest can change its root directory; the first of them does
// it otherwise.
void prepare_proc_files();
// In a child of fork(2): from now on it is the child's own folder.
void proc_files_forked();

// What /proc shows as the target of a descriptor, whatever the guest's root directory is by now; empty when
// there is none.
std::string descriptor_path(int fd);

// True for devices of procfs; nullopt while no descriptor of that device was looked at.
std::optional<bool> is_proc_device(uint64_t device);

// What an open descriptor is below /proc/<this process>.
struct ProcEntry {
  bool of_recorder = false;  // it belongs to a thread of the recorder's, which the guest does not have
  std::string name;          // "maps", "fd/3", "task", "": the folder itself; task/<tid>/ left out
  pid_t thread = 0;          // whose it is, as that procfs counts; 0: the process's
};
// nullopt for every other file.
std::optional<ProcEntry> proc_entry(int fd);
// True for the link of a descriptor of the recorder: "fd/N", "fdinfo/N".
bool is_own_descriptor_entry(const std::string& name);
// True when this name in a folder of /proc ("task") leads to a thread that is not the guest's.
bool is_recorder_thread(int folder, const char* name);

// Device and inode of the recorder's own program.
bool is_recorder_program(uint64_t device, uint64_t inode);

// Contents of an entry that must not come from the kernel, e.g. "maps".
struct ProcAnswer {
  enum class Kind { kernel, contents, forbidden } kind = Kind::kernel;
  std::string contents;
};
ProcAnswer answer_proc_entry(const GuestProcess& process, const ProcEntry& entry);

// The kernel's text of an entry of this process.
std::string kernel_text_of_own(const char* name);

// What an open descriptor is below /proc/<another process>, in this process's own procfs. `name` as in
// ProcEntry.
struct OtherProcEntry {
  pid_t process = 0, thread = 0;  // that is the process's number where it is no other thread's entry
  std::string name;
};
// nullopt for every other file.
std::optional<OtherProcEntry> entry_of_other(int fd);
// What is open as `fd` is that entry. Of another recorded process the kernel would tell of its recorder in
// some, and the guest there can't be asked; others are as they are where that one's first thread has ended.
ProcAnswer answer_entry_of_other(const ProcessTree& tree, const OtherProcEntry& entry, int fd);

// A read-only descriptor of a file with these contents, close-on-exec if asked. -errno on failure.
long open_contents(const std::string& contents, bool close_on_exec);

}  // namespace aftercheck
