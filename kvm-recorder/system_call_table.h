// The recorder's table of system calls: what each call's arguments are, which guest memory the kernel writes,
// and who answers it. Everything else (checks of pointers and descriptors, noting of written bytes, restarts)
// follows from it. It has a row for each call of system-calls/system_call_list.h, which has names and
// numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace aftercheck {

struct Call;  // system_calls.h

enum class CallClass : uint8_t {
  pass,     // made on the host; result and written bytes are logged
  space,    // changes the guest's mappings: an address-space operation in the log
  own,      // answered by the recorder
  refused,  // not made: `meaning` decides between an answer of -error and the end of the recording
};

// What a signal does to the call (include/linux/errno.h of the kernel). So anything but `never` may block,
// and has stand-ins for guest memory meanwhile (call_buffers.h).
enum class Wait : uint8_t {
  never,           // does not block for long: made directly, on guest memory
  interrupted,     // EINTR, whatever the handler's flags
  restarts,        // ERESTARTSYS: restarted when the handler has SA_RESTART
  unless_handled,  // ERESTARTNOHAND, ERESTART_RESTARTBLOCK: restarted only when no handler ran
};

enum class ArgKind : uint8_t {
  value,         // no pointer, no descriptor
  fd,            // a descriptor of the guest, or AT_FDCWD
  path,          // NUL-terminated string
  in,            // the kernel reads `size` * count bytes
  out,           // the kernel writes `size` * count bytes when it succeeds
  inout,         // both
  inout_always,  // both, and writes when it fails too (remaining time)
  out_result,    // the kernel writes `size` * min(result, count) bytes
  address_out,   // socket address; its length is in the 4 bytes that argument `count` points to
  length_inout,  // those 4 bytes
  iovec_in,
  iovec_out,
  message_in,
  message_out,
  nested,  // pointers within: the call's handler knows
};

struct Arg {
  ArgKind kind = ArgKind::value;
  uint8_t count = kOnce;  // number of the argument that holds the count, maybe with kInt; or kOnce
  uint16_t size = 0;      // bytes of one element
  uint8_t extra = 0;      // bytes beyond size * count

  static constexpr uint8_t kOnce = 0xff;
  static constexpr uint8_t kInt = 0x40;  // the kernel takes the count's low 32 bits only
};

struct SystemCall {
  uint16_t number = 0;
  const char* name = nullptr;
  CallClass klass = CallClass::refused;
  Wait wait = Wait::never;
  bool makes_fd = false;  // the result is a new descriptor
  // Arguments (bit i for argument i) that are the number of a process or thread: those of the recorder's own
  // threads are none for the guest. `pids_if`: only where argument 0 is this; negative: always.
  uint8_t pids = 0;
  int8_t pids_if = -1;
  // It may change credentials, root directory, umask or namespaces of the thread that makes it
  // (credentials(7), clone(2) with CLONE_FS): what the recorder needs its own for is done elsewhere from then
  // on (HostThread::keep_apart).
  bool changes_rights = false;
  // Refused (of rows with a handler: what their handler ends the recording for). Null: programs probe for it
  // and have another way, so -error is a harmless answer, the one of a kernel that lacks the call. Else what
  // the call means for people: a program would go on wrongly without it, so the recording ends, unless the
  // kernel would refuse it as well because the guest lacks `capability` (CAP_*; negative: none is needed),
  // which is EPERM.
  const char* meaning = nullptr;
  int8_t capability = -1;
  bool quiet = false;                // refused, harmless: no line for people
  int16_t error = 0;                 // refused: positive errno
  long (*handler)(Call&) = nullptr;  // null: the generic engine
  Arg args[6]{};
};

// Null for numbers that the table doesn't have (they answer ENOSYS).
const SystemCall* find_system_call(uint64_t number);
// All rows, by ascending number.
std::span<const SystemCall> system_call_table();

}  // namespace aftercheck
