// ioctl(2) by request. What isn't here is refused: a request's number does not tell what its structure points
// to.
#include <asm/ioctls.h>
#include <asm/termbits.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/hdreg.h>
#include <linux/kd.h>
#include <linux/random.h>
#include <linux/sockios.h>
#include <linux/vt.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include "base/fd.h"
#include "kvm-recorder/ioctl_nested.h"
#include "kvm-recorder/operations.h"
#include "kvm-recorder/system_calls.h"
#include "system-calls/operation_names.h"

namespace aftercheck {
namespace {

enum class Use : uint8_t {
  value,  // no pointer
  in,
  out,
  inout,
  clone,        // the argument is a descriptor
  clone_range,  // a structure that starts with a descriptor
  makes_fd,
  nested,  // ioctl_nested.h
};

struct Request {
  uint32_t request;
  Use use;
  uint16_t size = 0;
  long (*handler)(Call&, uint64_t address) = nullptr;
};

// Sizes: struct termios 36, termio 18, termios2 44, winsize 8, serial_struct 72, serial_icounter_struct 80,
// serial_rs485 32, vt_mode 8, vt_stat 6, ifreq 40, arpreq 68, timeval and timespec 16, fsxattr 28,
// fstrim_range 24, hd_geometry 16 on x86-64.
constexpr Request kRequests[] = {
    {TCGETS, Use::out, 36},
    {TCSETS, Use::in, 36},
    {TCSETSW, Use::in, 36},
    {TCSETSF, Use::in, 36},
    {TCGETA, Use::out, 18},
    {TCSETA, Use::in, 18},
    {TCSETAW, Use::in, 18},
    {TCSETAF, Use::in, 18},
    {TCGETS2, Use::out, 44},
    {TCSETS2, Use::in, 44},
    {TCSETSW2, Use::in, 44},
    {TCSETSF2, Use::in, 44},
    {TCSBRK, Use::value},
    {TCSBRKP, Use::value},
    {TCXONC, Use::value},
    {TCFLSH, Use::value},
    {TIOCEXCL, Use::value},
    {TIOCNXCL, Use::value},
    {TIOCGEXCL, Use::out, 4},
    {TIOCSCTTY, Use::value},
    {TIOCNOTTY, Use::value},
    {TIOCGPGRP, Use::out, 4},
    {TIOCSPGRP, Use::in, 4},
    {TIOCGSID, Use::out, 4},
    {TIOCOUTQ, Use::out, 4},  // also SIOCOUTQ
    {TIOCSTI, Use::in, 1},
    {TIOCGWINSZ, Use::out, 8},
    {TIOCSWINSZ, Use::in, 8},
    {TIOCMGET, Use::out, 4},
    {TIOCMBIS, Use::in, 4},
    {TIOCMBIC, Use::in, 4},
    {TIOCMSET, Use::in, 4},
    {TIOCMIWAIT, Use::value},
    {TIOCGICOUNT, Use::out, 80},
    {TIOCGSERIAL, Use::out, 72},
    {TIOCSSERIAL, Use::in, 72},
    {TIOCGRS485, Use::out, 32},
    {TIOCSRS485, Use::inout, 32},
    {TIOCSBRK, Use::value},
    {TIOCCBRK, Use::value},
    {TIOCVHANGUP, Use::value},
    {TIOCGLCKTRMIOS, Use::out, 36},
    {TIOCSLCKTRMIOS, Use::in, 36},
    {TIOCGSOFTCAR, Use::out, 4},
    {TIOCSSOFTCAR, Use::in, 4},
    {TIOCPKT, Use::in, 4},
    {TIOCGPKT, Use::out, 4},
    {TIOCGDEV, Use::out, 4},
    {TIOCSIG, Use::value},
    {TIOCSETD, Use::in, 4},
    {TIOCGETD, Use::out, 4},
    {TIOCGPTN, Use::out, 4},
    {TIOCSPTLCK, Use::in, 4},
    {TIOCGPTLCK, Use::out, 4},
    {TIOCGPTPEER, Use::makes_fd},
    {VT_OPENQRY, Use::out, 4},
    {VT_GETMODE, Use::out, 8},
    {VT_GETSTATE, Use::out, 6},
    {VT_ACTIVATE, Use::value},
    {VT_WAITACTIVE, Use::value},
    {VT_DISALLOCATE, Use::value},
    {KDGETLED, Use::out, 1},
    {KDSETLED, Use::value},
    {KDGKBTYPE, Use::out, 1},
    {KDGETMODE, Use::out, 4},
    {KDSETMODE, Use::value},
    {KDGKBMODE, Use::out, 4},
    {KDSKBMODE, Use::value},
    {KDGKBMETA, Use::out, 4},
    {KDGKBLED, Use::out, 1},
    {FIONREAD, Use::out, 4},  // also SIOCINQ
    {FIONBIO, Use::in, 4},
    {FIOASYNC, Use::in, 4},
    {FIONCLEX, Use::value},
    {FIOCLEX, Use::value},
    {FIOQSIZE, Use::out, 8},
    {FIGETBSZ, Use::out, 4},
    {BLKGETSIZE64, Use::out, 8},
    {BLKGETSIZE, Use::out, 8},
    {BLKSSZGET, Use::out, 4},
    {BLKPBSZGET, Use::out, 4},
    {BLKROGET, Use::out, 4},
    {BLKRAGET, Use::out, 8},
    {BLKFRAGET, Use::out, 8},
    {BLKBSZGET, Use::out, 4},
    {BLKSECTGET, Use::out, 4},  // 2 of a block device, 4 of /dev/sg*
    {BLKIOMIN, Use::out, 4},
    {BLKIOOPT, Use::out, 4},
    {BLKALIGNOFF, Use::out, 4},
    {BLKROTATIONAL, Use::out, 2},
    {BLKDISCARDZEROES, Use::out, 4},
    {BLKFLSBUF, Use::value},
    {HDIO_GETGEO, Use::out, 16},
    {FS_IOC_GETFLAGS, Use::out, 4},
    {FS_IOC_SETFLAGS, Use::in, 4},
    {FS_IOC_GETVERSION, Use::out, 4},
    {FS_IOC_FSGETXATTR, Use::out, 28},
    {FS_IOC_FSSETXATTR, Use::in, 28},
    {FS_IOC_GETFSLABEL, Use::out, 256},
    {FS_IOC_SETFSLABEL, Use::in, 256},
    {FS_IOC_FIEMAP, Use::nested, 0, get_extents},
    {FIBMAP, Use::inout, 4},
    {FITRIM, Use::inout, 24},
    {FICLONE, Use::clone},
    {FICLONERANGE, Use::clone_range, 32},
    {FIDEDUPERANGE, Use::nested, 0, deduplicate},
    {SIOCATMARK, Use::out, 4},
    {FIOSETOWN, Use::in, 4},
    {SIOCSPGRP, Use::in, 4},
    {FIOGETOWN, Use::out, 4},
    {SIOCGPGRP, Use::out, 4},
    {SIOCOUTQNSD, Use::out, 4},
    {SIOCGSTAMP_OLD, Use::out, 16},
    {SIOCGSTAMPNS_OLD, Use::out, 16},
    {SIOCGSTAMP_NEW, Use::out, 16},
    {SIOCGSTAMPNS_NEW, Use::out, 16},
    {SIOCGIFCONF, Use::nested, 0, get_interfaces},
    {SIOCETHTOOL, Use::nested, 0, ask_interface},
    {SIOCGIFMAP, Use::inout, 40},
    {SIOCGIFPFLAGS, Use::inout, 40},
    {SIOCGARP, Use::inout, 68},
    {SIOCSIFFLAGS, Use::in, 40},
    {SIOCSIFADDR, Use::in, 40},
    {SIOCSIFDSTADDR, Use::in, 40},
    {SIOCSIFBRDADDR, Use::in, 40},
    {SIOCSIFNETMASK, Use::in, 40},
    {SIOCSIFMETRIC, Use::in, 40},
    {SIOCSIFMTU, Use::in, 40},
    {SIOCSIFHWADDR, Use::in, 40},
    {SIOCSIFTXQLEN, Use::in, 40},
    {SIOCSIFNAME, Use::in, 40},
    {SIOCGIFNAME, Use::inout, 40},
    {SIOCGIFINDEX, Use::inout, 40},
    {SIOCGIFFLAGS, Use::inout, 40},
    {SIOCGIFADDR, Use::inout, 40},
    {SIOCGIFDSTADDR, Use::inout, 40},
    {SIOCGIFBRDADDR, Use::inout, 40},
    {SIOCGIFNETMASK, Use::inout, 40},
    {SIOCGIFMETRIC, Use::inout, 40},
    {SIOCGIFMTU, Use::inout, 40},
    {SIOCGIFHWADDR, Use::inout, 40},
    {SIOCGIFTXQLEN, Use::inout, 40},
    {RNDGETENTCNT, Use::out, 4},
};

const Request* find_request(uint32_t request) {
  const auto* row = std::find_if(std::begin(kRequests), std::end(kRequests),
                                 [&](const Request& entry) { return entry.request == request; });
  return row == std::end(kRequests) ? nullptr : row;
}

// True when the request may well do something there: devices have requests of their own, and sockets those of
// interfaces. Elsewhere, and on pseudo terminals, unknown requests are probes (isatty and the like), and
// ENOTTY is what the kernel itself says to nearly all of them.
bool does_something(int fd, uint32_t request) {
  // Documentation/admin-guide/devices.txt; the type of SIOC requests is include/uapi/linux/sockios.h's 0x89.
  constexpr unsigned kMemory = 1, kTerminals = 5, kFirstPseudo = 136, kLastPseudo = 143;
  constexpr uint32_t kInterfaces = 0x89;
  struct stat status {};
  if (fstat(fd, &status) != 0) return false;
  if (S_ISSOCK(status.st_mode)) return (request >> 8 & 0xff) == kInterfaces;
  if (S_ISBLK(status.st_mode)) return true;
  if (!S_ISCHR(status.st_mode)) return false;
  const unsigned kind = major(status.st_rdev);
  return kind != kMemory && kind != kTerminals && (kind < kFirstPseudo || kind > kLastPseudo);
}

}  // namespace

namespace calls {

long ioctl(Call& call) {
  std::array<uint64_t, 6> args;
  if (!prepare(call, args)) return -EBADF;
  const auto number = static_cast<uint32_t>(args[1]);
  const Request* request = find_request(number);
  if (request == nullptr) {
    if (const long error = host_call(SYS_fcntl, args[0], F_GETFD); error < 0) return error;
    const std::string name = "ioctl " + operation_name(OperationOf::ioctl, number);
    if (does_something(call.fd(0), number))
      return cannot_record(call, name + " (a request to a device or an interface)", ENOTTY);
    tell_once(call.process, name, fmt::format("the program called {}: not supported, answered ENOTTY", name));
    return -ENOTTY;
  }
  int source = -1;
  switch (request->use) {
    case Use::nested:
      return request->handler(call, args[2]);
    case Use::value:
    case Use::makes_fd:
      break;
    case Use::clone:
      if (!call.process.descriptors.allowed(call.fd(2))) return -EBADF;
      break;
    case Use::clone_range:
      if (call.process.memory.read_object(args[2], source) && !call.process.descriptors.allowed(source))
        return -EBADF;
      [[fallthrough]];
    case Use::in:
      args[2] = guest_pointer(args[2], request->size);
      break;
    case Use::out:
    case Use::inout:
      args[2] = call.buffers.stand_in(guest_pointer(args[2], request->size), request->size,
                                      CallBuffers::Use::contents);
      break;
  }
  if (request->use == Use::clone || request->use == Use::clone_range) share_changed(call, call.fd(0));
  const bool writes = request->use == Use::out || request->use == Use::inout;
  FailedWrites watched;
  if (writes) watched.watch(args[2], request->size);
  long result = blocking_call(call, SYS_ioctl, args);
  if (result < 0) watched.note(call);
  if (writes) {
    if (result >= 0) note_written(call, args[2], request->size);
    if (result == -EFAULT) note_reachable(call, args[2], request->size);
  }
  const bool changes_file = request->use == Use::clone || request->use == Use::clone_range;
  constexpr uint64_t kEverything = INT64_MAX;
  if (changes_file && result == 0)
    call.process.memory.file_changed(call.answer, call.fd(0), {0, kEverything});
  if (request->use == Use::makes_fd && result >= own_fd_floor()) {
    host_call(SYS_close, static_cast<uint64_t>(result));
    result = -EMFILE;
  }
  return interrupted_result(call, result);
}

}  // namespace calls

std::vector<Operation> ioctl_operations() {
  std::vector<Operation> operations;
  for (const Request& row : kRequests) operations.push_back({row.request, Treatment::recorded});
  return operations;
}

}  // namespace aftercheck
