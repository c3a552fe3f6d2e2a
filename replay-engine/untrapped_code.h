// A likely reason for a divergence: instructions whose answer differs between machines, in code that the
// program wrote where it runs. Such code is not searched for them, so on KVM the processor answers.
#pragma once

#include <string>

#include "machine/address_space.h"

namespace aftercheck {

// A line for the report, or nothing. Looks at the first 16 MiB of memory that is writable and executable at
// once.
std::string untrapped_code(const AddressSpace& space);

}  // namespace aftercheck
