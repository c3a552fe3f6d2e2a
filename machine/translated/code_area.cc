#include "machine/translated/code_area.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace aftercheck::translated {

CodeArea::CodeArea(Range window, uint64_t size) : of_file_(size / kPart) {
  UniqueFd memory(memfd_create("translated code", MFD_CLOEXEC));
  if (!memory || ftruncate(memory.get(), static_cast<off_t>(size)) != 0)
    fail(ErrorKind::host_lacks, "no memory for translated code: {}", errno_text(errno));
  memory_ = move_out_of_guest_reach(std::move(memory));
  for (uint64_t start = window.start; start + size <= window.end; start += size) {
    void* mapped = mmap(reinterpret_cast<void*>(start), size, PROT_READ | PROT_EXEC,
                        MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_NORESERVE, memory_.get(), 0);
    if (mapped == MAP_FAILED && errno == EEXIST) continue;
    if (mapped == MAP_FAILED)
      fail(ErrorKind::host_lacks, "translated code can't be mapped: {}", errno_text(errno));
    executed_ = {start, start + size};
    break;
  }
  if (executed_.size() == 0)
    fail(ErrorKind::host_lacks, "no place for translated code between {:#x} and {:#x}", window.start,
         window.end);
  void* mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memory_.get(), 0);
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

void CodeArea::map_executed(uint64_t at, int file, uint64_t offset, uint64_t size) const {
  if (mmap(reinterpret_cast<void*>(at), size, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
           file, static_cast<off_t>(offset)) == MAP_FAILED)
    fail(ErrorKind::host_lacks, "translated code can't be mapped: {}", errno_text(errno));
}

void CodeArea::show(uint64_t at, std::span<const std::byte> bytes, int file, uint64_t offset) {
  const uint64_t start = at - executed_.start, parts = bytes.size() / kPart, whole = parts * kPart;
  if (whole != 0) map_executed(at, file, offset, whole);
  std::fill_n(of_file_.begin() + static_cast<ptrdiff_t>(start / kPart), parts, true);
  // More is written behind the rest.
  const std::span<const std::byte> rest = bytes.subspan(whole);
  if (!rest.empty()) std::memcpy(written_ + start + whole, rest.data(), rest.size());
}

void CodeArea::show_none() {
  if (std::ranges::find(of_file_, true) == of_file_.end()) return;
  map_executed(executed_.start, memory_.get(), 0, executed_.size());
  of_file_.assign(of_file_.size(), false);
}

uint8_t* CodeArea::writable(uint64_t at, size_t size) {
  const uint64_t offset = at - executed_.start;
  for (uint64_t part = offset / kPart; part <= (offset + size - 1) / kPart; ++part) {
    if (!of_file_[part]) continue;
    std::memcpy(written_ + part * kPart, reinterpret_cast<const void*>(executed_.start + part * kPart),
                kPart);
    map_executed(executed_.start + part * kPart, memory_.get(), part * kPart, kPart);
    of_file_[part] = false;
  }
  return written_ + offset;
}

}  // namespace aftercheck::translated
