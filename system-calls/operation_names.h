// What people call the operations of calls that are many in one: ioctl, fcntl, prctl, semctl, msgctl, shmctl,
// keyctl.
#pragma once

#include <cstdint>
#include <string>

namespace aftercheck {

enum class OperationOf : uint8_t { ioctl, fcntl, prctl, semctl, msgctl, shmctl, keyctl };

// "TCGETS"; null for operations that the lists don't have. Of ioctl requests with one number the first name.
const char* find_operation_name(OperationOf call, uint64_t number);
// The same, or the number: "0x5401".
std::string operation_name(OperationOf call, uint64_t number);

}  // namespace aftercheck
