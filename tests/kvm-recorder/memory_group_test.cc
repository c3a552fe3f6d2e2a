// The turns of processes that share memory: members are real processes here.
#include "kvm-recorder/memory_group.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <csignal>
#include <functional>
#include <new>

using aftercheck::MemoryGroup;

namespace {

struct Seen {
  std::atomic<int> at{0};
  std::atomic<uint64_t> turn{0};
};

// What parent and child both see.
class Both {
 public:
  Both()
      : seen_(new (mmap(nullptr, sizeof(Seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))
                  Seen) {}
  ~Both() { munmap(seen_, sizeof(Seen)); }
  Both(const Both&) = delete;
  Both& operator=(const Both&) = delete;
  Seen* operator->() { return seen_; }
  void wait_for(int at) {
    while (seen_->at < at) usleep(100);
  }

 private:
  Seen* const seen_;
};

pid_t start(const std::function<void()>& body) {
  const pid_t child = fork();
  if (child != 0) return child;
  body();
  _exit(0);
}

int end_of(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

}  // namespace

TEST_CASE("turns are counted where another process had one meanwhile", "[threads]") {
  MemoryGroup group;
  CHECK(!group.joined());
  group.join();
  CHECK(group.take() == 1);
  group.give();
  CHECK(group.take() == 0);
  CHECK(group.holds());
  Both both;
  const pid_t child = start([&] {
    group.forked();
    if (!group.joined() || group.holds()) _exit(1);
    both->at = 1;
    both->turn = group.take();
    group.leave();
  });
  both.wait_for(1);
  while (!group.contended()) usleep(100);
  CHECK(both->turn == 0);
  group.give();
  CHECK(group.take() == 3);
  CHECK(end_of(child) == 0);
  CHECK(both->turn == 2);
  group.leave();
  CHECK(!group.joined());
}

TEST_CASE("a process that dies with the turn, or while it waits for it, is passed over", "[threads]") {
  MemoryGroup group;
  group.join();
  CHECK(group.take() == 1);
  Both both;
  const auto member = [&](int at) {
    return start([&, at] {
      group.forked();
      both->at = at;
      group.take();
      both->at = at + 1;
      pause();
    });
  };
  const pid_t holder = member(1);
  both.wait_for(1);
  group.give();
  both.wait_for(2);
  const pid_t waiter = member(3);
  both.wait_for(3);
  while (!group.contended()) usleep(100);
  kill(waiter, SIGKILL);
  kill(holder, SIGKILL);
  CHECK(group.take() >= 3);
  end_of(waiter);
  end_of(holder);
  group.give();
}

TEST_CASE("a process that is stopped while it waits for the turn is passed over", "[threads]") {
  MemoryGroup group;
  group.join();
  group.take();
  Both both;
  const pid_t child = start([&] {
    group.forked();
    both->at = 1;
    both->turn = group.take();
  });
  while (!group.contended()) usleep(100);
  kill(child, SIGSTOP);
  int status = 0;
  CHECK(waitpid(child, &status, WUNTRACED) == child);
  group.give();
  CHECK(group.take() == 0);  // it was nobody's meanwhile
  CHECK(both->turn == 0);
  kill(child, SIGCONT);
  group.give();
  CHECK(end_of(child) == 0);
  CHECK(both->turn == 2);
}

TEST_CASE("files have a number each in all processes, and who has them is known", "[threads]") {
  MemoryGroup group;
  CHECK(!group.knows_files());
  const MemoryGroup::Key one{1, 2}, two{1, 3};
  bool fresh = false;
  const uint64_t number = group.number_of(one, fresh);
  CHECK(fresh);
  CHECK(group.number_of(one, fresh) == number);
  CHECK(!fresh);
  CHECK(group.number_of(two, fresh) != number);
  CHECK(!group.is_shared(one));
  Both both;
  const pid_t child = start([&] {
    group.forked();
    bool is_new = false;
    if (group.number_of(one, is_new) != number || is_new) _exit(1);
    group.now_shared(one);
    group.now_shown_by_copy(two);
    both->at = 1;
    pause();
  });
  both.wait_for(1);
  CHECK(group.is_shared(one));
  CHECK(!group.is_shared(two));
  CHECK(group.shown_by_copy_elsewhere(two));
  kill(child, SIGKILL);
  end_of(child);
  CHECK(!group.shown_by_copy_elsewhere(two));
}
