// The progress line of commands that replay.
#pragma once

#include <fmt/format.h>

#include "replay-engine/replay.h"
#include "tools/console.h"

namespace aftercheck::tools {

// `console` must outlive the replay.
inline void show_progress(ReplayOptions& options, Console& console) {
  options.progress = [&console](double share, uint64_t events) {
    console.progress(share, fmt::format("event {}", human_count(events)));
  };
  options.landing_progress = [&console](double share, uint64_t event, uint64_t arrivals) {
    console.progress(share, fmt::format("event {}: a signal's instant is looked for, {} arrivals so far",
                                        human_count(event), human_count(arrivals)));
  };
}

}  // namespace aftercheck::tools
