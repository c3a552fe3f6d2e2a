// Which arguments of system calls are names of files, and what of a link at a name's end they mean: what must
// be known to see where a name leads before the kernel goes there.
#pragma once

#include <cstdint>
#include <span>

namespace aftercheck {

struct FileName {
  enum class End : uint8_t {
    followed,  // a link at the end is followed
    asked,     // as `followed`, by a call that changes nothing
    itself,    // the link itself is meant
    moved,     // as `itself`, and it gets another name
    made,      // as `itself`, and it need not exist: then its folder is what counts
    handler,   // the call's handler looks at it
    no_file,   // a string, but no name of a file
  };
  static constexpr uint8_t kNone = 0xff;

  uint16_t call = 0;
  uint8_t argument = 0;
  End end = End::followed;
  uint8_t directory = kNone;  // the argument that the name is relative to, or the working directory
  uint8_t flags = kNone;  // the argument in which `flag` turns followed into itself, and itself into followed
  uint32_t flag = 0;
};

// Those of one call; empty for calls without.
std::span<const FileName> file_names(uint16_t call);

}  // namespace aftercheck
