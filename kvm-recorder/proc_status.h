// What /proc/self/status, stat, statm and limits say of the guest. The kernel's own text is the recorder's:
// its memory, its threads, its handlers. Kernel document: Documentation/filesystems/proc.rst;
// fs/proc/array.c.
#pragma once

#include <string>

#include "kvm-recorder/guest_process.h"

namespace aftercheck {

// `of_kernel`: the kernel's text about this process, in which what is the guest's replaces what is the
// recorder's. Lines and fields that are not known stay. How much memory is resident only the kernel knows,
// and it counts the recorder's, too: never more than the guest has.
std::string proc_status(const GuestProcess& process, const std::string& of_kernel);
std::string proc_stat(const GuestProcess& process, const std::string& of_kernel);
std::string proc_statm(const GuestProcess& process, const std::string& of_kernel);
std::string proc_limits(const GuestProcess& process);

}  // namespace aftercheck
