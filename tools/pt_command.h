// The commands `aftercheck pt ...`, on Intel PT traces. Each adds itself to the group; pt_command.cc lists
// them.
#pragma once

#include "tools/command.h"

namespace aftercheck::tools {

Command add_pt_digest(CLI::App& group);
Command add_pt_dump(CLI::App& group);
Command add_pt_flow(CLI::App& group);
Command add_pt_plan(CLI::App& group);
Command add_pt_synth(CLI::App& group);

// What INPUT may be.
inline constexpr const char* kPtInputHelp =
    "A recording, a perf.data file, or a file with raw AUX bytes (- is standard input)";

}  // namespace aftercheck::tools
