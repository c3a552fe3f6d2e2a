// sendmsg and its kin: structures with pointers within are copied to the recorder's memory first, so that the
// kernel follows only pointers that were checked. Also socket options.
#include <linux/filter.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "base/fd.h"
#include "kvm-recorder/resource_limits.h"
#include "kvm-recorder/system_calls.h"

namespace aftercheck {
namespace {

// struct user_msghdr has the layout of libc's msghdr on x86-64 (include/linux/socket.h).
struct Message {
  msghdr header{};                 // as the host gets it
  uint64_t name = 0, control = 0;  // the guest's, checked
  socklen_t name_size = 0;
  size_t control_size = 0;
  std::array<iovec, kMaxIovecs> iovecs, host_iovecs;
  std::vector<char> control_copy;

  std::span<const iovec> pieces() const { return {iovecs.data(), header.msg_iovlen}; }
  std::span<const iovec> host_pieces() const { return {host_iovecs.data(), header.msg_iovlen}; }
};

uint64_t address_of(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }
void* pointer_to(uint64_t address) { return reinterpret_cast<void*>(address); }

long copy_header(GuestProcess& process, uint64_t address, Message& message) {
  if (!process.memory.read_object(address, message.header)) return -EFAULT;
  msghdr& header = message.header;
  message.name = guest_pointer(address_of(header.msg_name), 1);
  message.name_size = header.msg_namelen;
  message.control =
      guest_pointer(address_of(header.msg_control), std::min<uint64_t>(header.msg_controllen, kMaxTransfer));
  message.control_size = header.msg_controllen;
  header.msg_name = pointer_to(message.name);
  header.msg_control = pointer_to(message.control);
  if (header.msg_iovlen > kMaxIovecs) return -EMSGSIZE;  // import of the iovec, net/socket.c
  const long error = copy_iovecs(process, address_of(header.msg_iov), header.msg_iovlen, message.iovecs);
  header.msg_iov = message.host_iovecs.data();
  return error;
}

// What the kernel gets for the message's bytes.
void replace_pieces(Call& call, Message& message, CallBuffers::Use use) {
  call.buffers.begin();  // of several messages, each has the buffers for itself
  std::ranges::copy(message.pieces(), message.host_iovecs.begin());
  stand_in_for(call, {message.host_iovecs.data(), message.header.msg_iovlen}, use);
}

// Control data is copied, so that what was checked is what is sent: descriptors passed to another process
// must not be the recorder's.
long copy_control(GuestProcess& process, Message& message) {
  msghdr& header = message.header;
  if (header.msg_control == nullptr || header.msg_controllen == 0) return 0;
  constexpr size_t kMost = 1 << 20;  // far above net.core.optmem_max, which the kernel enforces
  if (header.msg_controllen > kMost) return -ENOBUFS;
  message.control_copy.resize(header.msg_controllen);
  if (!process.memory.read(message.control, message.control_copy.data(), message.control_copy.size()))
    return -EFAULT;
  header.msg_control = message.control_copy.data();
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_len < sizeof(cmsghdr)) return -EINVAL;
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t room = message.control_copy.data() + message.control_copy.size() -
                        reinterpret_cast<const char*>(CMSG_DATA(part));
    const size_t count = std::min(part->cmsg_len - sizeof(cmsghdr), room) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      if (!process.descriptors.allowed(fd)) return -EBADF;
    }
  }
  return 0;
}

// Descriptors that came in a message may lead to the recorder's output. Those from `end_of_numbers` on are
// closed again, and the control data end before them, as the kernel does with those that find no room
// (scm_detach_fds, net/core/scm.c).
void take_rights(GuestProcess& process, msghdr& header, int end_of_numbers) {
  auto* const begin = static_cast<char*>(header.msg_control);
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      if (kept == i && fd < end_of_numbers) {
        process.descriptors.arrived(fd);
        process.signals.descriptor_arrived(fd);
        ++kept;
      } else {
        host_call(SYS_close, static_cast<uint64_t>(fd));
      }
    }
    if (kept == count) continue;
    header.msg_flags |= MSG_CTRUNC;
    const auto at = static_cast<size_t>(reinterpret_cast<char*>(part) - begin);
    const size_t old_end = std::min(at + CMSG_SPACE(count * sizeof(int)), header.msg_controllen);
    const size_t end = kept == 0 ? at : at + CMSG_SPACE(kept * sizeof(int));
    part->cmsg_len = CMSG_LEN(kept * sizeof(int));
    std::memmove(begin + end, begin + old_end, header.msg_controllen - old_end);
    header.msg_controllen -= old_end - end;
    return;  // what followed has moved; a message carries rights once
  }
}

// After a receive: what the kernel left in our copy of the header goes to the guest's.
long finish_receive(Call& call, uint64_t address, const Message& message, uint64_t bytes) {
  const msghdr& header = message.header;
  note_iovecs(call, message.host_pieces(), bytes);
  if (message.control != 0 && header.msg_controllen != 0)
    call.answer.write(message.control, header.msg_control, header.msg_controllen);
  if (message.name != 0) {
    const socklen_t size = std::min(header.msg_namelen, message.name_size);
    if (size != 0 && !call.answer.write(message.name, header.msg_name, size)) return -EFAULT;
    if (!call.answer.write(address + offsetof(msghdr, msg_namelen), &header.msg_namelen,
                           sizeof header.msg_namelen))
      return -EFAULT;
  }
  const bool stored =
      call.answer.write(address + offsetof(msghdr, msg_flags), &header.msg_flags, sizeof header.msg_flags) &&
      call.answer.write(address + offsetof(msghdr, msg_controllen), &header.msg_controllen,
                        sizeof header.msg_controllen);
  return stored ? 0 : -EFAULT;
}

// As the engine's: a socket call interrupted by a signal.
long send_one(Call& call, uint64_t address, uint64_t flags) {
  Message message;
  if (const long error = copy_header(call.process, address, message)) return error;
  if (const long error = copy_control(call.process, message)) return error;
  replace_pieces(call, message, CallBuffers::Use::in);
  const long result =
      blocking_call(call, SYS_sendmsg, {call.args[0], host_pointer(&message.header), flags, 0, 0, 0});
  if (result > 0) output_gate(call, call.fd(0), message.pieces(), static_cast<uint64_t>(result));
  return result;
}

long receive_one(Call& call, uint64_t address, uint64_t flags) {
  Message message;
  if (const long error = copy_header(call.process, address, message)) return error;
  replace_pieces(call, message, CallBuffers::Use::out);
  // Looked at before the guest has it. Far more than the kernel stores.
  constexpr uint64_t kMostControl = 1 << 20;
  msghdr& header = message.header;
  sockaddr_storage name{};
  message.name_size = std::min<socklen_t>(header.msg_namelen, sizeof name);
  if (message.name != 0) header.msg_name = &name;
  header.msg_controllen = std::min<uint64_t>(header.msg_controllen, kMostControl);
  if (message.control != 0) {
    message.control_copy.resize(header.msg_controllen);
    header.msg_control = message.control_copy.data();
  }
  FailedWrites watched;
  for (const iovec& piece : message.host_pieces()) watched.watch(address_of(piece.iov_base), piece.iov_len);
  const long result =
      blocking_call(call, SYS_recvmsg, {call.args[0], host_pointer(&message.header), flags, 0, 0, 0});
  if (result < 0) watched.note(call);
  if (result == -EFAULT) note_reachable(call, message.host_pieces());
  if (result < 0) return result;
  if (message.control != 0) {
    // Control data that find no memory are lost, and that is no error (put_cmsg).
    const bool room =
        call.process.memory.space().accessible(message.control, header.msg_controllen, PROT_WRITE);
    take_rights(call.process, header, room ? end_of_descriptors(call.process) : 0);
    if (!room) header.msg_controllen = 0;
  }
  // With MSG_TRUNC the result is the length of the datagram, which may be more than what was stored.
  const long error = finish_receive(call, address, message, static_cast<uint64_t>(result));
  return error != 0 ? error : result;
}

constexpr uint64_t kMmsgSize = sizeof(mmsghdr);  // 64: msghdr, the length, padding

}  // namespace

namespace calls {

long sendmsg(Call& call) {
  if (!call.process.descriptors.allowed(call.fd(0))) return -EBADF;
  return interrupted_result(call, send_one(call, call.args[1], call.args[2]));
}

long recvmsg(Call& call) {
  if (!call.process.descriptors.allowed(call.fd(0))) return -EBADF;
  return interrupted_result(call, receive_one(call, call.args[1], call.args[2]));
}

// The many-message forms are loops over the single ones, as in the kernel (net/socket.c, __sys_sendmmsg and
// do_recvmmsg): an error after the first message ends the loop, and the count so far is the result.
long sendmmsg(Call& call) {
  if (!call.process.descriptors.allowed(call.fd(0))) return -EBADF;
  const uint64_t count = std::min<uint64_t>(static_cast<uint32_t>(call.args[2]), kMaxIovecs);
  long sent = 0, result = 0;
  for (uint64_t i = 0; i < count; i++) {
    const uint64_t address = call.args[1] + i * kMmsgSize;
    result = send_one(call, address, call.args[3]);
    if (result < 0) break;
    const auto length = static_cast<uint32_t>(result);
    if (!call.answer.write(address + offsetof(mmsghdr, msg_len), &length, sizeof length)) {
      result = -EFAULT;
      break;
    }
    sent++;
  }
  return sent > 0 ? sent : interrupted_result(call, result);
}

long recvmmsg(Call& call) {
  if (!call.process.descriptors.allowed(call.fd(0))) return -EBADF;
  timespec timeout{}, started{};
  const bool timed = call.args[4] != 0;
  if (timed && !call.process.memory.read_object(call.args[4], timeout)) return -EFAULT;
  if (timed && (timeout.tv_sec < 0 || timeout.tv_nsec < 0 || timeout.tv_nsec >= 1'000'000'000))
    return -EINVAL;
  clock_gettime(CLOCK_MONOTONIC, &started);
  const uint64_t count = std::min<uint64_t>(static_cast<uint32_t>(call.args[2]), kMaxIovecs);
  uint64_t flags = call.args[3] & ~static_cast<uint64_t>(MSG_WAITFORONE);
  long received = 0, result = 0;
  for (uint64_t i = 0; i < count; i++) {
    const uint64_t address = call.args[1] + i * kMmsgSize;
    result = receive_one(call, address, flags);
    if (result < 0) break;
    const auto length = static_cast<uint32_t>(result);
    if (!call.answer.write(address + offsetof(mmsghdr, msg_len), &length, sizeof length)) {
      result = -EFAULT;
      break;
    }
    received++;
    if (call.args[3] & MSG_WAITFORONE) flags |= MSG_DONTWAIT;
    if (!timed) continue;
    // The timeout is looked at after each datagram only (recvmmsg(2), BUGS).
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    const int64_t passed = (now.tv_sec - started.tv_sec) * 1'000'000'000 + now.tv_nsec - started.tv_nsec;
    const int64_t left = std::max<int64_t>(timeout.tv_sec * 1'000'000'000 + timeout.tv_nsec - passed, 0);
    const timespec remaining{left / 1'000'000'000, left % 1'000'000'000};
    if (!call.answer.write_object(call.args[4], remaining)) return -EFAULT;
    if (left == 0) break;
  }
  return received > 0 ? received : interrupted_result(call, result);
}

long getsockopt(Call& call) {
  if (!call.process.descriptors.allowed(call.fd(0))) return -EBADF;
  const int level = static_cast<int>(call.args[1]), option = static_cast<int>(call.args[2]);
  constexpr int kTcpZerocopyReceive = 35;  // linux/tcp.h: its structure holds an address to map at
  if (level == IPPROTO_TCP && option == kTcpZerocopyReceive) return -ENOPROTOOPT;
  uint32_t allowed = 0, length = 0;
  const uint64_t length_address = guest_pointer(call.args[4], sizeof allowed);
  call.process.memory.read_object(length_address, allowed);
  const uint64_t value = guest_pointer(call.args[3], std::min<uint64_t>(allowed, kMaxTransfer));
  FailedWrites watched;
  watched.watch(length_address, sizeof allowed);
  watched.watch(value, std::min<uint64_t>(allowed, kMaxTransfer));
  const long result =
      host_call(SYS_getsockopt, call.args[0], call.args[1], call.args[2], value, length_address);
  if (result < 0) watched.note(call);
  // Some options store the wanted length, or part of the value, when they fail (SO_PEERSEC, SO_PEERGROUPS:
  // ERANGE).
  if (result != 0 && result != -ERANGE && result != -EFAULT) return result;
  if (!call.process.memory.read_object(length_address, length)) return result;
  if (call.process.memory.space().accessible(length_address, sizeof length, PROT_WRITE))
    call.answer.written(length_address, sizeof length);
  note_reachable(call, value, result == 0 ? std::min(length, allowed) : allowed);
  return result;
}

long setsockopt(Call& call) {
  if (!call.process.descriptors.allowed(call.fd(0))) return -EBADF;
  const int level = static_cast<int>(call.args[1]), option = static_cast<int>(call.args[2]);
  const uint64_t length = static_cast<uint32_t>(call.args[4]);
  // Netfilter's tables (linux/netfilter_ipv4/ip_tables.h) hold pointers at option-specific places.
  constexpr int kNetfilterFirst = 64, kNetfilterLast = 67;
  if ((level == IPPROTO_IP || level == IPPROTO_IPV6) && option >= kNetfilterFirst && option <= kNetfilterLast)
    return -ENOPROTOOPT;
  uint64_t value = guest_pointer(call.args[3], std::min(length, kMaxTransfer));
  sock_fprog program{};
  if (level == SOL_SOCKET && (option == SO_ATTACH_FILTER || option == SO_ATTACH_REUSEPORT_CBPF) &&
      length == sizeof program) {
    if (!call.process.memory.read_object(value, program)) return -EFAULT;
    const uint64_t code = guest_pointer(address_of(program.filter), program.len * sizeof(sock_filter));
    program.filter = static_cast<sock_filter*>(pointer_to(code));
    value = host_pointer(&program);
  }
  return host_call(SYS_setsockopt, call.args[0], call.args[1], call.args[2], value, call.args[4]);
}

}  // namespace calls
}  // namespace aftercheck
