#include "base/error.h"
#include "machine/vcpu.h"

namespace aftercheck {

std::unique_ptr<Machine> create_translated_machine(AddressSpace&, const CpuModel&) {
  fail(ErrorKind::host_lacks, "not yet");
}

}  // namespace aftercheck
