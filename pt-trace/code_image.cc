#include "pt-trace/code_image.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/fd.h"

namespace aftercheck::pt {

void CodeImage::map(uint64_t address, std::shared_ptr<const std::vector<uint8_t>> bytes) {
  const size_t size = bytes->size();
  map(address, std::move(bytes), 0, size);
}

void CodeImage::map(uint64_t address, std::shared_ptr<const std::vector<uint8_t>> bytes, size_t offset,
                    size_t size) {
  if (offset > bytes->size() || size > bytes->size() - offset)
    fail(ErrorKind::usage, "code mapping at {:#x}: bytes {}..{} are not all in a block of {}", address,
         offset, offset + size, bytes->size());
  const uint8_t* start = bytes->data() + offset;
  insert(address, {size, start, std::move(bytes)});
}

void CodeImage::map(uint64_t address, std::span<const uint8_t> bytes, std::shared_ptr<const void> owner) {
  insert(address, {bytes.size(), bytes.data(), std::move(owner)});
}

void CodeImage::map_file(uint64_t address, const std::string& path, uint64_t offset, uint64_t size) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) fail(ErrorKind::io, "{}: can't open: {}", path, errno_text(errno));
  struct stat info;
  if (::fstat(fd.get(), &info) != 0) fail(ErrorKind::io, "{}: fstat: {}", path, errno_text(errno));
  const auto file_size = static_cast<uint64_t>(info.st_size);
  if (offset >= file_size)
    fail(ErrorKind::bad_input, "{}: has {} bytes, none at offset {:#x}", path, file_size, offset);
  size = std::min(size, file_size - offset);
  // From the start: `offset` need not be page-aligned.
  void* mapped = ::mmap(nullptr, offset + size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (mapped == MAP_FAILED) fail(ErrorKind::io, "{}: mmap: {}", path, errno_text(errno));
  const uint64_t mapped_size = offset + size;
  std::shared_ptr<const void> owner(mapped,
                                    [mapped, mapped_size](const void*) { ::munmap(mapped, mapped_size); });
  insert(address, {size, static_cast<const uint8_t*>(mapped) + offset, std::move(owner)});
}

void CodeImage::insert(uint64_t address, Mapping mapping) {
  if (mapping.size == 0) return;
  if (address + (mapping.size - 1) < address)
    fail(ErrorKind::usage, "code mapping at {:#x} of {} bytes passes the end of the address space", address,
         mapping.size);
  changes_.push_back({address, mapping.size});
  mappings_.put(address, std::move(mapping));
}

void CodeImage::fill(uint64_t address, std::shared_ptr<const std::vector<uint8_t>> bytes) {
  const size_t changes = changes_.size();
  map(address, std::move(bytes));
  changes_.resize(changes);
}

void CodeImage::source_changed(uint64_t address, uint64_t size) {
  if (size != 0) changes_.push_back({address, size});
}

void CodeImage::unmap(uint64_t address, uint64_t size) {
  if (size == 0) return;
  mappings_.erase(address, size);
  changes_.push_back({address, size});
}

std::span<const uint8_t> CodeImage::at(uint64_t address) const {
  const auto bytes = mapped_at(address);
  if (!bytes.empty() || !source_) return bytes;
  source_(address);
  return mapped_at(address);
}

std::span<const uint8_t> CodeImage::mapped_at(uint64_t address) const {
  const auto it = mappings_.find(address);
  if (it == mappings_.end()) return {};
  const uint64_t inside = address - it->first;
  return {it->second.bytes + inside, it->second.size - inside};
}

size_t CodeImage::read(uint64_t address, uint8_t* buffer, size_t size) const {
  size_t done = 0;
  while (done < size) {
    const auto piece = at(address + done);
    if (piece.empty()) break;
    const size_t count = std::min(piece.size(), size - done);
    std::memcpy(buffer + done, piece.data(), count);
    done += count;
  }
  return done;
}

}  // namespace aftercheck::pt
