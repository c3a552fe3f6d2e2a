// sendfile, splice, tee, copy_file_range: bytes that don't pass through guest memory.
//
// Where they go elsewhere the kernel does it all. Where they go to a stream that a replay shows, they pass
// the recorder: it takes them with the same call into a pipe of its own, so that the source is read once, and
// the errors are the kernel's; the log gets what was then written.
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <optional>

#include "base/fd.h"
#include "kvm-recorder/resource_limits.h"
#include "kvm-recorder/system_calls.h"

namespace aftercheck {
namespace {

constexpr uint64_t kFlags = SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT;
// Of one call: all of an event but its writes fits in recording::kMaxExtraBytes. Less than what was asked for
// is an answer that callers of all four must expect (their manual pages, RETURN VALUE).
constexpr uint64_t kMostBytes = 8 << 20;

bool is_pipe(int fd) {
  struct stat status {};
  return fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode);
}

// What one of these calls asks for. The kernel's names for the arguments differ, and their order.
struct Copy {
  int in = -1, out = -1;
  uint64_t in_offset = 0, out_offset = 0;  // guest pointers, or null: the descriptor's own position
  uint64_t length = 0, flags = 0;
};

Copy copy_of(const Call& call) {
  const auto& args = call.args;
  if (call.row.number == SYS_sendfile) return {call.fd(1), call.fd(0), args[2], 0, args[3], 0};
  if (call.row.number == SYS_tee) return {call.fd(0), call.fd(1), 0, 0, args[2], args[3]};
  return {call.fd(0), call.fd(2), args[1], args[3], args[4], args[5]};
}

// A pipe of the recorder's, and what is read from it. As large as a pipe is when it is made (pipe(7)).
class Passage {
 public:
  static constexpr uint64_t kRoom = 64 << 10;

  Passage() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return;
    read_end_ = move_out_of_guest_reach(UniqueFd(ends[0]));
    write_end_ = move_out_of_guest_reach(UniqueFd(ends[1]));
  }
  explicit operator bool() const { return static_cast<bool>(write_end_); }
  uint64_t write_end() const { return static_cast<uint64_t>(write_end_.get()); }
  // Takes out `size` bytes that are there, behind `bytes`.
  void read(std::vector<std::byte>& bytes, size_t size) {
    const size_t had = bytes.size();
    bytes.resize(had + size);
    size_t done = 0;
    while (done < size) {
      const ssize_t got = ::read(read_end_.get(), bytes.data() + had + done, size - done);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) break;
      done += static_cast<size_t>(got);
    }
    bytes.resize(had + done);
  }

 private:
  UniqueFd read_end_, write_end_;
};

// One call to a stream.
class StreamCopy {
 public:
  StreamCopy(Call& call, const Copy& copy) : call_(call), copy_(copy) {}
  long run();

 private:
  Call& call_;
  const Copy copy_;
  Passage passage_;
  std::vector<std::byte> bytes_;  // written to the stream so far
  std::optional<int64_t> in_offset_, out_offset_, first_out_offset_;
  bool from_pipe_ = false, to_pipe_ = false;

  long check();
  long step();
  long fetch(uint64_t most);
  long put(size_t from, size_t size);
  void give_back(int64_t size);
};

// What the kernel refuses (fs/read_write.c, do_sendfile(); fs/splice.c, do_splice()).
long StreamCopy::check() {
  const bool tee = call_.row.number == SYS_tee, sendfile = call_.row.number == SYS_sendfile;
  if ((copy_.flags & ~kFlags) != 0) return -EINVAL;
  const int in_mode = fcntl(copy_.in, F_GETFL), out_mode = fcntl(copy_.out, F_GETFL);
  if (in_mode < 0 || (in_mode & O_ACCMODE) == O_WRONLY) return -EBADF;
  if (out_mode < 0 || (out_mode & O_ACCMODE) == O_RDONLY) return -EBADF;
  from_pipe_ = is_pipe(copy_.in);
  to_pipe_ = is_pipe(copy_.out);
  if (tee ? !(from_pipe_ && to_pipe_) : !sendfile && !from_pipe_ && !to_pipe_) return -EINVAL;
  if ((from_pipe_ && copy_.in_offset != 0) || (to_pipe_ && copy_.out_offset != 0)) return -ESPIPE;
  for (const auto& [pointer, offset] :
       {std::pair{copy_.in_offset, &in_offset_}, std::pair{copy_.out_offset, &out_offset_}}) {
    int64_t value = 0;
    if (pointer == 0) continue;
    if (!call_.process.memory.read_object(pointer, value)) return -EFAULT;
    if (value < 0) return -EINVAL;
    *offset = value;
  }
  first_out_offset_ = out_offset_;
  if (sendfile && ::lseek(copy_.in, 0, SEEK_CUR) < 0) return -EINVAL;
  if (!to_pipe_ && (out_mode & O_APPEND) != 0) return -EINVAL;
  if (!passage_) return -ENFILE;
  return 0;
}

// Bytes of the source into the passage, and from there behind bytes_. Those of a pipe stay in it until they
// have gone out.
long StreamCopy::fetch(uint64_t most) {
  const uint64_t wait = copy_.flags & SPLICE_F_NONBLOCK;
  const auto in = static_cast<uint64_t>(copy_.in);
  long got = 0;
  if (from_pipe_) {
    got = blocking_call(call_, SYS_tee, {in, passage_.write_end(), most, wait, 0, 0});
  } else {
    const uint64_t offset = in_offset_ ? host_pointer(&*in_offset_) : 0;
    got = blocking_call(call_, SYS_splice, {in, offset, passage_.write_end(), 0, most, wait});
  }
  if (got > 0) passage_.read(bytes_, static_cast<size_t>(got));
  return got;
}

// Of a source with positions: as if they had never been read.
void StreamCopy::give_back(int64_t size) {
  if (size == 0 || from_pipe_) return;
  if (in_offset_)
    *in_offset_ -= size;
  else
    ::lseek(copy_.in, -size, SEEK_CUR);
}

// A pipe has room for them, so this waits for other kinds only.
long StreamCopy::put(size_t from, size_t size) {
  const auto out = static_cast<uint64_t>(copy_.out), bytes = host_pointer(bytes_.data() + from);
  if (!out_offset_) return blocking_call(call_, SYS_write, {out, bytes, size, 0, 0, 0});
  const long put =
      blocking_call(call_, SYS_pwrite64, {out, bytes, size, static_cast<uint64_t>(*out_offset_), 0, 0});
  if (put > 0) *out_offset_ += put;
  return put;
}

// Some bytes, all the way. Result as of the call.
long StreamCopy::step() {
  const bool waits = (copy_.flags & SPLICE_F_NONBLOCK) == 0 && bytes_.empty();
  uint64_t most = std::min(copy_.length - bytes_.size(), Passage::kRoom);
  if (to_pipe_) {
    const bool to_the_end = waits || call_.row.number == SYS_sendfile;
    const long room = room_in_pipe(call_, copy_.out, true, to_the_end);
    if (room < 0) return room;
    most = std::min(most, static_cast<uint64_t>(room));
  }
  const size_t from = bytes_.size();
  const long got = fetch(most);
  if (got <= 0) return got;
  const auto fetched = static_cast<int64_t>(bytes_.size() - from);
  const long put = this->put(from, static_cast<size_t>(fetched));
  const int64_t gone = std::max(put, 0L);
  bytes_.resize(from + static_cast<size_t>(gone));
  give_back(fetched - gone);
  if (from_pipe_ && call_.row.number == SYS_splice) {  // they were only looked at
    std::vector<std::byte> taken(static_cast<size_t>(gone));
    if (gone != 0) [[maybe_unused]]
      const ssize_t read = ::read(copy_.in, taken.data(), taken.size());
  }
  return put;
}

long StreamCopy::run() {
  if (const long error = check()) return error;
  // Only sendfile goes on until all is done; of the others callers know that they return what was there.
  const bool loops = call_.row.number == SYS_sendfile;
  long result = 0;
  while (bytes_.size() < std::min(copy_.length, kMostBytes)) {
    result = step();
    if (result <= 0 || !loops) break;
  }
  const auto done = static_cast<long>(bytes_.size());
  if (done == 0) return interrupted_result(call_, result);
  bool stored = true;
  if (in_offset_) stored = call_.answer.write_object(copy_.in_offset, *in_offset_);
  if (out_offset_) stored = call_.answer.write_object(copy_.out_offset, *out_offset_) && stored;
  output_gate(call_, copy_.out, std::move(bytes_), first_out_offset_);
  note_file(call_, copy_.out, done);
  return stored ? done : -EFAULT;
}

// From file to file: the kernel copies (or shares) ranges, and what it copied is in the source.
long copy_range_to_stream(Call& call, const Copy& copy) {
  int64_t in_offset = ::lseek(copy.in, 0, SEEK_CUR), out_offset = 0;
  if (copy.in_offset != 0 && !call.process.memory.read_object(copy.in_offset, in_offset)) return -EFAULT;
  if (copy.out_offset != 0 && !call.process.memory.read_object(copy.out_offset, out_offset)) return -EFAULT;
  call.args[4] = std::min(copy.length, kMostBytes);
  const long result = pass(call);
  if (result <= 0) return result;
  std::vector<std::byte> bytes(static_cast<size_t>(result));
  bytes.resize(read_file(copy.in, static_cast<uint64_t>(in_offset), bytes));
  output_gate(call, copy.out, std::move(bytes),
              copy.out_offset != 0 ? std::optional(out_offset) : std::nullopt);
  note_file(call, copy.out, result);
  return result;
}

}  // namespace

long room_in_pipe(Call& call, int fd, bool writes, bool waits) {
  pollfd wanted{fd, static_cast<short>(writes ? POLLOUT : POLLIN), 0};
  const bool blocks = waits && (fcntl(fd, F_GETFL) & O_NONBLOCK) == 0;
  const long ready = blocking_call(
      call, SYS_poll, {host_pointer(&wanted), 1, static_cast<uint64_t>(blocks ? -1 : 0), 0, 0, 0});
  if (ready < 0) return ready;
  if (ready == 0) return -EAGAIN;
  if (!writes) return Passage::kRoom;
  // Some page is free; if nothing is in the pipe, all are.
  int filled = 0;
  const int size = fcntl(fd, F_GETPIPE_SZ);
  return ioctl(fd, FIONREAD, &filled) == 0 && filled == 0 && size > 0 ? size : PIPE_BUF;
}

namespace calls {

long copy_to_fd(Call& call) {
  Copy copy = copy_of(call);
  if (!call.process.descriptors.allowed(copy.in) || !call.process.descriptors.allowed(copy.out))
    return -EBADF;
  std::optional<int64_t> offset;
  int64_t given = 0;
  if (copy.out_offset != 0 && call.process.memory.read_object(copy.out_offset, given)) offset = given;
  const long room = room_in_file(call, copy.out, offset, copy.length);
  if (room < 0) return room;
  if (static_cast<uint64_t>(room) < std::min(copy.length, kMaxTransfer)) {
    copy.length = static_cast<uint64_t>(room);
    call.args[call.row.number == SYS_sendfile ? 3 : 4] = copy.length;  // tee has pipes only
  }
  if (call.process.descriptors.stream(copy.out) != 0)
    return call.row.number == SYS_copy_file_range ? copy_range_to_stream(call, copy)
                                                  : StreamCopy(call, copy).run();
  share_changed(call, copy.out);
  const long result = pass(call);
  note_file(call, copy.out, result);
  return result;
}

}  // namespace calls
}  // namespace aftercheck
