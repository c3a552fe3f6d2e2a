// Calls that can't be recorded, and numbers of processes that the guest must not know.
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "kvm-recorder/system_calls.h"
#include "syscall_fixture.h"

using namespace aftercheck;
using namespace aftercheck::test;

namespace {

constexpr uint64_t kThreadFlags = CLONE_THREAD | CLONE_SIGHAND | CLONE_VM;

}  // namespace

TEST_CASE("calls that programs probe for answer their error and say so once", "[guards]") {
  SystemCalls guest;
  CHECK(guest.call(SYS_bpf, 0, 0, 0) == -ENOSYS);
  CHECK(guest.call(SYS_bpf, 0, 0, 0) == -ENOSYS);
  CHECK(guest.call(SYS_rseq, 0, 0, 0, 0) == -ENOSYS);
  CHECK(guest.call(4711) == -ENOSYS);
  CHECK(guest.messages == std::vector<std::string>{
                              "the program called bpf: not supported, answered ENOSYS",
                              "the program called system call 4711: unknown, answered ENOSYS",
                          });
  CHECK(guest.process.unsupported.answered().empty());
  CHECK(!guest.process.unsupported.take_news());
}

TEST_CASE("calls that can't be recorded end the recording, and say what to do", "[guards]") {
  struct Case {
    long number;
    uint64_t argument;
    const char* call;
    const char* advice;
  };
  const Case cases[] = {
      {SYS_ptrace, 0, "ptrace (", "--on-unsupported=continue"},
      {SYS_clone, kThreadFlags, "clone (a new thread)", "one thread"},
      {SYS_clone, SIGCHLD, "clone (a child process)", "Record the child's command"},
      {SYS_fork, 0, "fork (a child process)", "answers ENOSYS"},
      {SYS_vfork, 0, "vfork (a child process)", "answers ENOSYS"},
      {SYS_modify_ldt, 0, "modify_ldt (segments of its own)", "answers ENOSYS"},
      {SYS_unshare, CLONE_NEWUSER, "unshare (namespaces of its own)", "answers EPERM"},
  };
  for (const Case& entry : cases) {
    SystemCalls guest;
    guest.process.refuses_children = true;
    guest.call(entry.number, entry.argument, 0, 0, 0, 0);
    INFO(entry.call);
    CHECK(guest.outcome.kind == CallOutcome::Kind::refused);
    CHECK(guest.process.unsupported.stopped_at().rfind(entry.call, 0) == 0);
    CHECK(guest.process.unsupported.why().find(entry.call) != std::string::npos);
    CHECK(guest.process.unsupported.why().find(entry.advice) != std::string::npos);
    CHECK(guest.process.unsupported.answered().empty());
  }
}

TEST_CASE("where the user wants the program to go on, such calls are answered, told once and counted",
          "[guards]") {
  SystemCalls guest;
  guest.process.unsupported.answer_them = true;
  guest.process.refuses_children = true;
  CHECK(guest.call(SYS_fork) == -ENOSYS);
  CHECK(guest.process.unsupported.take_news());
  CHECK(guest.call(SYS_fork) == -ENOSYS);
  CHECK(!guest.process.unsupported.take_news());
  CHECK(guest.call(SYS_clone, kThreadFlags, 0, 0, 0, 0) == -ENOSYS);
  CHECK(guest.outcome.kind == CallOutcome::Kind::result);
  CHECK(guest.messages == std::vector<std::string>{
                              "the program called fork (a child process): can't be recorded, answered ENOSYS",
                              "the program called clone (a new thread): can't be recorded, answered ENOSYS",
                          });
  const auto& answered = guest.process.unsupported.answered();
  REQUIRE(answered.size() == 2);
  CHECK(answered[0].call == "fork (a child process)");
  CHECK(answered[0].answer == "ENOSYS");
  CHECK(answered[0].times == 2);
  CHECK(answered[1].times == 1);
}

TEST_CASE("processes are the recording loop's to make, and what they would share is named", "[guards]") {
  std::optional<SystemCalls> first(std::in_place);  // one at a time
  SystemCalls& guest = *first;
  guest.call(SYS_vfork);
  CHECK(guest.outcome.kind == CallOutcome::Kind::new_process);
  CHECK(guest.outcome.new_process.flags == (CLONE_VM | CLONE_VFORK));
  const uint64_t word = guest.room(8);
  guest.call(SYS_clone, CLONE_CHILD_SETTID | SIGCHLD, 0x1234, 0, word, 0);
  CHECK(guest.outcome.kind == CallOutcome::Kind::new_process);
  CHECK(guest.outcome.new_process.stack == 0x1234);
  CHECK(guest.outcome.new_process.child_tid == word);
  CHECK(guest.call(SYS_clone, CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD, 0, word, 0, 0) == -EINVAL);

  first.reset();

  struct Case {
    uint64_t flags;
    const char* call;
  };
  const Case cases[] = {
      {CLONE_FILES | SIGCHLD, "clone (a child process that shares the table of descriptors)"},
      {CLONE_FS | SIGCHLD, "clone (a child process that shares the working directory)"},
      {CLONE_PARENT | SIGCHLD, "clone (a process beside the caller)"},
      {SIGUSR1, "clone (a child process that ends with another signal than SIGCHLD)"},
      {CLONE_VM | SIGCHLD, "clone (a child process that shares the memory)"},
  };
  for (const Case& entry : cases) {
    SystemCalls other;
    other.call(SYS_clone, entry.flags, 0, 0, 0, 0);
    INFO(entry.call);
    CHECK(other.outcome.kind == CallOutcome::Kind::refused);
    CHECK(other.process.unsupported.stopped_at() == entry.call);
  }

  SystemCalls sharing;
  sharing.process.children_unrecorded = true;
  const long at = sharing.call(SYS_mmap, 0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(at > 0);
  CHECK(sharing.call(SYS_madvise, at, 4096, MADV_DONTFORK) == 0);
  sharing.call(SYS_fork);
  CHECK(sharing.outcome.kind == CallOutcome::Kind::refused);
  CHECK(sharing.process.unsupported.stopped_at().find(
            "a child process that is not recorded and would share memory") != std::string::npos);
  CHECK(sharing.call(SYS_madvise, at, 8192, MADV_DONTFORK) == 0);
  sharing.call(SYS_fork);
  CHECK(sharing.outcome.kind == CallOutcome::Kind::new_process);
}

TEST_CASE("a program that makes up calls is counted within bounds", "[guards]") {
  UnsupportedCalls calls;
  for (int i = 0; i < 10'000; ++i) calls.note("ioctl " + std::to_string(i), "ENOTTY");
  CHECK(calls.answered().size() <= 201);
  CHECK(calls.answered().back().call == "other calls");
  CHECK(calls.answered().back().times == 9800);
}

TEST_CASE("what the kernel refuses anyway is no reason to end the recording", "[guards]") {
  SystemCalls guest;
  CHECK(guest.call(SYS_clone, CLONE_THREAD, 0, 0, 0, 0) == -EINVAL);
  CHECK(guest.call(SYS_clone3, 0, 0) == -EINVAL);
  CHECK(guest.call(SYS_unshare, CLONE_FILES | CLONE_FS) == 0);
  CHECK(guest.call(SYS_ioctl, 99, 0x12345, 0) == -EBADF);
  if (!capable(CAP_SYS_ADMIN)) CHECK(guest.call(SYS_mount, 0, 0, 0, 0, 0) == -EPERM);
  CHECK(guest.process.unsupported.stopped_at().empty());
}

TEST_CASE("requests to devices end the recording, probes of files do not", "[guards]") {
  SystemCalls guest;
  const long file = guest.call(SYS_open, guest.text(guest.directory.write("file", "x")), O_RDONLY);
  const long null = guest.call(SYS_open, guest.text("/dev/null"), O_RDONLY);
  CHECK(guest.call(SYS_ioctl, file, 0xdeadbeef, 0) == -ENOTTY);
  CHECK(guest.call(SYS_ioctl, null, 0xdeadbeef, 0) == -ENOTTY);
  CHECK(guest.outcome.kind == CallOutcome::Kind::result);
  const long socket = guest.call(SYS_socket, AF_INET, SOCK_DGRAM, 0);
  REQUIRE(socket >= 0);
  guest.call(SYS_ioctl, socket, 0x89fe, 0);
  CHECK(guest.outcome.kind == CallOutcome::Kind::refused);
  CHECK(guest.process.unsupported.stopped_at().rfind("ioctl 0x89fe", 0) == 0);
}

namespace {

std::vector<pid_t> threads_of_recorder() {
  std::vector<pid_t> threads;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task"))
    if (const int thread = std::stoi(entry.path().filename().string());
        thread != gettid() && thread != getpid())
      threads.push_back(thread);
  return threads;
}

}  // namespace

TEST_CASE("the recorder's threads are none for the guest", "[guards]") {
  SystemCalls guest;
  guest.memory.host_thread().keep_apart();
  const std::vector<pid_t> threads = threads_of_recorder();
  REQUIRE(!threads.empty());
  const uint64_t set = guest.put(uint64_t{1}), zero = guest.put(uint64_t{0}), room = guest.room(128);
  siginfo_t information{};
  information.si_code = SI_QUEUE;
  const uint64_t info = guest.put(information);
  const f_owner_ex owner{F_OWNER_TID, threads.front()};
  const struct {
    uint32_t version;
    int pid;
  } header{0x20080522, threads.front()};
  for (const pid_t thread : threads) {
    CHECK(guest.call(SYS_kill, thread, SIGUSR1) == -ESRCH);
    CHECK(guest.call(SYS_tkill, thread, SIGUSR1) == -ESRCH);
    CHECK(guest.call(SYS_tkill, thread, 0) == -ESRCH);
    CHECK(guest.call(SYS_tgkill, getpid(), thread, SIGUSR1) == -ESRCH);
    CHECK(guest.call(SYS_rt_sigqueueinfo, thread, SIGUSR1, info) == -ESRCH);
    CHECK(guest.call(SYS_rt_tgsigqueueinfo, getpid(), thread, SIGUSR1, info) == -ESRCH);
    CHECK(guest.call(SYS_pidfd_open, thread, O_EXCL /* PIDFD_THREAD */) == -ESRCH);
    CHECK(guest.call(SYS_setpriority, PRIO_PROCESS, thread, 5) == -ESRCH);
    CHECK(guest.call(SYS_getpriority, PRIO_PROCESS, thread) == -ESRCH);
    CHECK(guest.call(SYS_ioprio_set, 1, thread, 0) == -ESRCH);
    CHECK(guest.call(SYS_ioprio_get, 1, thread) == -ESRCH);
    CHECK(guest.call(SYS_sched_setaffinity, thread, 8, set) == -ESRCH);
    CHECK(guest.call(SYS_sched_getaffinity, thread, 128, room) == -ESRCH);
    CHECK(guest.call(SYS_sched_setscheduler, thread, 0, zero) == -ESRCH);
    CHECK(guest.call(SYS_sched_getscheduler, thread) == -ESRCH);
    CHECK(guest.call(SYS_sched_setparam, thread, zero) == -ESRCH);
    CHECK(guest.call(SYS_sched_getparam, thread, room) == -ESRCH);
    CHECK(guest.call(SYS_sched_rr_get_interval, thread, room) == -ESRCH);
    CHECK(guest.call(SYS_sched_getattr, thread, room, 56, 0) == -ESRCH);
    CHECK(guest.call(SYS_sched_setattr, thread, zero, 0) == -ESRCH);
    CHECK(guest.call(SYS_getpgid, thread) == -ESRCH);
    CHECK(guest.call(SYS_getsid, thread) == -ESRCH);
    CHECK(guest.call(SYS_setpgid, thread, 0) == -ESRCH);
    CHECK(guest.call(SYS_kcmp, getpid(), thread, 1, 0, 0) == -ESRCH);
    CHECK(guest.call(SYS_prlimit64, thread, 9, 0, room) == -ESRCH);
    CHECK(guest.call(SYS_get_robust_list, thread, room, room + 8) == -ESRCH);
  }
  CHECK(guest.call(SYS_fcntl, 0, F_SETOWN_EX, guest.put(owner)) == -ESRCH);
  CHECK(guest.call(SYS_capget, guest.put(header), 0) == -ESRCH);
  // Its own numbers are the guest's.
  CHECK(guest.call(SYS_getpriority, PRIO_PROCESS, gettid()) > 0);
  CHECK(guest.call(SYS_getpgid, getpid()) == getpgrp());
  CHECK(guest.call(SYS_sched_getscheduler, 0) >= 0);
}
