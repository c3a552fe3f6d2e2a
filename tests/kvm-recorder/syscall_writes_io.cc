// What the table says a call writes, against what the kernel really writes: reading, sockets, waiting for
// descriptors.
#include <fcntl.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "syscall_fixture.h"

using namespace aftercheck;
using namespace aftercheck::test;

namespace {

iovec piece(uint64_t address, size_t size) { return {reinterpret_cast<void*>(address), size}; }

struct Pair {
  int first = -1, second = -1;
};

Pair pipe_of(SystemCalls& guest) {
  const uint64_t at = guest.room(8);
  REQUIRE(guest.call(SYS_pipe2, at, 0) == 0);
  CHECK(guest.noted_bytes == 8);
  return guest.get<Pair>(at);
}

Pair sockets_of(SystemCalls& guest, int type) {
  const uint64_t at = guest.room(8);
  REQUIRE(guest.call(SYS_socketpair, AF_UNIX, type, 0, at) == 0);
  return guest.get<Pair>(at);
}

}  // namespace

TEST_CASE("notes: reading and writing", "[writes]") {
  SystemCalls guest;
  const long fd = guest.call(SYS_open, guest.text(guest.directory.write("file", "0123456789")), O_RDWR);
  REQUIRE(fd >= 0);
  CHECK(guest.call(SYS_read, fd, guest.room(100), 100) == 10);
  CHECK(guest.noted_bytes == 10);
  CHECK(guest.call(SYS_read, fd, guest.room(100), 100) == 0);
  CHECK(guest.noted_bytes == 0);
  CHECK(guest.call(SYS_pread64, fd, guest.room(100), 4, 3) == 4);
  CHECK(guest.noted_bytes == 4);
  const iovec pieces[] = {piece(guest.room(3), 3), piece(guest.room(0), 0), piece(guest.room(20), 20)};
  const uint64_t list = guest.put(pieces);
  CHECK(guest.call(SYS_preadv, fd, list, 3, 0) == 10);
  CHECK(guest.noted_bytes == 10);
  CHECK(guest.call(SYS_preadv2, fd, list, 3, 0, 0, 0) == 10);
  CHECK(guest.call(SYS_lseek, fd, 0, SEEK_SET) == 0);
  CHECK(guest.call(SYS_readv, fd, list, 3) == 10);
  CHECK(guest.call(SYS_readv, fd, list, 1025) == -EINVAL);
  CHECK(guest.call(SYS_write, fd, guest.text("hello"), 5) == 5);
  REQUIRE(guest.outputs.size() == 1);
  CHECK(guest.outputs[0].stream == 0);
  CHECK(guest.outputs[0].fd == fd);
  CHECK(guest.noted_bytes == 0);
  CHECK(guest.call(SYS_pwrite64, fd, guest.text("hello"), 5, 0) == 5);
  const iovec out[] = {piece(guest.text("ab"), 2), piece(guest.text("cd"), 2)};
  CHECK(guest.call(SYS_writev, fd, guest.put(out), 2) == 4);
  REQUIRE(guest.outputs.size() == 1);
  CHECK(guest.outputs[0].pieces.size() == 2);
  CHECK(guest.call(SYS_pwritev, fd, guest.put(out), 2, 0) == 4);
  CHECK(guest.call(SYS_pwritev2, fd, guest.put(out), 2, 0, 0, 0) == 4);
}

TEST_CASE("notes: a read that ends where memory ends", "[writes]") {
  SystemCalls guest;
  const std::string text(2 * kPageSize, 'x');
  const long fd = guest.call(SYS_open, guest.text(guest.directory.write("file", text)), O_RDONLY);
  const uint64_t end = SystemCalls::kBase + SystemCalls::kSize;
  CHECK(guest.call(SYS_read, fd, end - 100, kPageSize) == 100);
  CHECK(guest.noted_bytes == 100);
  // A pipe's read fails as a whole, yet the bytes up to the end of memory may be there.
  const Pair pipe = pipe_of(guest);
  REQUIRE(write(pipe.second, text.data(), 200) == 200);
  guest.call(SYS_read, pipe.first, end - 100, 200);
  const iovec pieces[] = {piece(end - 50, 100), piece(guest.room(10), 10)};
  guest.call(SYS_readv, pipe.first, guest.put(pieces), 2);
  CHECK(guest.call(SYS_uname, end - 100) == -EFAULT);
  CHECK(guest.call(SYS_fstat, fd, end - 60) == -EFAULT);
}

TEST_CASE("notes: file to file", "[writes]") {
  SystemCalls guest;
  const long from = guest.call(SYS_open, guest.text(guest.directory.write("from", "0123456789")), O_RDWR);
  const long to = guest.call(SYS_open, guest.text(guest.directory.write("to", "")), O_RDWR);
  const int64_t start = 2;
  CHECK(guest.call(SYS_sendfile, to, from, guest.put(start), 4) == 4);
  CHECK(guest.noted_bytes == 8);
  CHECK(guest.call(SYS_copy_file_range, from, guest.put(start), to, guest.put(start), 4, 0) == 4);
  CHECK(guest.noted_bytes == 16);
  const Pair pipe = pipe_of(guest);
  CHECK(guest.call(SYS_splice, from, guest.put(start), pipe.second, 0, 4, 0) == 4);
  CHECK(guest.noted_bytes == 8);
  CHECK(guest.call(SYS_splice, from, 0, to, 0, 4, 0) == -EINVAL);
}

TEST_CASE("notes: socket addresses", "[writes]") {
  SystemCalls guest;
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const long listener = guest.call(SYS_socket, AF_INET, SOCK_STREAM, 0);
  REQUIRE(listener >= 0);
  REQUIRE(guest.call(SYS_bind, listener, guest.put(any), sizeof any) == 0);
  REQUIRE(guest.call(SYS_listen, listener, 5) == 0);
  const uint32_t full = 64, little = 4;
  const uint64_t address = guest.room(64);
  CHECK(guest.call(SYS_getsockname, listener, address, guest.put(full)) == 0);
  CHECK(guest.noted_bytes == 20);
  for (const uint32_t length : {full, little}) {
    const long client = guest.call(SYS_socket, AF_INET, SOCK_STREAM, 0);
    REQUIRE(guest.call(SYS_connect, client, address, 16) == 0);
    const long server = length == full
                            ? guest.call(SYS_accept, listener, guest.room(64), guest.put(length))
                            : guest.call(SYS_accept4, listener, guest.room(64), guest.put(length), 0);
    REQUIRE(server >= 0);
    CHECK(guest.noted_bytes == 4 + std::min<uint64_t>(length, 16));
    CHECK(guest.call(SYS_getpeername, server, guest.room(64), guest.put(length)) == 0);
    CHECK(guest.call(SYS_getsockopt, server, IPPROTO_TCP, TCP_INFO, guest.room(256),
                     guest.put(uint32_t{256})) == 0);
    CHECK(guest.call(SYS_ioctl, server, FIONREAD, guest.room(4)) == 0);
    CHECK(guest.call(SYS_close, server) == 0);
  }
  CHECK(guest.call(SYS_accept4, guest.call(SYS_socket, AF_INET, SOCK_STREAM, 0), 0, 0, 0) == -EINVAL);
  const long datagrams = guest.call(SYS_socket, AF_INET, SOCK_DGRAM, 0);
  REQUIRE(guest.call(SYS_bind, datagrams, guest.put(any), sizeof any) == 0);
  REQUIRE(guest.call(SYS_getsockname, datagrams, address, guest.put(full)) == 0);
  CHECK(guest.call(SYS_sendto, datagrams, guest.text("datagram"), 8, 0, address, 16) == 8);
  REQUIRE(guest.outputs.size() == 1);
  CHECK(guest.call(SYS_recvfrom, datagrams, guest.room(4), 4, MSG_TRUNC, guest.room(64), guest.put(full)) ==
        8);
  CHECK(guest.noted_bytes == 4 + 16 + 4);
}

TEST_CASE("notes: socket options", "[writes]") {
  SystemCalls guest;
  const Pair pair = sockets_of(guest, SOCK_STREAM);
  for (const int option :
       {SO_TYPE, SO_PEERCRED, SO_LINGER, SO_RCVTIMEO, SO_RCVBUF, SO_PEERSEC, SO_PEERGROUPS}) {
    INFO(option);
    guest.call(SYS_getsockopt, pair.first, SOL_SOCKET, option, guest.room(256), guest.put(uint32_t{256}));
    guest.call(SYS_getsockopt, pair.first, SOL_SOCKET, option, guest.room(256), guest.put(uint32_t{2}));
  }
  CHECK(guest.call(SYS_getsockopt, pair.first, SOL_SOCKET, SO_TYPE, guest.room(8), guest.put(uint32_t{8})) ==
        0);
  CHECK(guest.noted_bytes == 8);
  const int on = 1;
  CHECK(guest.call(SYS_setsockopt, pair.first, SOL_SOCKET, SO_PASSCRED, guest.put(on), 4) == 0);
  CHECK(guest.call(SYS_setsockopt, pair.first, SOL_SOCKET, SO_PASSCRED, 0x1000, 4) == -EFAULT);
}

TEST_CASE("notes: messages with descriptors and credentials", "[writes]") {
  SystemCalls guest;
  const Pair pair = sockets_of(guest, SOCK_DGRAM);
  const int on = 1;
  REQUIRE(guest.call(SYS_setsockopt, pair.second, SOL_SOCKET, SO_PASSCRED, guest.put(on), 4) == 0);
  const Pair pipe = pipe_of(guest);
  struct {  // cmsghdr and its data
    size_t length = CMSG_LEN(sizeof(int));
    int level = SOL_SOCKET, type = SCM_RIGHTS;
    int fd = -1;
    int padding = 0;
  } rights;
  const auto send = [&](int fd) {
    rights.fd = fd;
    const iovec out = piece(guest.text("message"), 7);
    msghdr header{};
    header.msg_iov = reinterpret_cast<iovec*>(guest.put(out));
    header.msg_iovlen = 1;
    header.msg_control = reinterpret_cast<void*>(guest.put(rights));
    header.msg_controllen = sizeof rights;
    return guest.call(SYS_sendmsg, pair.first, guest.put(header), 0);
  };
  REQUIRE(send(pipe.first) == 7);
  CHECK(guest.outputs.size() == 1);
  const iovec in[] = {piece(guest.room(3), 3), piece(guest.room(100), 100)};
  msghdr header{};
  header.msg_name = reinterpret_cast<void*>(guest.room(110));
  header.msg_namelen = 110;
  header.msg_iov = reinterpret_cast<iovec*>(guest.put(in));
  header.msg_iovlen = 2;
  header.msg_control = reinterpret_cast<void*>(guest.room(200));
  header.msg_controllen = 200;
  const uint64_t at = guest.put(header);
  CHECK(guest.call(SYS_recvmsg, pair.second, at, 0) == 7);
  CHECK(guest.get<msghdr>(at).msg_controllen == CMSG_SPACE(sizeof(int)) + CMSG_SPACE(12));
  CHECK(guest.call(SYS_recvmsg, pair.second, at, MSG_DONTWAIT) == -EAGAIN);
  CHECK(guest.noted_bytes == 0);
  // The recorder's own descriptors can't be sent away.
  const UniqueFd own = move_out_of_guest_reach(UniqueFd(dup(0)));
  CHECK(send(own.get()) == -EBADF);
}

TEST_CASE("notes: many messages at once", "[writes]") {
  SystemCalls guest;
  const Pair pair = sockets_of(guest, SOCK_DGRAM);
  mmsghdr headers[3] = {};
  for (mmsghdr& header : headers) {
    header.msg_hdr.msg_iov = reinterpret_cast<iovec*>(guest.put(piece(guest.text("several"), 7)));
    header.msg_hdr.msg_iovlen = 1;
  }
  CHECK(guest.call(SYS_sendmmsg, pair.first, guest.put(headers), 3, 0) == 3);
  CHECK(guest.outputs.size() == 3);
  for (mmsghdr& header : headers)
    header.msg_hdr.msg_iov = reinterpret_cast<iovec*>(guest.put(piece(guest.room(20), 20)));
  const timespec second{1, 0};
  const uint64_t at = guest.put(headers);
  CHECK(guest.call(SYS_recvmmsg, pair.second, at, 2, MSG_WAITFORONE, guest.put(second)) == 2);
  CHECK(guest.get<mmsghdr>(at).msg_len == 7);
  CHECK(guest.call(SYS_recvmmsg, pair.second, at, 2, MSG_WAITFORONE, 0) == 1);
  CHECK(guest.call(SYS_recvmmsg, pair.second, at, 2, MSG_DONTWAIT, 0) == -EAGAIN);
}

TEST_CASE("notes: waiting for descriptors", "[writes]") {
  SystemCalls guest;
  const Pair pipe = pipe_of(guest);
  REQUIRE(write(pipe.second, "x", 1) == 1);
  const pollfd fds[] = {{pipe.first, POLLIN, 0x55}, {-1, POLLIN, 0x55}, {pipe.second, POLLOUT, 0x55}};
  const timespec tiny{0, 1000}, second{1, 0};
  CHECK(guest.call(SYS_poll, guest.put(fds), 3, 1000) == 2);
  CHECK(guest.noted_bytes == sizeof fds);
  CHECK(guest.call(SYS_ppoll, guest.put(fds), 3, guest.put(second), 0, 8) == 2);
  CHECK(guest.call(SYS_ppoll, 0, 0, guest.put(tiny), 0, 8) == 0);
  fd_set set;
  FD_ZERO(&set);
  FD_SET(pipe.first, &set);
  const timeval wait{1, 0};
  CHECK(guest.call(SYS_select, pipe.first + 1, guest.put(set), 0, guest.put(set), guest.put(wait)) == 1);
  CHECK(guest.call(SYS_pselect6, FD_SETSIZE, guest.put(set), 0, 0, guest.put(second), 0) == 1);
  const long epoll = guest.call(SYS_epoll_create1, 0);
  REQUIRE(epoll >= 0);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = 4711;
  REQUIRE(guest.call(SYS_epoll_ctl, epoll, EPOLL_CTL_ADD, pipe.first, guest.put(event)) == 0);
  CHECK(guest.call(SYS_epoll_wait, epoll, guest.room(120), 10, 1000) == 1);
  CHECK(guest.noted_bytes == 12);
  CHECK(guest.call(SYS_epoll_pwait, epoll, guest.room(120), 10, 1000, 0, 8) == 1);
  CHECK(guest.call(SYS_epoll_pwait2, epoll, guest.room(120), 10, guest.put(second), 0, 8) == 1);
  CHECK(guest.call(SYS_epoll_wait, epoll, guest.room(120), 0, 0) == -EINVAL);
}

TEST_CASE("notes: special files", "[writes]") {
  SystemCalls guest;
  const long event = guest.call(SYS_eventfd2, 5, 0);
  CHECK(guest.call(SYS_read, event, guest.room(8), 8) == 8);
  const long watch = guest.call(SYS_inotify_init1, IN_NONBLOCK);
  CHECK(guest.call(SYS_inotify_add_watch, watch, guest.text(guest.directory.path().string()), IN_CREATE) >=
        0);
  guest.directory.write("new", "");
  CHECK(guest.call(SYS_read, watch, guest.room(500), 500) > 0);
  mq_attr attributes{};
  attributes.mq_maxmsg = 2;
  attributes.mq_msgsize = 32;
  const uint64_t name = guest.text("aftercheck-test-" + std::to_string(getpid()));
  const long queue = guest.call(SYS_mq_open, name, O_RDWR | O_CREAT | O_EXCL, 0600, guest.put(attributes));
  if (queue >= 0) {
    CHECK(guest.call(SYS_mq_timedsend, queue, guest.text("queued"), 6, 3, 0) == 0);
    CHECK(guest.outputs.size() == 1);
    CHECK(guest.call(SYS_mq_getsetattr, queue, 0, guest.room(64)) == 0);
    sigevent notice{};
    notice.sigev_notify = SIGEV_NONE;
    CHECK(guest.call(SYS_mq_notify, queue, guest.put(notice)) == 0);
    CHECK(guest.call(SYS_mq_notify, queue, guest.put(notice)) == -EBUSY);
    CHECK(guest.call(SYS_mq_notify, queue, 0) == 0);
    CHECK(guest.call(SYS_mq_timedreceive, queue, guest.room(32), 32, guest.room(4), 0) == 6);
    CHECK(guest.noted_bytes == 10);
    CHECK(guest.call(SYS_mq_unlink, name) == 0);
  }
  const uint32_t words[] = {1, 2};
  const uint64_t at = guest.put(words);
  const uint32_t add_one = FUTEX_OP(FUTEX_OP_ADD, 1, FUTEX_OP_CMP_EQ, 0);
  CHECK(guest.call(SYS_futex, at, FUTEX_WAKE_OP, 1, 1, at + 4, add_one) == 0);
  CHECK(guest.get<uint32_t>(at + 4) == 3);
  CHECK(guest.noted_bytes == 4);
  CHECK(guest.call(SYS_futex, at, FUTEX_WAIT, 2, 0, 0, 0) == -EAGAIN);
  const uint32_t zero = 0;
  CHECK(guest.call(SYS_futex, guest.put(zero), FUTEX_LOCK_PI, 0, 0, 0, 0) == 0);
  CHECK(guest.noted_bytes == 4);
}
