// libFuzzer: functions of an ELF file. Without lines: those are libdw's to read.
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "symbols/object.h"

using namespace aftercheck;
using namespace aftercheck::symbols;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  UniqueFd fd(memfd_create("fuzz", MFD_CLOEXEC));
  if (!fd || write(fd.get(), data, size) != static_cast<ssize_t>(size)) return 0;
  try {
    const auto object = Object::open(std::move(fd), "fuzz", {.lines = false, .debug_directory = ""});
    object->functions_named("main");
    for (const Object::Segment& segment : object->segments()) object->function_at(segment.address);
    for (uint64_t address = 0; address < 0x4000; address += 61) {
      object->function_at(address);
      object->address_of_offset(address);
      object->frames_at(address);
    }
  } catch (const Error&) {  // refused, as it should be
  }
  return 0;
}
