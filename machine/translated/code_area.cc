#include "machine/translated/code_area.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"
#include "base/fd.h"

namespace aftercheck::translated {

CodeArea::CodeArea(Range window, uint64_t size) {
  const UniqueFd memory(memfd_create("translated code", MFD_CLOEXEC));
  if (!memory || ftruncate(memory.get(), static_cast<off_t>(size)) != 0)
    fail(ErrorKind::host_lacks, "no memory for translated code: {}", errno_text(errno));
  for (uint64_t start = window.start; start + size <= window.end; start += size) {
    void* mapped = mmap(reinterpret_cast<void*>(start), size, PROT_READ | PROT_EXEC,
                        MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_NORESERVE, memory.get(), 0);
    if (mapped == MAP_FAILED && errno == EEXIST) continue;
    if (mapped == MAP_FAILED)
      fail(ErrorKind::host_lacks, "translated code can't be mapped: {}", errno_text(errno));
    executed_ = {start, start + size};
    break;
  }
  if (executed_.size() == 0)
    fail(ErrorKind::host_lacks, "no place for translated code between {:#x} and {:#x}", window.start,
         window.end);
  void* mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memory.get(), 0);
  if (mapped == MAP_FAILED) {
    const int error = errno;
    munmap(reinterpret_cast<void*>(executed_.start), size);
    fail(ErrorKind::host_lacks, "translated code can't be mapped: {}", errno_text(error));
  }
  written_ = static_cast<uint8_t*>(mapped);
}

CodeArea::~CodeArea() {
  munmap(written_, executed_.size());
  munmap(reinterpret_cast<void*>(executed_.start), executed_.size());
}

}  // namespace aftercheck::translated
