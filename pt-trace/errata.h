// What is wrong with the traces of some processors.
#pragma once

namespace aftercheck::pt {

// Processor errata that change what packets mean (Intel's specification updates; names as in libipt). Others
// that libipt lists need nothing here: these readers accept the packets they put in unexpected places, or
// they concern timing only.
struct Errata {
  bool bdm64 = false;   // a transaction abort may be preceded by a branch to a wrong target
  bool skd007 = false;  // OVF may replace the rest of a CYC packet
  bool skd010 = false;  // the FUP behind OVF may be missing
  bool skd022 = false;  // VM entry that switches tracing off sends FUP too
  bool skl014 = false;  // TIP.PGD may lack the address to which a direct branch left the filter
  bool skz84 = false;   // TMA may be corrupted, under VMX TSC scaling or offsetting
};
// What is known of a processor (CPUID family and model).
Errata errata_of(unsigned family, unsigned model);

}  // namespace aftercheck::pt
