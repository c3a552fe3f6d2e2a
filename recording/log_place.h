// A chunk of DIR/events that a reader can start with (reader.h).
#pragma once

#include <cstdint>

namespace aftercheck::recording {

struct LogPlace {
  uint64_t chunk_offset = 0;       // in the file
  uint64_t chunk_sequence = 0;     // chunks before it
  uint64_t chunk_first_event = 0;  // events before it, continuations counted
  bool operator==(const LogPlace&) const = default;
};

}  // namespace aftercheck::recording
