// The state of SSE arithmetic that Unicorn 2.0.1 does not keep as a processor does: the sticky exception
// flags gather in its soft-float status and never reach MXCSR, flush-to-zero is set for x87 instead of SSE,
// and ROUNDPS and its kin tell of inexact results that their operand asks not to tell of. Functions of the
// library are interposed to mend this, as in unicorn_stores.cc; where it does not let itself be interposed,
// flags stay as written. DE, the denormal flag, arises nowhere.
#pragma once

#include <unicorn/unicorn.h>

#include <cstdint>

namespace aftercheck::soft {

// MXCSR with the flags that have arisen since it was last written. Any thread that may use the engine.
uint32_t read_mxcsr(uc_engine* engine);

}  // namespace aftercheck::soft
