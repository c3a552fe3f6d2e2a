// Where names of files lead, and that every call with names is looked at.
#include "kvm-recorder/reach.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "base/fd.h"
#include "kvm-recorder/file_names.h"
#include "kvm-recorder/proc_files.h"
#include "syscall_fixture.h"

using namespace aftercheck;
using namespace aftercheck::test;

TEST_CASE("every name of a file in the table of calls is looked at", "[reach]") {
  for (const SystemCall& row : system_call_table()) {
    if (row.klass == CallClass::refused) continue;
    for (uint8_t i = 0; i < 6; ++i) {
      if (row.args[i].kind != ArgKind::path) continue;
      INFO(row.name << ", argument " << static_cast<int>(i));
      const auto names = file_names(row.number);
      const auto found = std::ranges::find(names, i, &FileName::argument);
      REQUIRE(found != names.end());
      const bool relative = i > 0 && row.args[i - 1].kind == ArgKind::fd;
      if (found->end == FileName::End::handler || found->end == FileName::End::no_file) continue;
      CHECK((found->directory == FileName::kNone) == (!relative || row.number == SYS_inotify_add_watch));
    }
  }
  CHECK(file_names(SYS_read).empty());
  CHECK(file_names(60000).empty());
}

TEST_CASE("what lies in a protected folder is the recorder's, whatever leads there", "[reach]") {
  SystemCalls guest;
  const TemporaryDirectory recording;
  std::filesystem::create_directory(recording.path() / "store");
  const std::string log = recording.write("events", "x"), blob = recording.write("store/blob", "x");
  guest.process.own_files.protect(recording.path());
  const std::string link = guest.directory.file("link");
  std::filesystem::create_symlink(log, link);
  const std::string hard = guest.directory.file("hard");
  for (const std::string& path : {log, blob, link, recording.file("store/../events")}) {
    INFO(path);
    CHECK(reach(guest.process, {.path = path}).error == EACCES);
    CHECK(guest.call(SYS_open, guest.text(path), O_RDONLY) == -EACCES);
    CHECK(guest.call(SYS_truncate, guest.text(path), 0) == -EACCES);
    CHECK(guest.call(SYS_link, guest.text(path), guest.text(hard)) == (path == link ? 0 : -EACCES));
  }
  CHECK(reach(guest.process, {.path = link, .followed = false}).error == 0);
  CHECK(reach(guest.process, {.path = recording.file("new"), .made = true}).error == EACCES);
  CHECK(reach(guest.process, {.path = recording.file("new")}).error == 0);  // ENOENT is the kernel's to say
  CHECK(reach(guest.process, {.path = guest.directory.file("new"), .made = true}).error == 0);
  // What several recordings share was there before.
  const TemporaryDirectory shared;
  const std::string old = shared.write("blob", "x");
  guest.process.own_files.protect(shared.path(), false);
  CHECK(guest.call(SYS_open, guest.text(old), O_RDONLY) == -EACCES);
  struct stat blob_status {};
  REQUIRE(stat(old.c_str(), &blob_status) == 0);
  CHECK(guest.process.own_files.may_be_ours(blob_status.st_dev, blob_status.st_ino, timespec{}));
}

TEST_CASE("an old file is not looked at twice", "[reach]") {
  SystemCalls guest;
  const TemporaryDirectory recording;
  const std::string log = recording.write("events", "x");
  guest.process.own_files.protect(recording.path());
  // With a clock that was set, it is.
  struct stat status {};
  REQUIRE(stat(log.c_str(), &status) == 0);
  CHECK(guest.process.own_files.may_be_ours(status.st_dev, status.st_ino, status.st_ctim));
  const timespec long_ago{status.st_ctim.tv_sec - 1000, 0};
  CHECK_FALSE(guest.process.own_files.may_be_ours(status.st_dev, 1, long_ago));
  guest.process.own_files.distrust_times();
  CHECK(guest.process.own_files.may_be_ours(status.st_dev, 1, long_ago));
}

TEST_CASE("an old file beside the recording is looked at once", "[reach]") {
  const std::filesystem::path here = std::filesystem::canonical("/proc/self/exe").parent_path();
  const UniqueFd old(open((here / "CTestTestfile.cmake").c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (!old || fstat(old.get(), &status) != 0 || status.st_ctim.tv_sec > time(nullptr) - 10) {
    std::puts("SKIPPED: no old file beside the test");
    return;
  }
  SystemCalls guest;
  OwnFiles& files = guest.process.own_files;
  const std::filesystem::path recording = here / ("recording-" + std::to_string(getpid()));
  std::filesystem::create_directory(recording);
  files.protect(recording, false);  // so that no file is too old
  std::ofstream(recording / "events") << "x";
  const auto may_be_ours = [&](const struct stat& file) {
    return files.may_be_ours(file.st_dev, file.st_ino, file.st_ctim);
  };
  CHECK(may_be_ours(status));
  CHECK(refusal(guest.process, old.get()) == 0);
  CHECK_FALSE(may_be_ours(status));
  CHECK(refusal(guest.process, old.get()) == 0);
  // A change makes it another, and so does the inode's number for another file.
  struct stat other = status;
  other.st_ctim.tv_nsec ^= 1;
  CHECK(may_be_ours(other));
  other = status;
  other.st_ino += 64;
  CHECK(may_be_ours(other));
  // A file as young as the recording's own could get away, and one of them come in its place.
  const UniqueFd young(
      open((here / (recording.filename().string() + "-young")).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  CHECK(refusal(guest.process, young.get()) == 0);
  CHECK((fstat(young.get(), &other) == 0 && may_be_ours(other)));
  const UniqueFd log(open((recording / "events").c_str(), O_RDONLY | O_CLOEXEC));
  CHECK(refusal(guest.process, log.get()) == EACCES);
  CHECK((fstat(log.get(), &other) == 0 && may_be_ours(other)));
  files.distrust_times();
  CHECK(may_be_ours(status));
  std::filesystem::remove_all(recording);
  std::filesystem::remove(here / (recording.filename().string() + "-young"));
}

TEST_CASE("a thread of the recorder's is not there", "[reach]") {
  SystemCalls guest;
  std::atomic<int> thread = 0;
  std::atomic<bool> over = false;
  std::thread other([&] {
    thread = gettid();
    while (!over) std::this_thread::yield();
  });
  while (thread == 0) std::this_thread::yield();
  const std::string number = std::to_string(thread);
  const UniqueFd tasks(open("/proc/self/task", O_PATH | O_DIRECTORY));
  CHECK(is_recorder_thread(tasks.get(), number.c_str()));
  CHECK_FALSE(is_recorder_thread(tasks.get(), std::to_string(getpid()).c_str()));
  for (const std::string folder : {"/proc/", "/proc/self/task/", "/proc/thread-self/../"})
    for (const std::string entry : {"", "/mem", "/fd", "/fd/0", "/maps", "/exe", "/root/etc/passwd"}) {
      const std::string path = folder + number + entry;
      INFO(path);
      CHECK(guest.call(SYS_open, guest.text(path), O_RDONLY) == -ENOENT);
      CHECK(guest.call(SYS_access, guest.text(path), F_OK) == -ENOENT);
      CHECK(guest.call(SYS_stat, guest.text(path), guest.room(144)) == -ENOENT);
    }
  CHECK(guest.call(SYS_ioprio_get, 1, thread.load()) == -ESRCH);
  CHECK(guest.call(SYS_ioprio_set, 1, thread.load(), 0) == -ESRCH);
  CHECK(guest.call(SYS_ioprio_get, 1, 0) >= 0);
  CHECK(guest.call(SYS_kcmp, getpid(), thread.load(), 0, 0, 0) == -ESRCH);
  const UniqueFd own = move_out_of_guest_reach(UniqueFd(open("/dev/null", O_RDWR)));
  CHECK(guest.call(SYS_kcmp, getpid(), getpid(), 0, 0, own.get()) == -EBADF);
  CHECK(guest.call(SYS_kcmp, getpid(), getpid(), 0, 0, 0) == 0);
  over = true;
  other.join();
}

// In a thread of its own, which alone sees what it mounts. Nothing when it may not mount.
void with_second_proc(const std::string& at, const std::function<void()>& work) {
  std::thread([&] {
    std::filesystem::create_directories(at);
    if (unshare(CLONE_NEWNS) != 0 || mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("proc", at.c_str(), "proc", 0, nullptr) != 0)
      return;
    work();
    umount2(at.c_str(), MNT_DETACH);
  }).join();
}

TEST_CASE("another procfs leads to the same threads, whatever its folder is called", "[reach]") {
  const TemporaryDirectory directory;
  const std::string proc = directory.file("2nd/1");
  bool tried = false;
  with_second_proc(proc, [&] {
    tried = true;
    SystemCalls guest;
    const UniqueFd own = move_out_of_guest_reach(UniqueFd(open("/dev/null", O_RDWR)));
    // The thread that makes the calls is the guest's here, and so is the first one; the fixture has another.
    int other = 0;
    guest.memory.host_thread().keep_apart();
    guest.memory.host_thread().run([&] { other = gettid(); });
    const std::string first = proc + "/" + std::to_string(getpid()),
                      recorder = proc + "/" + std::to_string(other);
    CHECK(guest.call(SYS_open, guest.text(first + "/mem"), O_RDWR) == -EACCES);
    CHECK(guest.call(SYS_open, guest.text(first + "/fd/" + std::to_string(own.get())), O_RDWR) == -ENOENT);
    CHECK(guest.call(SYS_open, guest.text(proc + "/self/pagemap"), O_RDONLY) == -EACCES);
    CHECK(guest.call(SYS_open, guest.text(proc + "/thread-self/status"), O_RDONLY) >= 0);
    for (const std::string entry : {"", "/mem", "/fd", "/maps", "/root"}) {
      CHECK(guest.call(SYS_open, guest.text(recorder + entry), O_RDONLY) == -ENOENT);
      CHECK(guest.call(SYS_open, guest.text(first + "/task/" + std::to_string(other) + entry), O_RDONLY) ==
            -ENOENT);
    }
    CHECK(guest.call(SYS_open, guest.text(proc + "/1/status"), O_RDONLY) >= 0);
  });
  if (!tried) std::puts("SKIPPED: mounting is not allowed");
}

TEST_CASE("a protected folder is told where paths mean something else", "[reach]") {
  SystemCalls guest;
  const TemporaryDirectory above;
  std::filesystem::create_directory(above.path() / "recording");
  std::filesystem::create_directory(above.path() / "view");
  above.write("recording/events", "x");
  guest.process.own_files.protect(above.path() / "recording");
  // By a mount that only a thread had which is gone.
  UniqueFd view;
  std::thread([&] {
    const std::string at = above.file("view");
    if (unshare(CLONE_NEWNS) != 0 || mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount(above.path().c_str(), at.c_str(), nullptr, MS_BIND, nullptr) != 0)
      return;
    view.reset(open(at.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  }).join();
  if (!view) {
    std::puts("SKIPPED: mounting is not allowed");
    return;
  }
  CHECK(guest.call(SYS_openat, view.get(), guest.text("recording/events"), O_RDWR) == -EACCES);
  CHECK(guest.call(SYS_unlinkat, view.get(), guest.text("recording/events"), 0) == -EACCES);
  CHECK(guest.call(SYS_openat, view.get(), guest.text("view"), O_RDONLY) >= 0);
}

TEST_CASE("what leads to a protected folder keeps its name", "[reach]") {
  SystemCalls guest;
  const TemporaryDirectory above;
  std::filesystem::create_directory(above.path() / "between");
  std::filesystem::create_directory(above.path() / "between/recording");
  std::filesystem::create_directory(above.path() / "beside");
  guest.process.own_files.protect(above.path() / "between/recording");
  const std::string between = above.file("between"), beside = above.file("beside"), free = above.file("free");
  CHECK(guest.call(SYS_rename, guest.text(between), guest.text(free)) == -EACCES);
  CHECK(guest.call(SYS_renameat2, AT_FDCWD, guest.text(beside), AT_FDCWD, guest.text(between), 2) == -EACCES);
  CHECK(guest.call(SYS_renameat2, AT_FDCWD, guest.text(between), AT_FDCWD, guest.text(beside), 2) == -EACCES);
  CHECK(guest.call(SYS_renameat, AT_FDCWD, guest.text(above.path()), AT_FDCWD, guest.text(free)) == -EACCES);
  CHECK(guest.call(SYS_rename, guest.text(beside), guest.text(free)) == 0);
}

TEST_CASE("a descriptor of the recorder's is none in any argument", "[reach]") {
  SystemCalls guest;
  const UniqueFd own = move_out_of_guest_reach(UniqueFd(open("/dev/null", O_RDWR)));
  const auto number = static_cast<uint64_t>(own.get());
  for (const SystemCall& row : system_call_table()) {
    if (row.klass != CallClass::pass) continue;
    for (size_t i = 0; i < 6; ++i) {
      if (row.args[i].kind != ArgKind::fd) continue;
      INFO(row.name << ", argument " << i);
      std::array<uint64_t, 6> args{};
      args[i] = number;
      CHECK(guest.call(row.number, args[0], args[1], args[2], args[3], args[4], args[5]) == -EBADF);
    }
  }
  CHECK(fcntl(own.get(), F_GETFD) >= 0);
}

TEST_CASE("a name that leads to the recorder's program leads to the guest's", "[reach]") {
  SystemCalls guest;
  guest.process.executable = guest.directory.write("program", "x", 0600);
  const std::string link = guest.directory.file("link");
  std::filesystem::create_symlink("/proc/self/exe", link);
  CHECK(reach(guest.process, {.path = link}).instead == guest.process.executable);
  REQUIRE(guest.call(SYS_chmod, guest.text(link), 0640) == 0);
  struct stat status {};
  REQUIRE(stat(guest.process.executable.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0640);
  CHECK(guest.call(SYS_open, guest.text(link + "/x"), O_RDONLY) == -ENOTDIR);
}
