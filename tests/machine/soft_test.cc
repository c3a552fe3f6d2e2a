#include <catch2/catch.hpp>

#include "tests/machine/exit_cases.h"

namespace aftercheck {

TEST_CASE("the soft vCPU gives the agreed exits") { exit_cases::check_all(MachineKind::soft); }

}  // namespace aftercheck
