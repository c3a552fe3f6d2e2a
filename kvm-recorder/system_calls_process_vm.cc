// process_vm_readv, process_vm_writev (mm/process_vm_access.c). What is copied comes into the log as what was
// written to the guest.
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "kvm-recorder/process_numbers.h"
#include "kvm-recorder/system_calls.h"

namespace aftercheck::calls {
namespace {

// The vector's parts as the guest gave them; 0 or -errno (lib/iov_iter.c, iovec_from_user()).
long read_vector(Call& call, uint64_t address, uint64_t count, std::vector<iovec>& parts) {
  if (count > kMaxIovecs) return -EINVAL;
  parts.resize(count);
  if (!call.process.memory.read(address, parts.data(), count * sizeof(iovec)) && count != 0) return -EFAULT;
  for (const iovec& part : parts)
    if (static_cast<ssize_t>(part.iov_len) < 0) return -EINVAL;
  return 0;
}

uint64_t total(const std::vector<iovec>& parts) {
  return std::accumulate(parts.begin(), parts.end(), uint64_t{0}, [](uint64_t sum, const iovec& part) {
    return std::min(kMaxTransfer, sum + std::min(kMaxTransfer, part.iov_len));
  });
}

uint64_t left_of_page(uint64_t address) { return kPageSize - address % kPageSize; }

// Walks over the bytes of a vector.
class Walk {
 public:
  explicit Walk(const std::vector<iovec>& parts) : parts_(parts) { skip_empty(); }
  bool done() const { return part_ == parts_.size(); }
  uint64_t address() const { return host_pointer(parts_[part_].iov_base) + offset_; }
  // Bytes from here on that lie together, in one page.
  uint64_t room() const {
    return std::min<uint64_t>(parts_[part_].iov_len - offset_, left_of_page(address()));
  }
  void advance(uint64_t bytes) {
    offset_ += bytes;
    skip_empty();
  }

 private:
  const std::vector<iovec>& parts_;
  size_t part_ = 0;
  uint64_t offset_ = 0;

  void skip_empty() {
    for (; part_ != parts_.size() && offset_ == parts_[part_].iov_len; offset_ = 0) ++part_;
  }
};

// Both are the guest's own memory.
long copy_within(Call& call, const std::vector<iovec>& from, const std::vector<iovec>& to, uint64_t most) {
  std::array<std::byte, kPageSize> page;
  uint64_t copied = 0;
  for (Walk source(from), target(to); copied < most && !source.done() && !target.done();) {
    const uint64_t size = std::min({source.room(), target.room(), most - copied});
    if (!call.process.memory.read(source.address(), page.data(), size) ||
        !call.answer.write(target.address(), page.data(), size))
      return copied != 0 ? static_cast<long>(copied) : -EFAULT;
    source.advance(size);
    target.advance(size);
    copied += size;
  }
  return static_cast<long>(copied);
}

// Between the guest and another process: through a buffer, as far as that and the guest's memory go.
constexpr uint64_t kBuffer = 64 << 20;
long copy_outside(Call& call, const std::vector<iovec>& local, const std::vector<iovec>& remote,
                  uint64_t most, bool reads) {
  most = std::min(most, kBuffer);
  std::vector<std::byte> bytes(most);
  uint64_t size = 0;
  if (!reads)
    for (Walk source(local); size < most && !source.done();) {
      const uint64_t part = std::min(source.room(), most - size);
      if (!call.process.memory.read(source.address(), &bytes[size], part)) break;
      source.advance(part);
      size += part;
    }
  // What can't be read is not there for the host either, which looks at the other process first.
  const iovec buffer{reads || size != 0 ? bytes.data() : nullptr, reads || size == 0 ? most : size};
  const long result = host_call(call.row.number, call.args[0], host_pointer(&buffer), 1,
                                host_pointer(remote.data()), remote.size(), 0);
  if (!reads && result > 0) output_gate(call, -1, local, static_cast<uint64_t>(result));
  if (!reads || result <= 0) return result;
  for (Walk target(local); size < static_cast<uint64_t>(result);) {
    const uint64_t part = std::min(target.room(), static_cast<uint64_t>(result) - size);
    if (!call.answer.write(target.address(), &bytes[size], part)) break;
    target.advance(part);
    size += part;
  }
  return size != 0 ? static_cast<long>(size) : -EFAULT;
}

}  // namespace

long process_vm(Call& call) {
  const bool reads = call.row.number == SYS_process_vm_readv;
  std::vector<iovec> local, remote;
  if (call.args[5] != 0) return -EINVAL;
  if (const long error = read_vector(call, call.args[1], call.args[2], local)) return error;
  if (total(local) == 0) return 0;
  if (const long error = read_vector(call, call.args[3], call.args[4], remote)) return error;
  const uint64_t most = std::min(total(local), total(remote));
  if (most == 0) return 0;
  if (whose(call.fd(0)) != Whose::guest) return copy_outside(call, local, remote, most, reads);
  return reads ? copy_within(call, remote, local, most) : copy_within(call, local, remote, most);
}

}  // namespace aftercheck::calls
