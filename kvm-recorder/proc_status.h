// What /proc/self/status, stat, statm and limits say of the guest. The kernel's own text is the recorder's:
// its memory, its threads, its handlers. Kernel document: Documentation/filesystems/proc.rst;
// fs/proc/array.c.
#pragma once

#include <string>

#include "kvm-recorder/guest_process.h"

namespace aftercheck {

// `of_kernel`: the kernel's text about this process, in which what is the guest's replaces what is the
// recorder's. Lines and fields that are not known stay. How much memory is resident only the kernel knows,
// and it counts the recorder's, too: never more than the guest has. `thread`: whose text it is; 0: the
// process's.
std::string proc_status(const GuestProcess& process, const std::string& of_kernel, pid_t thread);
std::string proc_stat(const GuestProcess& process, const std::string& of_kernel, pid_t thread);
std::string proc_statm(const GuestProcess& process, const std::string& of_kernel);
// The first thread of a process has ended while others go on: what an entry (its name in /proc/PID) says of
// it then, where `text` is what it would say of one that lives. It has no memory, files or folders any more.
std::string proc_text_of_ended(const std::string& name, const std::string& text);
std::string proc_limits(const GuestProcess& process);

// From now on the kernel shows other processes the guest's words in /proc/<PID>/cmdline, environ and auxv,
// and not those that the recorder was started with. Children inherit that. Does nothing where the kernel
// can't (PR_SET_MM_MAP needs CONFIG_CHECKPOINT_RESTORE).
void show_words_of_guest(const GuestProcess& process);

}  // namespace aftercheck
