// Calls that may block work in the recorder's memory: what the guest sees of that (nothing), and what other
// threads of the guest see meanwhile.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "base/thread.h"
#include "recording/digest.h"
#include "syscall_fixture.h"
#include "tests/base/sanitized.h"

using namespace aftercheck;
using namespace aftercheck::test;

namespace {

using namespace std::chrono_literals;

struct Ends {
  int from = -1, to = -1;
};

enum class Channel { pipe, stream, datagrams, file, zero };

Ends open_channel(Channel kind) {
  int fds[2] = {-1, -1};
  switch (kind) {
    case Channel::pipe:
      REQUIRE(pipe2(fds, O_NONBLOCK) == 0);
      break;
    case Channel::stream:
    case Channel::datagrams:
      REQUIRE(socketpair(AF_UNIX, (kind == Channel::stream ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK, 0,
                         fds) == 0);
      break;
    case Channel::file: {
      char name[] = "/tmp/aftercheck-test-XXXXXX";
      fds[1] = mkstemp(name);
      fds[0] = open(name, O_RDWR);
      unlink(name);
      break;
    }
    case Channel::zero:
      fds[0] = open("/dev/zero", O_RDWR);
      fds[1] = open("/dev/null", O_RDWR);
      break;
  }
  REQUIRE(fds[1] >= 0);
  return {fds[0], fds[1]};
}

void close_channel(const Ends& ends) {
  close(ends.from);
  close(ends.to);
}

// Two pages, and nothing mapped behind them, as the guest's memory ends. Calls are made as they are.
class Native {
 public:
  Native() {
    void* mapped = mmap(nullptr, 3 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(mapped != MAP_FAILED);
    start_ = reinterpret_cast<uint64_t>(mapped);
    REQUIRE(munmap(reinterpret_cast<void*>(end()), kPageSize) == 0);
    std::memset(mapped, 0x5a, 2 * kPageSize);
  }
  ~Native() { munmap(reinterpret_cast<void*>(start_), 2 * kPageSize); }
  uint64_t end() const { return start_ + 2 * kPageSize; }
  template <typename... Args>
  long call(long number, Args... args) {
    const long result = syscall(number, args...);
    return result < 0 ? -errno : result;
  }

 private:
  uint64_t start_ = 0;
};

class Recorded : public SystemCalls {
 public:
  uint64_t end() const { return kBase + kSize; }
};

// What a caller can tell of reads into memory that ends too early, each on a new channel with 400 bytes in
// it.
template <typename Caller>
std::vector<std::string> reads(Caller& caller, Channel kind) {
  std::vector<std::string> seen;
  const auto attempt = [&](auto&& read) {
    const Ends ends = open_channel(kind);
    std::string bytes(200, 'a');
    for (const char letter : {'a', 'b'}) {
      bytes.assign(200, letter);
      REQUIRE(write(ends.to, bytes.data(), bytes.size()) == 200);
    }
    std::memset(reinterpret_cast<void*>(caller.end() - 600), 0x5a, 600);
    const long result = read(ends.from);
    std::string rest(1000, ' ');
    const ssize_t left = ::read(ends.from, rest.data(), kind == Channel::zero ? 1 : rest.size());
    rest.resize(static_cast<size_t>(std::max<ssize_t>(left, 0)));
    seen.push_back(std::to_string(result) + " then " + rest);
    // Where the kernel stops within a page when it fails is its own business.
    if (result >= 0) seen.emplace_back(reinterpret_cast<const char*>(caller.end() - 600), 600);
    close_channel(ends);
  };
  const uint64_t end = caller.end();
  auto* const list = reinterpret_cast<iovec*>(end - kPageSize);
  const auto piece = [](uint64_t address, size_t size) {
    return iovec{reinterpret_cast<void*>(address), size};
  };
  for (const uint64_t behind : {100, 0})
    attempt([&](int fd) { return caller.call(SYS_read, fd, end - behind, 300); });
  attempt([&](int fd) { return caller.call(SYS_read, fd, end - 300, 300); });
  attempt([&](int fd) { return caller.call(SYS_read, fd, end, 0); });
  attempt([&](int fd) {
    list[0] = piece(end - 600, 50), list[1] = piece(end - 100, 200), list[2] = piece(end - 500, 100);
    return caller.call(SYS_readv, fd, reinterpret_cast<uint64_t>(list), 3);
  });
  attempt([&](int fd) {
    list[0] = piece(end - 600, 50), list[1] = piece(0, 0), list[2] = piece(end - 600, 70);
    return caller.call(SYS_readv, fd, reinterpret_cast<uint64_t>(list), 3);
  });
  attempt([&](int fd) {
    list[0] = piece(end + 10, 50), list[1] = piece(end - 100, 50);
    return caller.call(SYS_readv, fd, reinterpret_cast<uint64_t>(list), 2);
  });
  if (kind != Channel::stream && kind != Channel::datagrams) return seen;
  attempt([&](int fd) { return caller.call(SYS_recvfrom, fd, end - 50, 50, MSG_PEEK, 0, 0); });
  attempt([&](int fd) { return caller.call(SYS_recvfrom, fd, end - 50, 50, MSG_TRUNC, 0, 0); });
  attempt([&](int fd) { return caller.call(SYS_recvfrom, fd, end - 50, 51, MSG_TRUNC, 0, 0); });
  attempt([&](int fd) {
    auto* const header = reinterpret_cast<msghdr*>(end - kPageSize + 512);
    list[0] = piece(end - 600, 50), list[1] = piece(end - 100, 101);
    *header = msghdr{};
    header->msg_iov = list;
    header->msg_iovlen = 2;
    const long result = caller.call(SYS_recvmsg, fd, reinterpret_cast<uint64_t>(header), 0);
    return result < 0 ? result : result + 1000 * header->msg_flags;
  });
  return seen;
}

// The same for writes: what arrives.
template <typename Caller>
std::vector<std::string> writes(Caller& caller, Channel kind) {
  std::vector<std::string> seen;
  const auto attempt = [&](auto&& write) {
    const Ends ends = open_channel(kind);
    for (uint64_t i = 1; i <= 600; i++)
      *reinterpret_cast<uint8_t*>(caller.end() - i) = static_cast<uint8_t>(i);
    const long result = write(ends.to);
    std::string arrived(1000, ' ');
    const ssize_t size = ::read(ends.from, arrived.data(), kind == Channel::zero ? 1 : arrived.size());
    arrived.resize(static_cast<size_t>(std::max<ssize_t>(size, 0)));
    seen.push_back(std::to_string(result) + " with " + arrived);
    close_channel(ends);
  };
  const uint64_t end = caller.end();
  auto* const list = reinterpret_cast<iovec*>(end - kPageSize);
  const auto piece = [](uint64_t address, size_t size) {
    return iovec{reinterpret_cast<void*>(address), size};
  };
  for (const uint64_t size : {300, 301, 0})
    attempt([&](int fd) { return caller.call(SYS_write, fd, end - 300, size); });
  attempt([&](int fd) { return caller.call(SYS_write, fd, end + 5, 10); });
  attempt([&](int fd) {
    list[0] = piece(end - 600, 50), list[1] = piece(end - 600, 70), list[2] = piece(end - 100, 100);
    return caller.call(SYS_writev, fd, reinterpret_cast<uint64_t>(list), 3);
  });
  attempt([&](int fd) {
    list[0] = piece(end - 600, 50), list[1] = piece(end - 100, 200), list[2] = piece(end - 500, 100);
    return caller.call(SYS_writev, fd, reinterpret_cast<uint64_t>(list), 3);
  });
  return seen;
}

}  // namespace

TEST_CASE("transfers over memory that ends are what they are natively", "[blocking]") {
  if (kSanitized) {
    WARN(
        "SKIPPED: AddressSanitizer stands between this test's native calls and the kernel, and looks at "
        "their memory itself");
    return;
  }
  const Channel kind =
      GENERATE(Channel::pipe, Channel::stream, Channel::datagrams, Channel::file, Channel::zero);
  INFO(static_cast<int>(kind));
  Native native;
  Recorded recorded;
  CHECK(reads(recorded, kind) == reads(native, kind));
  CHECK(writes(recorded, kind) == writes(native, kind));
}

TEST_CASE("a call that blocks has not touched guest memory before it is over", "[blocking]") {
  SystemCalls guest;
  int fds[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
  const uint64_t buffer = guest.room(8);
  std::string meanwhile;
  std::thread other = start_without_signals([&] {
    if (write(fds[1], "1234", 4) != 4) return;
    std::this_thread::sleep_for(50ms);
    meanwhile = guest.string_at(buffer, 8);
    if (write(fds[1], "5678", 4) != 4) return;
  });
  CHECK(guest.call(SYS_recvfrom, fds[0], buffer, 8, MSG_WAITALL, 0, 0) == 8);
  other.join();
  CHECK(meanwhile == "ZZZZZZZZ");
  CHECK(guest.string_at(buffer, 8) == "12345678");
  close(fds[0]);
  close(fds[1]);
}

TEST_CASE("what leaves in a call that blocks is what was there when it was made", "[blocking]") {
  SystemCalls guest;
  int fds[2];
  REQUIRE(pipe(fds) == 0);
  constexpr uint64_t kSize = 200'000;  // more than a pipe holds
  const std::string text(kSize, 'w');
  const uint64_t buffer = guest.put(text.data(), kSize);
  std::string arrived;
  std::thread other = start_without_signals([&] {
    std::this_thread::sleep_for(50ms);
    std::memset(reinterpret_cast<void*>(buffer), 'x', kSize);
    std::string piece(kSize, ' ');
    while (arrived.size() < kSize) {
      const ssize_t size = read(fds[0], piece.data(), piece.size());
      if (size <= 0) return;
      arrived.append(piece, 0, static_cast<size_t>(size));
      // Back before the call is over: the fixture looks for changes.
      if (arrived.size() < kSize / 2) continue;
      std::memset(reinterpret_cast<void*>(buffer), 'w', kSize);
    }
  });
  const bool vector = GENERATE(false, true);
  if (vector) {
    const iovec pieces[] = {{reinterpret_cast<void*>(buffer), 1000},
                            {reinterpret_cast<void*>(buffer + 1000), kSize - 1000}};
    CHECK(guest.call(SYS_writev, fds[1], guest.put(pieces), 2) == kSize);
  } else {
    CHECK(guest.call(SYS_write, fds[1], buffer, kSize) == kSize);
  }
  other.join();
  CHECK(arrived == text);
  REQUIRE(guest.outputs.size() == 1);
  CHECK(guest.outputs[0].digest == recording::digest64(std::as_bytes(std::span(text))));
  close(fds[0]);
  close(fds[1]);
}

TEST_CASE("timeouts in read-only memory are left alone", "[blocking]") {
  SystemCalls guest;
  const auto place = static_cast<uint64_t>(
      guest.call(SYS_mmap, 0, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  *reinterpret_cast<timespec*>(place) = {0, 1'000'000};
  REQUIRE(guest.call(SYS_mprotect, place, kPageSize, PROT_READ) == 0);
  CHECK(guest.call(SYS_ppoll, 0, 0, place, 0, 8) == 0);
  CHECK(guest.noted_bytes == 0);
  CHECK(guest.call(SYS_pselect6, 0, 0, 0, 0, place, 0) == 0);
  CHECK(reinterpret_cast<const timespec*>(place)->tv_nsec == 1'000'000);
  CHECK(guest.call(SYS_wait4, -1, place, WNOHANG, 0) == -ECHILD);
}

TEST_CASE("large transfers, and their buffers after them", "[blocking]") {
  SystemCalls guest;
  const uint64_t size = 3 << 20;
  const auto place = static_cast<uint64_t>(
      guest.call(SYS_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  const long zero = guest.call(SYS_open, guest.text("/dev/zero"), O_RDONLY);
  for (int round = 0; round < 3; round++) {
    std::memset(reinterpret_cast<void*>(place), 1, size);
    CHECK(guest.call(SYS_read, zero, place, size) == static_cast<long>(size));
    CHECK(guest.noted_bytes == size);
    CHECK(*reinterpret_cast<const char*>(place + size - 1) == 0);
    CHECK(guest.call(SYS_read, zero, place, size + 4 * kPageSize) == static_cast<long>(size));
    CHECK(guest.call(SYS_read, zero, guest.room(10), 10) == 10);
  }
}
