// libFuzzer: the scanner for trapped instructions, and with it the readers of ELF files and unwind tables.
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "scan_whole.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const aftercheck::UniqueFd fd(memfd_create("fuzz", MFD_CLOEXEC));
  if (!fd || write(fd.get(), data, size) != static_cast<ssize_t>(size)) return 0;
  aftercheck::test::scan_whole({data, size}, fd.get());
  return 0;
}
