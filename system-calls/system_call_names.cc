#include "system-calls/system_call_names.h"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace aftercheck {

const SystemCallEntry* find_system_call_entry(uint64_t number) {
  const auto* entry =
      std::lower_bound(std::begin(kSystemCallList), std::end(kSystemCallList), number,
                       [](const SystemCallEntry& one, uint64_t wanted) { return one.number < wanted; });
  return entry != std::end(kSystemCallList) && entry->number == number ? entry : nullptr;
}

std::string system_call_name(uint64_t number) {
  const SystemCallEntry* entry = find_system_call_entry(number);
  return entry != nullptr ? entry->name : "system call " + std::to_string(number);
}

unsigned argument_count(uint64_t number) {
  constexpr unsigned kMost = 6;
  const SystemCallEntry* entry = find_system_call_entry(number);
  return entry != nullptr ? static_cast<unsigned>(std::strlen(entry->arguments)) : kMost;
}

}  // namespace aftercheck
