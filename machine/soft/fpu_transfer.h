// x87, MMX and SSE state between Unicorn's registers and the FXSAVE image that the rest of the project uses.
#pragma once

#include <unicorn/unicorn.h>

#include "machine/registers.h"

namespace aftercheck::soft {

// FOP, FIP and FDP read as zero: Unicorn does not keep them up to date, and processors disagree about them.
// The sticky exception flags of FSW are those last written, for this Unicorn never raises them; those of
// MXCSR are kept (sse_status.h).
FpuState read_fpu(uc_engine* engine);
void write_fpu(uc_engine* engine, const FpuState& state);

}  // namespace aftercheck::soft
