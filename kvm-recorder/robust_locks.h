// Locks that a thread leaves behind (set_robust_list(2)).
#pragma once

namespace aftercheck {

struct GuestTask;

// The thread is gone, or about to be: marks the locks that it holds, wakes who waits for them, and notes the
// marks in its answer. By the holder of the token, for any thread of the guest's that runs nothing meanwhile.
void leave_robust_locks(GuestTask& task);

// The thread executes a program, and its memory is about to go. It has the process's number then, as in the
// kernel (fs/exec.c, begin_new_exec()): what it has locked by another one stays locked. False: it marked
// nothing.
bool leave_robust_locks_in_exec(GuestTask& task);

}  // namespace aftercheck
