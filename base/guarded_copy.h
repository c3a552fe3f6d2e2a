// Copies to and from guest memory. Guest pages may be missing, forbidden or past the end of their file, so a
// plain memcpy could kill the recorder with SIGSEGV or SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>

namespace aftercheck {

// Installs the SIGSEGV and SIGBUS handlers that guarded_copy needs; call once before the first copy. A fault
// outside guarded_copy is passed on to the handler that was there before (so sanitizers and core dumps still
// work).
void install_fault_guard();

// Copies `size` bytes; true when all were copied, false when a page on either side could not be touched (some
// bytes may have been copied then). Any thread.
bool guarded_copy(void* destination, const void* source, size_t size);

}  // namespace aftercheck
