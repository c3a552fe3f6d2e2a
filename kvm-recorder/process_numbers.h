// Whom the number of a process or thread means. The recorder is the process that the guest takes for itself,
// so the guest's own numbers are the recorder's, and the recorder's other threads are there for whoever
// guesses theirs.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "kvm-recorder/host_thread.h"

namespace aftercheck {

// In a child of fork(2): the calling thread is the guest's only one.
void guest_threads_forked();

enum class Whose : uint8_t {
  guest,     // the guest's process, or a thread of it
  recorder,  // a thread of the recorder: for the guest there is none
  other,     // another process, or nobody
};

// The calling thread runs one of the guest's, from now on and no more. (The process's first one need not say
// so.)
void note_guest_thread();
void forget_guest_thread();

// `number` as the guest gave it. Called on a thread that runs the guest; 0 and negative numbers are `other`.
Whose whose(pid_t number);

// The number, in this process's namespace, of what a folder of any procfs shows: "/proc/123",
// "/mnt/proc/123/task/124". nullopt for what is not in that very namespace.
std::optional<pid_t> number_of_folder(const std::string& folder);

// The processes of a process group but for this one, as /proc shows them to `host`.
std::vector<pid_t> others_in_group(pid_t group, HostThread& host);

// The process or thread that a pidfd is for: one of pidfd_open(2), or a directory /proc/PID. nullopt: it is
// no such descriptor, or what it was for is gone.
std::optional<pid_t> process_of_pidfd(int fd, HostThread& host);

}  // namespace aftercheck
