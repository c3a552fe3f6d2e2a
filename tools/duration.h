// Lengths of time as people type them.
#pragma once

#include <cstdint>
#include <string>

namespace aftercheck::tools {

// Nanoseconds of "2s", "500ms", "1.5s", "250us", "3m" or "2" (seconds). Throws Error(usage) that names
// `option`.
uint64_t parse_duration(const std::string& option, const std::string& text);

}  // namespace aftercheck::tools
