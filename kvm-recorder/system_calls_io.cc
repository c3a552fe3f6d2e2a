// Reading, writing and the output gate's callers.
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "kvm-recorder/system_calls.h"

namespace aftercheck {
namespace {

constexpr uint64_t kUserEnd = 0x7fff'ffff'f000;  // TASK_SIZE_MAX, arch/x86/include/asm/page_64.h
constexpr uint64_t kNeverMapped = kPageSize;     // below every window and the usual vm.mmap_min_addr

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

// fd, iovec, count are arguments 0, 1, 2 of all of these.
long vector_call(Call& call, Vector& vector, CallBuffers::Use use) {
  std::array<uint64_t, 6> args;
  if (!prepare(call, args)) return -EBADF;
  if (const long error = copy_iovecs(call.process, args[1], args[2], vector.of_guest)) return error;
  vector.count = args[2];
  uint64_t bytes = 0;
  for (const iovec& piece : vector.guest()) bytes += std::min<uint64_t>(piece.iov_len, kMaxTransfer);
  std::ranges::copy(vector.guest(), vector.of_host.begin());
  if (may_block(call, call.fd(0), bytes)) stand_in_for(call, {vector.of_host.data(), vector.count}, use);
  args[1] = host_pointer(vector.of_host.data());
  return blocking_call(call, call.row.number, args);
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

// Bytes were written to a descriptor; its file may be one that the guest maps.
void note_file(Call& call, int fd, long size) {
  LoggedSpace& memory = call.process.memory;
  if (size <= 0 || !memory.may_change_files()) return;
  memory.file_changed(call.answer, fd, written_range(call, fd, static_cast<uint64_t>(size)));
}

bool to_stream(Call& call, size_t index) { return call.process.descriptors.stream(call.fd(index)) != 0; }

}  // namespace

namespace calls {

long write(Call& call) {
  const long result = pass(call);
  if (result > 0) {
    const iovec piece{reinterpret_cast<void*>(call.args[1]), static_cast<size_t>(result)};
    output_gate(call, call.fd(0), {&piece, 1}, piece.iov_len);
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
  Vector vector;
  const long result = vector_call(call, vector, CallBuffers::Use::in);
  if (result > 0) {
    output_gate(call, call.fd(0), vector.guest(), static_cast<uint64_t>(result));
    note_file(call, call.fd(0), result);
  }
  return interrupted_result(call, result);
}

long readv(Call& call) {
  Vector vector;
  const long result = vector_call(call, vector, CallBuffers::Use::out);
  if (result > 0) note_iovecs(call, vector.host(), static_cast<uint64_t>(result));
  if (result == -EFAULT) note_reachable(call, vector.host());
  return interrupted_result(call, result);
}

// What goes from file to descriptor without passing through guest memory can't be reproduced for the streams
// that a replay shows: programs fall back to read and write on EINVAL.
long copy_to_fd(Call& call) {
  const size_t target = call.row.number == SYS_sendfile ? 0 : call.row.number == SYS_tee ? 1 : 2;
  if (to_stream(call, target)) return -EINVAL;
  const long result = pass(call);
  note_file(call, call.fd(target), result);
  return result;
}

long file_changed(Call& call) {
  const long result = pass(call);
  LoggedSpace& memory = call.process.memory;
  if (result != 0 || !memory.may_change_files()) return result;
  Range changed{};
  if (call.row.number == SYS_fallocate) {
    const auto [fd, mode, offset, length, e, f] = call.args;
    constexpr uint64_t kContents = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
    constexpr uint64_t kMoves = FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE;
    if ((mode & kMoves) != 0) changed = {offset, INT64_MAX};
    if ((mode & kContents) != 0) changed = {offset, offset + length};
  }
  memory.file_changed(call.answer, call.fd(0), changed);
  return result;
}

long truncate(Call& call) {
  const long result = pass(call);
  if (result == 0)
    call.process.memory.file_truncated(call.answer, reinterpret_cast<const char*>(call.args[0]));
  return result;
}

}  // namespace calls
}  // namespace aftercheck
