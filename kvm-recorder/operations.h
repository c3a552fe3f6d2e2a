// What the recorder does with the operations of calls that are many in one, for docs/compatibility.md and for
// those who ask before they record.
#pragma once

#include <cstdint>
#include <vector>

namespace aftercheck {

enum class Treatment : uint8_t {
  recorded,  // made on the host; result and written bytes are in the log
  answered,  // by the recorder itself
  probe,     // an error that does no harm: programs ask for it and have another way
  ends,      // the recording ends (unsupported_calls.h)
};

struct Operation {
  uint64_t number = 0;
  Treatment treatment = Treatment::recorded;
};

// In the order of the recorder's tables. What they don't have is described with each.
std::vector<Operation>
ioctl_operations();  // others: ENOTTY, or the end where a device or an interface is asked
std::vector<Operation> fcntl_operations();   // others: EINVAL
std::vector<Operation> prctl_operations();   // others: EINVAL
std::vector<Operation> semctl_operations();  // others: EINVAL
std::vector<Operation> msgctl_operations();  // others: EINVAL
std::vector<Operation> shmctl_operations();  // others: EINVAL
std::vector<Operation> keyctl_operations();  // others: EOPNOTSUPP, told where the kernel may have them

// What is made with clone, clone3, fork and vfork, by the first row whose flags (CLONE_*) a call has one of;
// 0: any.
struct NewTask {
  uint64_t flags = 0;
  const char* flag_names = "";
  const char* meaning = "";
  const char* advice = "";
};
const std::vector<NewTask>& new_tasks();

}  // namespace aftercheck
