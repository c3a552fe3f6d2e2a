// Reading, writing and the output gate's callers.
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>

#include "kvm-recorder/guest_threads.h"
#include "kvm-recorder/placement.h"
#include "kvm-recorder/process_tree.h"
#include "kvm-recorder/resource_limits.h"
#include "kvm-recorder/system_calls.h"

namespace aftercheck {
namespace {

constexpr uint64_t kNeverMapped = kPageSize;  // below every window and the usual vm.mmap_min_addr

}  // namespace

long copy_iovecs(GuestProcess& process, uint64_t address, uint64_t count,
                 std::array<iovec, kMaxIovecs>& iovecs) {
  if (count > kMaxIovecs) return -EINVAL;
  if (count != 0 && !process.memory.read(address, iovecs.data(), count * sizeof(iovec))) return -EFAULT;
  for (size_t i = 0; i < count; i++) {
    const auto base = reinterpret_cast<uint64_t>(iovecs[i].iov_base);
    uint64_t checked = guest_pointer(base, std::min<uint64_t>(iovecs[i].iov_len, kMaxTransfer));
    // What could be a user's pointer fails when the kernel gets there, not before the first element.
    if (checked == kBadPointer && base < kUserEnd) checked = kNeverMapped;
    iovecs[i].iov_base = reinterpret_cast<void*>(checked);
  }
  return 0;
}

void stand_in_for(Call& call, std::span<iovec> iovecs, CallBuffers::Use use) {
  uint64_t left = kMaxTransfer;
  for (iovec& piece : iovecs) {
    const uint64_t size = std::min<uint64_t>(piece.iov_len, left);
    piece.iov_base =
        reinterpret_cast<void*>(call.buffers.stand_in(reinterpret_cast<uint64_t>(piece.iov_base), size, use));
    left -= size;
  }
}

void note_iovecs(Call& call, std::span<const iovec> iovecs, uint64_t bytes) {
  for (const iovec& piece : iovecs) {
    if (bytes == 0) break;
    const uint64_t size = std::min<uint64_t>(piece.iov_len, bytes);
    note_written(call, reinterpret_cast<uint64_t>(piece.iov_base), size);
    bytes -= size;
  }
}

void note_reachable(Call& call, std::span<const iovec> iovecs) {
  for (const iovec& piece : iovecs)
    note_reachable(call, reinterpret_cast<uint64_t>(piece.iov_base), piece.iov_len);
}

namespace {

// The guest's iovecs, and what the kernel gets for them.
struct Vector {
  std::array<iovec, kMaxIovecs> of_guest, of_host;
  size_t count = 0;

  std::span<const iovec> guest() const { return {of_guest.data(), count}; }
  std::span<const iovec> host() const { return {of_host.data(), count}; }
};

// Transfers into several buffers begin with the first.
void watch_first(std::span<const iovec> pieces, FailedWrites& watched) {
  const auto first = std::ranges::find_if(pieces, [](const iovec& piece) { return piece.iov_len != 0; });
  if (first != pieces.end()) watched.watch(reinterpret_cast<uint64_t>(first->iov_base), first->iov_len);
}

// fd, iovec, count are arguments 0, 1, 2 of all of these. At most `most` bytes.
long vector_call(Call& call, Vector& vector, CallBuffers::Use use, uint64_t number,
                 uint64_t most = kMaxTransfer) {
  std::array<uint64_t, 6> args;
  if (!prepare(call, args)) return -EBADF;
  if (const long error = copy_iovecs(call.process, args[1], args[2], vector.of_guest)) return error;
  vector.count = args[2];
  uint64_t bytes = 0;
  for (iovec& piece : std::span(vector.of_guest).first(vector.count)) {
    if (most != kMaxTransfer) piece.iov_len = std::min<uint64_t>(piece.iov_len, most - bytes);
    bytes += std::min<uint64_t>(piece.iov_len, kMaxTransfer);
  }
  std::ranges::copy(vector.guest(), vector.of_host.begin());
  if (may_block(call, call.fd(0), bytes)) stand_in_for(call, {vector.of_host.data(), vector.count}, use);
  args[1] = host_pointer(vector.of_host.data());
  FailedWrites watched;
  if (use != CallBuffers::Use::in) watch_first(vector.host(), watched);
  const long result = blocking_call(call, number, args);
  if (result < 0) watched.note(call);
  return result;
}

// Where the call says that its bytes go (pwrite64, pwritev, pwritev2: the fourth argument); nothing where it
// is the descriptor's own position.
std::optional<int64_t> said_offset(const Call& call) {
  const bool says =
      call.row.number == SYS_pwrite64 || call.row.number == SYS_pwritev || call.row.number == SYS_pwritev2;
  const auto offset = static_cast<int64_t>(call.args[3]);
  if (!says || (call.row.number == SYS_pwritev2 && offset == -1)) return std::nullopt;
  return offset;
}

// The regular file that a stream of the recorder's is, and that `fd` leads to; 0: none.
uint8_t file_stream(const Call& call, int fd) {
  const uint8_t stream = call.process.descriptors.stream(fd);
  return stream != 0 && call.process.descriptors.place(stream).regular ? stream : 0;
}

// Where in the file the `size` bytes are that a call has just written to it.
Range written_range(const Call& call, int fd, uint64_t size) {
  const auto from = [&](uint64_t start) { return Range{start, start + size}; };
  const auto until = [&](uint64_t end) { return Range{end - std::min(end, size), end}; };
  const auto number = call.row.number;
  const bool placed = number == SYS_pwrite64 || number == SYS_pwritev || number == SYS_pwritev2;
  bool appends = number == SYS_pwritev2 && (call.args[5] & RWF_APPEND) != 0;
  // pwrite(2), BUGS: it appends to a file that was opened so, wherever it is told to write.
  if (placed && !appends) appends = (host_call(SYS_fcntl, fd, F_GETFL) & O_APPEND) != 0;
  if (appends) {
    struct stat status {};
    if (fstat(fd, &status) == 0) return until(static_cast<uint64_t>(status.st_size));
  }
  if (placed && !(number == SYS_pwritev2 && call.args[3] == UINT64_MAX)) return from(call.args[3]);
  // splice, copy_file_range: where the next byte would go.
  uint64_t offset = 0;
  if ((number == SYS_splice || number == SYS_copy_file_range) && call.args[3] != 0 &&
      call.process.memory.read_object(call.args[3], offset))
    return until(offset);
  return until(static_cast<uint64_t>(std::max(host_call(SYS_lseek, fd, 0, SEEK_CUR), 0L)));
}

// ftruncate or fallocate changed a file, which may be one that the guest maps.
void note_file_changed(Call& call) {
  LoggedSpace& memory = call.process.memory;
  if (!memory.may_change_files()) return;
  Range changed{};
  if (call.row.number == SYS_fallocate) {
    const auto [fd, mode, offset, length, e, f] = call.args;
    constexpr uint64_t kContents = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
    constexpr uint64_t kMoves = FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE;
    if ((mode & kMoves) != 0) changed = {offset, INT64_MAX};
    if ((mode & kContents) != 0) changed = {offset, offset + length};
  }
  memory.file_changed(call.answer, call.fd(0), changed);
}

}  // namespace

void share_changed(Call& call, const struct stat& status) {
  LoggedSpace& memory = call.process.memory;
  if (!memory.others_may_map() || call.process.threads == nullptr || !S_ISREG(status.st_mode)) return;
  // This process's own mappings alone make no order. A child that comes later finds them.
  if (!has_other_processes(call.process)) return;
  switch (memory.sees(status)) {
    case LoggedSpace::Sees::nobody:
      return;
    case LoggedSpace::Sees::others:
      return call.process.threads->share_memory(call.task);
    case LoggedSpace::Sees::copy:
      return tell_once(
          call.process, "copied elsewhere",
          "the guest changes a file that another of its processes has mapped (MAP_SHARED) as one "
          "that nobody changes: that process does not see the change");
  }
}

void share_changed(Call& call, int fd) {
  struct stat status {};
  if (call.process.memory.others_may_map() && fstat(fd, &status) == 0) share_changed(call, status);
}

void note_file(Call& call, int fd, long size) {
  LoggedSpace& memory = call.process.memory;
  if (size <= 0 || !memory.may_change_files()) return;
  memory.file_changed(call.answer, fd, written_range(call, fd, static_cast<uint64_t>(size)));
}

namespace calls {

long write(Call& call) {
  if (call.row.number != SYS_sendto) {
    const long room = room_in_file(call, call.fd(0), said_offset(call), call.args[2]);
    if (room < 0) return room;
    if (static_cast<uint64_t>(room) < std::min(call.args[2], kMaxTransfer))
      call.args[2] = static_cast<uint64_t>(room);
    share_changed(call, call.fd(0));
  }
  const long result = pass(call);
  if (result > 0) {
    const iovec piece{reinterpret_cast<void*>(call.args[1]), static_cast<size_t>(result)};
    output_gate(call, call.fd(0), {&piece, 1}, piece.iov_len, said_offset(call));
    note_file(call, call.fd(0), result);
  }
  return result;
}

long send_queued(Call& call) {
  const long result = pass(call);
  if (result == 0) {
    const bool descriptor = call.row.args[0].kind == ArgKind::fd;
    const iovec piece{reinterpret_cast<void*>(call.args[1] + (descriptor ? 0 : sizeof(long))), call.args[2]};
    output_gate(call, descriptor ? call.fd(0) : -1, {&piece, 1}, piece.iov_len);
  }
  return result;
}

long writev(Call& call) {
  const long room = room_in_file(call, call.fd(0), said_offset(call), kMaxTransfer);
  if (room < 0) return room;
  share_changed(call, call.fd(0));
  Vector vector;
  const long result =
      vector_call(call, vector, CallBuffers::Use::in, call.row.number, static_cast<uint64_t>(room));
  if (result > 0) {
    output_gate(call, call.fd(0), vector.guest(), static_cast<uint64_t>(result), said_offset(call));
    note_file(call, call.fd(0), result);
  }
  return interrupted_result(call, result);
}

long readv(Call& call) {
  Vector vector;
  const long result = vector_call(call, vector, CallBuffers::Use::out, call.row.number);
  if (result > 0) note_iovecs(call, vector.host(), static_cast<uint64_t>(result));
  if (result == -EFAULT) note_reachable(call, vector.host());
  return interrupted_result(call, result);
}

// Pages that the guest gives away may change later, and readers then see it or not: here they are copied,
// which is one of the two. Like the kernel's it takes no more than there is room for.
long vmsplice(Call& call) {
  constexpr unsigned kKnown = 0xf;  // SPLICE_F_* (linux/splice.h)
  if (!call.process.descriptors.allowed(call.fd(0))) return -EBADF;
  if ((call.args[3] & ~uint64_t{kKnown}) != 0) return -EINVAL;
  struct stat status {};
  if (fstat(call.fd(0), &status) != 0) return -EBADF;
  if (call.args[2] == 0) return 0;  // the kernel looks for the pipe later
  if (!S_ISFIFO(status.st_mode)) return -EBADF;
  const bool writes = (::fcntl(call.fd(0), F_GETFL) & O_ACCMODE) != O_RDONLY;
  const bool waits = (call.args[3] & SPLICE_F_NONBLOCK) == 0;
  const long room = room_in_pipe(call, call.fd(0), writes, waits);
  if (room < 0) return interrupted_result(call, room);
  Vector vector;
  const long result = vector_call(call, vector, writes ? CallBuffers::Use::in : CallBuffers::Use::out,
                                  writes ? SYS_writev : SYS_readv, static_cast<uint64_t>(room));
  if (writes && result > 0) output_gate(call, call.fd(0), vector.guest(), static_cast<uint64_t>(result));
  if (!writes && result > 0) note_iovecs(call, vector.host(), static_cast<uint64_t>(result));
  if (!writes && result == -EFAULT) note_reachable(call, vector.host());
  return interrupted_result(call, result);
}

long lseek(Call& call) {
  if (!call.process.descriptors.allowed(call.fd(0))) return -EBADF;
  if (file_stream(call, call.fd(0)) == 0) return pass(call);
  const int64_t from = ::lseek(call.fd(0), 0, SEEK_CUR);
  const long result = pass(call);
  if (result >= 0) output_sought(call, call.fd(0), from, result);
  return result;
}

long file_changed(Call& call) {
  const int fd = call.fd(0);
  const bool allowed = call.process.descriptors.allowed(fd), allocates = call.row.number == SYS_fallocate;
  const uint8_t stream = allowed ? file_stream(call, fd) : 0;
  // Holes and moved contents of a stream have no word in the log.
  if (stream != 0 && allocates && (call.args[1] & ~uint64_t{FALLOC_FL_KEEP_SIZE}) != 0) return -EOPNOTSUPP;
  struct stat before {
  }, after{};
  if (allowed && fstat(fd, &before) == 0 && S_ISREG(before.st_mode)) {
    const uint64_t size = allocates ? call.args[2] + call.args[3] : call.args[1];
    const bool keeps = allocates && (call.args[1] & FALLOC_FL_KEEP_SIZE) != 0;
    const long error = keeps ? 0 : check_file_size(call, before.st_size, static_cast<int64_t>(size));
    if (error != 0) return error;
    share_changed(call, before);
  }
  const long result = pass(call);
  if (result == 0) note_file_changed(call);
  if (result == 0 && stream != 0 && fstat(fd, &after) == 0 && after.st_size != before.st_size)
    output_resized(call, stream, after.st_size);
  return result;
}

// By name: the name may be that of the recorder's output.
long truncate(Call& call) {
  struct stat status {};
  std::string name;
  const bool known =
      call.process.memory.read_string(call.args[0], name, PATH_MAX) && ::stat(name.c_str(), &status) == 0;
  if (known)
    if (const long error = check_file_size(call, status.st_size, static_cast<int64_t>(call.args[1])))
      return error;
  if (known) share_changed(call, status);
  const long result = pass(call);
  if (result == 0)
    call.process.memory.file_truncated(call.answer, reinterpret_cast<const char*>(call.args[0]));
  if (result != 0 || !known || ::stat(name.c_str(), &status) != 0) return result;
  for (const uint8_t stream : {uint8_t{1}, uint8_t{2}}) {
    const OutputPlace& place = call.process.descriptors.place(stream);
    if (!place.regular || !place.leads_to(status)) continue;
    output_resized(call, stream, status.st_size);
    break;
  }
  return result;
}

}  // namespace calls
}  // namespace aftercheck
