// Inside of the system calls: the generic engine and the handlers that the table names. Not for other
// folders.
#pragma once

#include <linux/time_types.h>
#include <sched.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvm-recorder/descriptors.h"
#include "kvm-recorder/failed_writes.h"
#include "kvm-recorder/guest_task.h"
#include "kvm-recorder/system_call.h"
#include "kvm-recorder/system_call_table.h"

namespace aftercheck {

// One system call under way.
struct Call {
  GuestTask& task;
  Registers& registers;
  const SystemCall& row;
  std::array<uint64_t, 6> args;
  GuestProcess& process = task.process;
  Answer& answer = task.answer;
  CallBuffers& buffers = task.buffers;
  CallOutcome outcome{};
  // The path that the kernel gets in the place of argument `instead_of`, if not empty (reach.h).
  std::string instead{};
  size_t instead_of = 0;

  int fd(size_t index) const { return static_cast<int>(args[index]); }
};

// Non-canonical: the kernel refuses it without touching memory (EFAULT, in its own order of checks). Takes
// the place of guest pointers that lead out of the windows.
constexpr uint64_t kBadPointer = 0x8000'0000'0000'0000;
// MAX_RW_COUNT of the kernel (include/linux/fs.h): no call moves more.
constexpr uint64_t kMaxTransfer = 0x7fff'f000;
constexpr size_t kMaxIovecs = 1024;  // UIO_MAXIOV

// The bare SYSCALL instruction: result or -errno, errno untouched.
long host_call(long number, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0, uint64_t d = 0, uint64_t e = 0,
               uint64_t f = 0);
inline uint64_t host_pointer(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

// The generic engine: checks, host call, notes, as call.row says.
long pass(Call& call);
// Its parts. checked() prepares call.args for the host (pointers that lead out of the windows become
// kBadPointer); false: EBADF.
bool prepare(Call& call, std::array<uint64_t, 6>& args);
// A host call with the row's way of waiting; repeats it while what interrupted it is nothing the guest may
// see.
long blocking_call(Call& call, long number, const std::array<uint64_t, 6>& args);
// True when a call that moves `bytes` bytes from or to descriptor `fd` can block: then it must not have guest
// memory meanwhile, but stand-ins (call_buffers.h). What the row's `wait` says, but for large transfers of
// regular files: they wait for a disk at most, are over by themselves, and a copy of them would cost.
bool may_block(const Call& call, int fd, uint64_t bytes);
// Turns the host's EINTR into what the row's restart class says; anything else stays.
long interrupted_result(const Call& call, long result);
// The notes after a call. Addresses are those that the kernel got, of guest memory or of stand-ins.
void note_written(Call& call, uint64_t address, uint64_t size);
void note_writes(Call& call, const std::array<uint64_t, 6>& args, long result);
// What the kernel may have written before it gave up with EFAULT: the accessible start of the range.
void note_reachable(Call& call, uint64_t address, uint64_t size);

// `pointer` if [pointer, pointer+size) is guest memory (or null, or empty), else kBadPointer.
uint64_t guest_pointer(uint64_t pointer, uint64_t size);

// Before a call: what its row says that the kernel may write only when it succeeds.
void watch_outputs(const Call& call, const std::array<uint64_t, 6>& host, FailedWrites& watched);

// Says `text` once per `key`.
void tell_once(GuestProcess& process, const std::string& key, const std::string& text);
// system_calls_seccomp.cc. Where the guest's filters, or strict mode, do not allow call `number`: what
// becomes of it. The answer is in RAX, a signal waits, or the thread ends.
std::optional<CallOutcome> stopped_by_filter(GuestTask& task, Registers& registers, uint64_t number);
// system_calls_tasks.cc. A thread ends, with `value` (CallOutcome::Kind::thread_exited), and its process does
// not: ends_alone(). What the kernel does at a thread's end is done.
CallOutcome end_of_thread(GuestTask& task, long value);
// Other threads are there. (The last one's end is its process's.)
bool ends_alone(const GuestTask& task);
long set_seccomp_mode(Call& call, uint64_t mode, uint64_t filter);  // prctl(PR_SET_SECCOMP)
long refuse(Call& call);
// The call can't be recorded, and a program that is not told the truth goes on wrongly. Ends the recording,
// or gives -error where the user wants the program to go on. `what` is the call for people, with what it
// means: "clone (a new thread)"; `advice` what they can do about it, after which "or" follows; may be empty.
long cannot_record(Call& call, const std::string& what, int error, const std::string& advice = {});
// -error for a call that is not made, noted in the recording. Never ends it.
long answer_undone(Call& call, const std::string& what, int error);
// True when the guest has this capability (capabilities(7), CAP_*) in its effective set.
bool capable(int capability);

// output_gate.cc. Everything that leaves the guest passes here, after the host's call. `offset`: where in its
// file, for calls that say so (pwrite).
void output_gate(Call& call, int fd, std::span<const iovec> pieces, uint64_t length,
                 std::optional<int64_t> offset = std::nullopt);
// The same for bytes that did not come from guest memory.
void output_gate(Call& call, int fd, std::vector<std::byte> bytes, std::optional<int64_t> offset);
// The guest has moved a descriptor's position from `from` to `to`, or given its file another size.
void output_sought(Call& call, int fd, int64_t from, int64_t to);
void output_resized(Call& call, uint8_t stream, int64_t size);

// Copies `count` guest iovecs; each base outside the windows becomes kBadPointer. 0 or -errno.
long copy_iovecs(GuestProcess& process, uint64_t address, uint64_t count,
                 std::array<iovec, kMaxIovecs>& iovecs);
// Puts stand-ins in the place of the iovecs' memory, as far as one call goes.
void stand_in_for(Call& call, std::span<iovec> iovecs, CallBuffers::Use use);
// Notes `bytes` bytes spread over the iovecs, in order.
void note_iovecs(Call& call, std::span<const iovec> iovecs, uint64_t bytes);
void note_reachable(Call& call, std::span<const iovec> iovecs);

// system_calls_copies.cc. Waits, where `waits` and the descriptor say so, until a pipe can take (`writes`) or
// give bytes: how many it can without waiting, at least, or -errno (EAGAIN, EINTR). What can't wait can't be
// interrupted half-way either.
long room_in_pipe(Call& call, int fd, bool writes, bool waits);

// include/uapi/linux/sched.h.
constexpr uint64_t kNewNamespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
                                    CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | 0x80 /* CLONE_NEWTIME */;

// system_calls_tasks.cc. The guest's timers end with the image that they were made for.
void delete_timers(GuestProcess& process);

// struct clone_args of include/uapi/linux/sched.h, in the kernel's layout.
struct CloneArgs {
  uint64_t flags = 0, pidfd = 0, child_tid = 0, parent_tid = 0, exit_signal = 0;
  uint64_t stack = 0, stack_size = 0;  // for what follows the stack's end is in the first
  uint64_t tls = 0, set_tid = 0, set_tid_size = 0, cgroup = 0;
};
// system_calls_children.cc. Do the flags ask for a process that shares no memory for longer than until its
// execve?
bool makes_process(uint64_t flags);
// The result of the call; or what the recording loop has to do is in call.outcome.
long make_process(Call& call, const CloneArgs& wanted);
// execve of a process that is not recorded: comes back only if the host's fails, with -errno, and the process
// is then to be killed.
long execute_natively(Call& call, const std::string& path, const std::vector<std::string>& arguments,
                      const std::vector<std::string>& environment);

// Handlers.
// A call is about to change the file with this status: other processes may have mapped it, and are to see the
// change at its place.
void share_changed(Call& call, const struct stat& status);
void share_changed(Call& call, int fd);
// `size` bytes were written to a descriptor, if it is above zero: its file may be one that the guest maps.
void note_file(Call& call, int fd, long size);

namespace calls {
// system_calls_io.cc
long write(Call& call);
long send_queued(Call& call);  // mq_timedsend, msgsnd
long writev(Call& call);
long readv(Call& call);
long vmsplice(Call& call);
long lseek(Call& call);
long file_changed(Call& call);  // ftruncate, fallocate
long truncate(Call& call);
// system_calls_copies.cc
long copy_to_fd(Call& call);  // sendfile, splice, tee, copy_file_range
// system_calls_keys.cc
long keyctl(Call& call);
// system_calls_messages.cc
long sendmsg(Call& call);
long recvmsg(Call& call);
long sendmmsg(Call& call);
long recvmmsg(Call& call);
long getsockopt(Call& call);
long setsockopt(Call& call);
// system_calls_files.cc
long open(Call& call);
long readlink(Call& call);
long stat(Call& call);
long close(Call& call);
long close_range(Call& call);
long dup(Call& call);
long dup2(Call& call);
long pidfd_getfd(Call& call);
long two_descriptors(Call& call);  // pipe, pipe2, socketpair
long getdents(Call& call);
long name_to_handle_at(Call& call);
// descriptor_calls: fcntl_table.cc, ioctl_table.cc
long fcntl(Call& call);
long ioctl(Call& call);
// system_calls_memory.cc
long mmap(Call& call);
long munmap(Call& call);
long mprotect(Call& call);
long mremap(Call& call);
long brk(Call& call);
// system_calls_advice.cc
long madvise(Call& call);
long mincore(Call& call);
long msync(Call& call);
long mlock(Call& call);  // mlock, mlock2
long munlock(Call& call);
long mlockall(Call& call);
long munlockall(Call& call);
// system_calls_tasks.cc
long clone(Call& call);
long clone3(Call& call);
long fork(Call& call);
long exit(Call& call);
long sched_yield(Call& call);
long set_tid_address(Call& call);
long set_robust_list(Call& call);
long get_robust_list(Call& call);
// system_calls_wait.cc
long poll(Call& call);
long select(Call& call);
long epoll_wait(Call& call);
long nanosleep(Call& call);
long clock_nanosleep(Call& call);
long pause(Call& call);
long futex(Call& call);
// system_calls_process.cc
long execve(Call& call);
long execveat(Call& call);
long arch_prctl(Call& call);
long prctl(Call& call);
long getrlimit(Call& call);
long setrlimit(Call& call);
long prlimit64(Call& call);
long membarrier(Call& call);
long kcmp(Call& call);
long set_clock(Call& call);
long personality(Call& call);
long capget(Call& call);
long affinity(Call& call);  // sched_getaffinity, sched_setaffinity
long semctl(Call& call);
long msgctl(Call& call);
long shmctl(Call& call);
// system_calls_process_vm.cc
long process_vm(Call& call);  // process_vm_readv, process_vm_writev
// system_calls_seccomp.cc
long seccomp(Call& call);
// system_calls_shared.cc
long shmget(Call& call);
long shmat(Call& call);
long shmdt(Call& call);
long interrupted(Call& call);  // restart_syscall: EINTR
long unshare(Call& call);
// system_calls_signals.cc
long rt_sigaction(Call& call);
long rt_sigprocmask(Call& call);
long rt_sigpending(Call& call);
long rt_sigsuspend(Call& call);
long rt_sigtimedwait(Call& call);
long rt_sigqueueinfo(Call& call);
long rt_tgsigqueueinfo(Call& call);
long rt_sigreturn(Call& call);
long sigaltstack(Call& call);
long kill(Call& call);
long tkill(Call& call);
long tgkill(Call& call);
long pidfd_send_signal(Call& call);
long signalfd(Call& call);  // signalfd, signalfd4
long mq_notify(Call& call);
long timer_create(Call& call);
long timer_delete(Call& call);
}  // namespace calls

}  // namespace aftercheck
