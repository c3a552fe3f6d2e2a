// Floating-point instructions of SSE are executed by this host's processor. Unicorn 2.0.1 computes them with
// soft-float, which never tells MXCSR of exceptions, raises none, has no denormal flag, sets flush-to-zero
// for x87 instead of SSE, adds in another order (DPPS) and passes on other not-a-numbers. Its functions for
// single instructions are interposed, as in unicorn_stores.cc, by ones that execute the same instruction
// under the guest's MXCSR. The approximations (RCPPS, RSQRTPS) are this host's then, as they are under KVM.
#pragma once

namespace aftercheck::soft {

// Can it be done with this library: has it been found out where its CPU keeps MXCSR and the flags of a
// comparison? Throws Error(host_lacks) otherwise. Any thread.
void check_sse_arithmetic();

// To be called before the engine runs on MXCSR that was changed from outside: flags that this thread's
// processor has gathered are not the guest's.
void forget_sse_flags();

}  // namespace aftercheck::soft
