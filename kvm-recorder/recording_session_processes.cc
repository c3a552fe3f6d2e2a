// A session in a program with several processes: what a child of fork(2) is made of, and how it ends.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <new>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/fd.h"
#include "kvm-recorder/proc_files.h"
#include "kvm-recorder/proc_status.h"
#include "kvm-recorder/process_numbers.h"
#include "kvm-recorder/recorded_thread.h"
#include "kvm-recorder/recording_session.h"
#include "kvm-recorder/resource_limits.h"
#include "machine/dense_exits.h"
#include "recording/position.h"

namespace aftercheck {
namespace {

namespace fs = std::filesystem;

// What a child process keeps stays uncompressed, but for a child that runs for a day: each later one that
// maps a compressed file would unpack all of it first, and a compiler has 30 MB.
constexpr std::chrono::milliseconds kChildsFiles{std::chrono::hours(24)};

}  // namespace

long RecordingSession::make_process(RecordedThread& by, const NewProcess& wanted, recording::Parent& parent) {
  parent = {.process = tree_.number(), .event = entries_};
  join_ended();
  if (!tree_.has_others()) {
    tree_.executes(process_.executable_file.get());
    show_words_of_guest(process_);
  }
  // What other threads change without the token is to be whole in the child.
  std::unique_lock<std::mutex> still = token_.still();
  std::unique_lock<std::mutex> ends_still(ends_mutex_);
  memory_.about_to_fork();
  machine_->tell_prepared();
  const long child = tree_.fork(wanted);
  if (child == 0) {
    // The locks know the parent's thread as their owner.
    still.release();
    ends_still.release();
    token_.forked();
    new (&ends_mutex_) std::mutex;
    new (&ends_changed_) std::condition_variable;
  } else {
    still.unlock();
    ends_still.unlock();
  }
  if (child > 0) {
    // What can't be written the kernel leaves.
    Answer& answer = by.task().answer;
    const auto number = static_cast<pid_t>(child);
    if ((wanted.flags & CLONE_PARENT_SETTID) != 0) answer.write_object(wanted.parent_tid, number);
    if ((wanted.flags & CLONE_PIDFD) != 0)
      answer.write_object(wanted.pidfd,
                          static_cast<int>(within_limit(process_, syscall(SYS_pidfd_open, number, 0))));
    const bool waits = (wanted.flags & CLONE_VFORK) != 0;
    if (waits) token_.begin_wait_for_process(by);
    tree_.wait_for_child(wanted, answer);
    if (waits && token_.end_wait_for_process(by)) by.resume();
  }
  if (child != 0) return child;

  // The other threads are not here.
  static_cast<void>(std::make_unique<std::list<std::thread>>(std::move(hosts_)).release());
  hosts_.clear();
  over_.clear();
  to_leader_.reset();
  running_ = 0;
  threads_.clear();
  threads_begun_ = 1;
  guest_threads_forked();
  proc_files_forked();
  census_.forked();
  // So are the parent's log and what is written beside it.
  const bool logs = writer_ != nullptr && options_.children == OnChildren::record;
  process_.unrecorded = options_.children == OnChildren::native;
  if (writer_) writer_->leave_to_parent();
  writer_.reset();
  if (checkpoints_) checkpoints_->leave_to_parent();
  checkpoints_.reset();
  if (pt_) pt_->leave_to_parent();
  static_cast<void>(pt_.release());
  const MachineKind machine = result_.machine;
  result_ = {};
  result_.process = tree_.number();
  result_.machine = machine;
  entries_ = 0;
  directory_ = tree_.directory();
  try {
    memory_.host_thread().forked();
    group_.forked();
    store_.forked(options_.store.empty() ? kChildsFiles : std::chrono::milliseconds(0));
    if (logs) memory_.host_thread().run([&] { begin_log_of_child(parent); });
  } catch (const std::exception& error) {
    if (options_.warning) options_.warning(std::string("a child process can't be recorded: ") + error.what());
    // For a replay there is no such process.
    std::error_code left;
    if (logs) fs::remove_all(directory_, left);
    tree_.failed(EAGAIN);
  }
  shares_memory_ = (wanted.flags & CLONE_VM) != 0;
  process_.memory_is_left = [this] { tree_.let_parent_go(space_); };
  tree_.begun();
  return 0;
}

// One link has as many names as there are processes: a file of its own for each takes some file systems as
// long as all else that a short process needs. Where that can't be had it is one more link.
void RecordingSession::link_store() const {
  const fs::path& recording = tree_.recording();
  const fs::path link = directory_ / "store", first = recording / "processes" / "1" / "store";
  if (tree_.number() != 1 && linkat(AT_FDCWD, first.c_str(), AT_FDCWD, link.c_str(), 0) == 0) return;
  fs::create_directory_symlink("../../store", link);
}

void RecordingSession::begin_log_of_child(const recording::Parent& parent) {
  fs::create_directories(directory_);
  link_store();
  meta_.recording = recording::recording_id(meta_);
  meta_.command = process_.arguments;
  meta_.environment = process_.environment;
  std::error_code error;
  meta_.working_directory = fs::current_path(error).string();
  meta_.process = tree_.number();
  meta_.parent = parent;
  meta_.process_id = static_cast<uint32_t>(getpid());
  meta_.answered_calls.clear();
  meta_.stopped_at.clear();
  recording::write_meta(directory_, meta_, false);
  // The first process sees to it that all is on the disk.
  writer_ = std::make_unique<recording::Writer>(directory_, recording::WriterOptions{.synced = false});
}

void RecordingSession::program_begins() {
  machine_->program_begins(fmt::format("{} {:x}", process_.executable, process_.entry.rip));
}

void RecordingSession::image_replaced() {
  tree_.executes(process_.executable_file.get());
  if (tree_.has_others()) show_words_of_guest(process_);
  program_begins();
  if (!writer_ || tree_.number() == 0) return;
  meta_.command = process_.arguments;
  meta_.environment = process_.environment;
  note_in_meta("what a child process runs", false);
}

void RecordingSession::memory_replaced(RecordedThread& by) {
  if (!group_.joined()) return;
  by.turn(0);
  token_.leave_group();
  memory_.group_left();
}

void RecordingSession::start_over(ThreadState state) {
  if (writer_) writer_->flush();
  forked_ = std::make_unique<ThreadState>(std::move(state));
  throw ProcessForked{};
}

// Nothing is left of the parent's threads and their vCPUs.
std::unique_ptr<ThreadState> RecordingSession::become_child() {
  // First of all: a machine on KVM has page tables in memory that it shares with the parent's.
  first_vcpu_.reset();
  counting_machine_.reset();
  machine_.reset();
  machine_ = create_machine(choice_of(result_.machine), space_, cpu_,
                            {.control_flow = options_.pt == PtChoice::soft});
  first_vcpu_ = create_leaving_vcpu(*machine_, space_, cpu_);
  program_begins();
  if (writer_) start_trace();
  if (writer_ && options_.checkpoint_every_ns)
    checkpoints_ =
        std::make_unique<RecordedCheckpoints>(directory_, *options_.checkpoint_every_ns, memory_, *writer_);
  return std::move(forked_);
}

void RecordingSession::end_child() {
  int status = EXIT_FAILURE;
  try {
    if (failure_) std::rethrow_exception(failure_);
    finish();
    if (options_.end_child) options_.end_child(result_);
    status = result_.status;
  } catch (const Error& error) {
    if (options_.warning) options_.warning(error.what());
    status = exit_status(error.kind());
  } catch (const std::exception& error) {
    if (options_.warning) options_.warning(error.what());
  }
  _exit(status);
}

// Whoever records wants all of the recording to be there when this ends.
void RecordingSession::wait_for_others() {
  if (!tree_.has_others()) return;
  // What others wait for at the end of a pipe is that its other end is closed.
  close_range(STDERR_FILENO + 1, static_cast<unsigned>(own_fd_floor()) - 1, 0);
  if (options_.waits)
    tree_.wait_for_others([this] {
      if (options_.warning)
        options_.warning(
            "the program has ended, and processes that it left go on: waiting for them; Ctrl-C ends the "
            "waiting, "
            "and leaves them and their recording as they are");
    });
  memory_.host_thread().run([&] {
    const UniqueFd all(open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (all) syncfs(all.get());
  });
}

}  // namespace aftercheck
