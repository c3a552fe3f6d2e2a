// keyctl(2) by operation (security/keys/keyctl.c). The keys are the host's.
#include <fmt/format.h>
#include <linux/keyctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <vector>

#include "kvm-recorder/operations.h"
#include "kvm-recorder/system_calls.h"

namespace aftercheck {
namespace {

enum class Use : uint8_t {
  value,  // no pointer
  name,   // argument `pointer` is a string
  names,  // and so is the next
  in,     // argument `pointer` has as many bytes as the next says
  out,    // the same, written; the result is how many there are, whether they fit or not
};

struct Row {
  uint32_t operation;
  Use use;
  uint8_t pointer = 0;
};

constexpr Row kOperations[] = {
    {KEYCTL_GET_KEYRING_ID, Use::value},
    {KEYCTL_JOIN_SESSION_KEYRING, Use::name, 1},
    {KEYCTL_UPDATE, Use::in, 2},
    {KEYCTL_REVOKE, Use::value},
    {KEYCTL_CHOWN, Use::value},
    {KEYCTL_SETPERM, Use::value},
    {KEYCTL_DESCRIBE, Use::out, 2},
    {KEYCTL_CLEAR, Use::value},
    {KEYCTL_LINK, Use::value},
    {KEYCTL_UNLINK, Use::value},
    {KEYCTL_SEARCH, Use::names, 2},
    {KEYCTL_READ, Use::out, 2},
    {KEYCTL_INSTANTIATE, Use::in, 2},
    {KEYCTL_NEGATE, Use::value},
    {KEYCTL_SET_REQKEY_KEYRING, Use::value},
    {KEYCTL_SET_TIMEOUT, Use::value},
    {KEYCTL_ASSUME_AUTHORITY, Use::value},
    {KEYCTL_GET_SECURITY, Use::out, 2},
    {KEYCTL_SESSION_TO_PARENT, Use::value},
    {KEYCTL_REJECT, Use::value},
    {KEYCTL_INVALIDATE, Use::value},
    {KEYCTL_GET_PERSISTENT, Use::value},
    {KEYCTL_MOVE, Use::value},
    {KEYCTL_RESTRICT_KEYRING, Use::names, 2},
    {KEYCTL_CAPABILITIES, Use::out, 1},
};

// Through a buffer of ours, which shows how much of it the kernel has written.
long read_key(Call& call, std::array<uint64_t, 6> args, size_t pointer) {
  constexpr uint64_t kMost = 1 << 20;  // longer ones there are not: security/keys/keyctl.c, keyctl_read_key()
  const uint64_t address = args[pointer];
  std::vector<std::byte> bytes(std::min(args[pointer + 1], kMost));
  if (address == 0 || bytes.empty()) {
    args[pointer] = 0;
    return host_call(SYS_keyctl, args[0], args[1], args[2], args[3], args[4]);
  }
  call.process.memory.read(address, bytes.data(), bytes.size());
  const std::vector<std::byte> before = bytes;
  args[pointer] = host_pointer(bytes.data());
  args[pointer + 1] = bytes.size();
  const long result = host_call(SYS_keyctl, args[0], args[1], args[2], args[3], args[4]);
  uint64_t size = bytes.size();
  while (size != 0 && bytes[size - 1] == before[size - 1]) --size;
  if (result > 0 && static_cast<uint64_t>(result) <= bytes.size())
    size = std::max(size, static_cast<uint64_t>(result));
  return size == 0 || call.answer.write(address, bytes.data(), size) ? result : -EFAULT;
}

// What the kernel has and the table has not, it may have been built without: programs must be ready for that.
long unknown(const Call& call, uint32_t operation) {
  if (operation <= KEYCTL_WATCH_KEY)
    tell_once(call.process, fmt::format("keyctl {}", operation),
              fmt::format("the program called keyctl with operation {}: not supported, answered EOPNOTSUPP",
                          operation));
  return -EOPNOTSUPP;
}

}  // namespace

namespace calls {

long keyctl(Call& call) {
  std::array<uint64_t, 6> args = call.args;
  const auto* row = std::ranges::find(kOperations, static_cast<uint32_t>(args[0]), &Row::operation);
  if (row == std::end(kOperations)) return unknown(call, static_cast<uint32_t>(args[0]));
  switch (row->use) {
    case Use::value:
      break;
    case Use::names:
      args[row->pointer + 1U] = guest_pointer(args[row->pointer + 1U], 1);
      [[fallthrough]];
    case Use::name:
      args[row->pointer] = guest_pointer(args[row->pointer], 1);
      break;
    case Use::in:
      args[row->pointer] = guest_pointer(args[row->pointer], args[row->pointer + 1U]);
      break;
    case Use::out:
      return read_key(call, args, row->pointer);
  }
  return host_call(SYS_keyctl, args[0], args[1], args[2], args[3], args[4]);
}

}  // namespace calls

std::vector<Operation> keyctl_operations() {
  std::vector<Operation> operations;
  for (const Row& row : kOperations) operations.push_back({row.operation, Treatment::recorded});
  return operations;
}

}  // namespace aftercheck
