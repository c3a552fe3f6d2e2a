// The commands `aftercheck pt ...`, on Intel PT traces. Each adds itself to the group; pt_command.cc lists
// them.
#pragma once

#include "tools/command.h"

namespace aftercheck::tools {

Command add_pt_dump(CLI::App& group);

}  // namespace aftercheck::tools
