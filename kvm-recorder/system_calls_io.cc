// Reading, writing and the output gate's callers.
#include <sys/mman.h>
#include <sys/syscall.h>

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

// Transfers into several buffers begin with the first.
void watch_first(std::span<const iovec> pieces, FailedWrites& watched) {
  const auto first = std::ranges::find_if(pieces, [](const iovec& piece) { return piece.iov_len != 0; });
  if (first != pieces.end()) watched.watch(reinterpret_cast<uint64_t>(first->iov_base), first->iov_len);
}

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
  FailedWrites watched;
  if (use != CallBuffers::Use::in) watch_first(vector.host(), watched);
  const long result = blocking_call(call, call.row.number, args);
  if (result < 0) watched.note(call);
  return result;
}

bool to_stream(Call& call, size_t index) { return call.process.descriptors.stream(call.fd(index)) != 0; }

}  // namespace

namespace calls {

long write(Call& call) {
  const long result = pass(call);
  if (result > 0) {
    const iovec piece{reinterpret_cast<void*>(call.args[1]), static_cast<size_t>(result)};
    output_gate(call, call.fd(0), {&piece, 1}, piece.iov_len);
    call.process.memory.file_written(call.answer, call.fd(0));
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
    call.process.memory.file_written(call.answer, call.fd(0));
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
  if (result > 0) call.process.memory.file_written(call.answer, call.fd(target));
  return result;
}

long file_changed(Call& call) {
  const long result = pass(call);
  if (result == 0) call.process.memory.file_written(call.answer, call.fd(0));
  return result;
}

}  // namespace calls
}  // namespace aftercheck
