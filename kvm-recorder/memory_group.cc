#include "kvm-recorder/memory_group.h"

#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <climits>
#include <new>

#include "base/error.h"
#include "base/fd.h"

namespace aftercheck {
namespace {

constexpr size_t kMostMembers = 4096;
constexpr size_t kMostFiles = 1 << 14;  // a power of two
constexpr pid_t kSeveral = -1;
// Whoever does not take the token by then when it would get it is stopped or dead, as is, maybe, one that has
// it for so long without another word.
constexpr std::chrono::milliseconds kLong{20};

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// A dead process counts as ended before its parent has waited for it.
bool is_alive(pid_t process) {
  const UniqueFd handle(static_cast<int>(syscall(SYS_pidfd_open, process, 0)));
  if (!handle) return errno != ESRCH;  // no descriptor is left: nobody can say
  pollfd ended{handle.get(), POLLIN, 0};
  return poll(&ended, 1, 0) == 0;
}

}  // namespace

struct MemoryGroup::Member {
  std::atomic<pid_t> process{0};  // 0: nobody
  std::atomic<uint32_t> word{0};  // a futex, changed where the member may get the token
  bool waits = false;
  uint64_t ticket = 0;  // of waiting
};

struct MemoryGroup::File {
  uint32_t number = 0;  // 0: no file's
  bool shared = false;
  pid_t copied_in = 0;  // kSeveral: in more processes than one
  Key key;
};

struct MemoryGroup::Shared {
  pthread_mutex_t mutex;
  uint64_t turns = 0, tickets = 0;
  size_t last = kNobody;  // who had the last turn,
  size_t holder = kNobody;
  int64_t free_since_ns = 0;
  std::atomic<uint32_t> waiting{0};
  std::atomic<size_t> members_used{0};  // of the array
  std::atomic<uint32_t> files_known{0};
  std::array<Member, kMostMembers> members;
  std::array<File, kMostFiles> files;
};

// Held for a moment, and never by a thread that runs the guest. Whoever dies with it leaves everything
// usable.
class MemoryGroup::Lock {
 public:
  explicit Lock(Shared& shared) : mutex_(shared.mutex) { lock(); }
  ~Lock() { unlock(); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  void lock() {
    if (pthread_mutex_lock(&mutex_) == EOWNERDEAD) pthread_mutex_consistent(&mutex_);
  }
  void unlock() { pthread_mutex_unlock(&mutex_); }

 private:
  pthread_mutex_t& mutex_;
};

MemoryGroup::MemoryGroup()
    : shared_([] {
        void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED)
          fail(ErrorKind::host_lacks, "memory for the processes of a recording: {}", errno_text(errno));
        return static_cast<Shared*>(memory);  // zeros: what is not set below is as it begins
      }()) {
  shared_->last = shared_->holder = kNobody;
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&shared_->mutex, &attributes);
  pthread_mutexattr_destroy(&attributes);
}

MemoryGroup::~MemoryGroup() {
  leave();
  munmap(shared_, sizeof(Shared));
}

void MemoryGroup::join() {
  if (joined()) return;
  const Lock lock(*shared_);
  for (size_t i = 0; i < kMostMembers; ++i) {
    Member& member = shared_->members[i];
    if (const pid_t process = member.process; process != 0) {
      // What dead ones have left is used again when nothing else is there.
      if (i + 1 < kMostMembers || is_alive(process)) continue;
    }
    member.process = getpid();
    member.waits = false;
    own_ = i;
    if (shared_->members_used <= i) shared_->members_used = i + 1;
    // Another had this place before.
    if (shared_->last == own_) shared_->last = kNobody;
    return;
  }
  fail(ErrorKind::host_lacks, "more than {} processes that share memory", kMostMembers);
}

void MemoryGroup::leave() {
  if (!joined()) return;
  give();
  const Lock lock(*shared_);
  if (shared_->last == own_) shared_->last = kNobody;
  shared_->members[own_].process = 0;
  own_ = kNobody;
}

void MemoryGroup::forked() {
  holds_ = false;
  if (!joined()) return;
  own_ = kNobody;
  join();
}

bool MemoryGroup::alive(size_t member) const {
  const pid_t process = shared_->members[member].process;
  return process != 0 && is_alive(process);
}

void MemoryGroup::remove(size_t member) {
  Member& gone = shared_->members[member];
  if (gone.waits) --shared_->waiting;
  gone.waits = false;
  gone.process = 0;
  if (shared_->last == member) shared_->last = kNobody;
}

bool MemoryGroup::contended() const { return shared_->waiting.load(std::memory_order_relaxed) != 0; }

// With the lock, by one that waits.
bool MemoryGroup::may_take(bool waited_long) {
  Shared& all = *shared_;
  if (all.holder != kNobody) {
    if (!waited_long || alive(all.holder)) return false;
    remove(all.holder);
    all.holder = kNobody;
    all.free_since_ns = now_ns();
  }
  const size_t used = all.members_used;
  const bool passes = now_ns() - all.free_since_ns > std::chrono::nanoseconds(kLong).count();
  for (size_t i = 0; i < used; ++i) {
    const Member& other = all.members[i];
    if (i == own_ || !other.waits || other.ticket > all.members[own_].ticket) continue;
    if (!passes) return false;
    if (!alive(i)) remove(i);
  }
  return true;
}

void MemoryGroup::wake_first() {
  Member* first = nullptr;
  const size_t used = shared_->members_used;
  for (size_t i = 0; i < used; ++i) {
    Member& member = shared_->members[i];
    if (member.waits && (first == nullptr || member.ticket < first->ticket)) first = &member;
  }
  if (first == nullptr) return;
  first->word.fetch_add(1);
  syscall(SYS_futex, &first->word, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

uint64_t MemoryGroup::take() {
  Shared& all = *shared_;
  Lock lock(all);
  Member& own = all.members[own_];
  own.ticket = ++all.tickets;
  own.waits = true;
  ++all.waiting;
  // Signals for the guest may end any one wait early.
  int64_t looked_at_ns = now_ns();
  for (bool waited_long = false; !may_take(waited_long);) {
    if (waited_long) looked_at_ns = now_ns();
    const uint32_t word = own.word;
    lock.unlock();
    const timespec patience{0, std::chrono::nanoseconds(kLong).count()};
    syscall(SYS_futex, &own.word, FUTEX_WAIT, word, &patience, nullptr, 0);
    waited_long = now_ns() - looked_at_ns >= std::chrono::nanoseconds(kLong).count();
    lock.lock();
  }
  own.waits = false;
  --all.waiting;
  all.holder = own_;
  holds_ = true;
  if (all.last == own_) return 0;
  all.last = own_;
  return ++all.turns;
}

void MemoryGroup::give() {
  if (!holds()) return;
  const Lock lock(*shared_);
  holds_ = false;
  if (shared_->holder != own_) return;
  shared_->holder = kNobody;
  shared_->free_since_ns = now_ns();
  wake_first();
}

// --- files ---

MemoryGroup::File* MemoryGroup::find(const Key& key, bool add) const {
  constexpr uint64_t kMultiplier = 0x9e37'79b9'7f4a'7c15;  // 2^64 by the golden ratio
  const uint64_t hash = (key.first * kMultiplier ^ key.second) * kMultiplier >> 32;
  for (size_t i = 0; i < kMostFiles; ++i) {
    File& file = shared_->files[(hash + i) % kMostFiles];
    if (file.number != 0 && file.key == key) return &file;
    if (file.number != 0) continue;
    if (!add || shared_->files_known == kMostFiles / 2) return nullptr;
    file.key = key;
    file.number = ++shared_->files_known;
    return &file;
  }
  return nullptr;
}

uint64_t MemoryGroup::number_of(const Key& key, bool& fresh) {
  const Lock lock(*shared_);
  const uint32_t before = shared_->files_known;
  const File* file = find(key, true);
  if (file == nullptr)
    fail(ErrorKind::io, "the program's processes map more than {} files that they can change",
         kMostFiles / 2);
  fresh = file->number > before;
  return file->number;
}

bool MemoryGroup::knows_files() const { return shared_->files_known != 0; }

void MemoryGroup::now_shared(const Key& key) {
  const Lock lock(*shared_);
  if (File* file = find(key, true)) file->shared = true;
}

bool MemoryGroup::is_shared(const Key& key) const {
  const Lock lock(*shared_);
  const File* file = find(key, false);
  return file != nullptr && file->shared;
}

void MemoryGroup::now_shown_by_copy(const Key& key) {
  const Lock lock(*shared_);
  File* const file = find(key, true);
  if (file == nullptr || file->copied_in == getpid()) return;
  const bool another = file->copied_in == kSeveral || (file->copied_in != 0 && is_alive(file->copied_in));
  file->copied_in = another ? kSeveral : getpid();
}

void MemoryGroup::copy_is_inherited(const Key& key) {
  const Lock lock(*shared_);
  if (File* file = find(key, true)) file->copied_in = kSeveral;
}

bool MemoryGroup::shown_by_copy_elsewhere(const Key& key) const {
  const Lock lock(*shared_);
  const File* file = find(key, false);
  if (file == nullptr || file->copied_in == 0 || file->copied_in == getpid()) return false;
  return file->copied_in == kSeveral || is_alive(file->copied_in);
}

}  // namespace aftercheck
