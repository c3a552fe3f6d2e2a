#include "replay-engine/shared_files.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "base/error.h"
#include "machine/page_map.h"

namespace aftercheck {
namespace {

constexpr size_t kPart = 1 << 20;

[[noreturn]] void no_memory(const std::string& name) {
  fail(ErrorKind::io, "memory for the file {}, which the program shares: {}", name, errno_text(errno));
}

UniqueFd new_file(const std::string& name) {
  UniqueFd file(memfd_create("guest file", MFD_CLOEXEC));
  if (!file) no_memory(name);
  return file;
}

uint64_t size_of(int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0) fail(ErrorKind::io, "a shared memory file: {}", errno_text(errno));
  return static_cast<uint64_t>(status.st_size);
}

}  // namespace

int SharedFiles::open(uint64_t number, uint64_t length, const std::string& name) {
  UniqueFd& file = files_[number];
  if (!file) file = new_file(name);
  if (size_of(file.get()) < length && ftruncate(file.get(), static_cast<off_t>(length)) != 0) no_memory(name);
  return file.get();
}

std::vector<uint64_t> SharedFiles::numbers() const {
  std::vector<uint64_t> all;
  for (const auto& [number, file] : files_) all.push_back(number);
  return all;
}

uint64_t SharedFiles::length(uint64_t number) const { return size_of(files_.at(number).get()); }

void SharedFiles::write(uint64_t number, uint64_t offset, std::span<const std::byte> bytes,
                        const std::string& name) {
  const int file = files_.at(number).get();
  while (!bytes.empty()) {
    const ssize_t done = pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (done <= 0) no_memory(name);
    bytes = bytes.subspan(static_cast<size_t>(done));
    offset += static_cast<uint64_t>(done);
  }
}

void SharedFiles::read_all(
    uint64_t number,
    const std::function<void(uint64_t offset, std::span<const std::byte> bytes)>& visit) const {
  const int file = files_.at(number).get();
  const uint64_t size = size_of(file);
  std::vector<std::byte> buffer(kPart);
  for (uint64_t at = 0; at < size;) {
    const off_t data = lseek(file, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0) return;  // nothing but a hole is left
    const off_t hole = lseek(file, data, SEEK_HOLE);
    if (hole < 0) fail(ErrorKind::io, "a shared memory file: {}", errno_text(errno));
    for (at = static_cast<uint64_t>(data); at < static_cast<uint64_t>(hole);) {
      const size_t wanted = std::min<uint64_t>(kPart, static_cast<uint64_t>(hole) - at);
      const ssize_t got = pread(file, buffer.data(), wanted, static_cast<off_t>(at));
      if (got <= 0) fail(ErrorKind::io, "a shared memory file: {}", errno_text(errno));
      visit(at, std::span(buffer).first(static_cast<size_t>(got)));
      at += static_cast<uint64_t>(got);
    }
  }
}

UniqueFd SharedFiles::copy_of(uint64_t number) const {
  UniqueFd copy = new_file("of the parent process");
  if (ftruncate(copy.get(), static_cast<off_t>(length(number))) != 0) no_memory("of the parent process");
  read_all(number, [&](uint64_t offset, std::span<const std::byte> bytes) {
    if (pwrite(copy.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)) !=
        static_cast<ssize_t>(bytes.size()))
      no_memory("of the parent process");
  });
  return copy;
}

void SharedFiles::separate(AddressSpace& space) {
  for (auto& [number, file] : files_) file = copy_of(number);
  std::vector<Mapping> shared;
  for (const auto& [start, mapping] : space.mappings())
    if (mapping.shared) shared.push_back(mapping);
  const PageMap pages;
  for (const Mapping& mapping : shared) {
    const Range range{mapping.start, mapping.end};
    if (mapping.backing == Backing::file) {
      const int error = space.map_file(range, mapping.prot, files_.at(mapping.inode).get(), mapping.offset,
                                       true, mapping.name, mapping.device, mapping.inode, mapping.contents);
      if (error != 0)
        fail(ErrorKind::io, "shared memory at {:#x} in a copy of the guest: {}", mapping.start,
             errno_text(-error));
      continue;
    }
    std::vector<std::pair<uint64_t, std::vector<std::byte>>> contents;
    pages.own_pages(mapping, kPart, [&](Range run) {
      auto& [address, bytes] = contents.emplace_back(run.start, std::vector<std::byte>(run.size()));
      if (!space.read(address, bytes.data(), bytes.size())) bytes.clear();
    });
    if (const int error = space.map_anonymous(range, mapping.prot, true, mapping.name); error != 0)
      fail(ErrorKind::io, "shared memory at {:#x} in a copy of the guest: {}", mapping.start,
           errno_text(-error));
    for (const auto& [address, bytes] : contents)
      if (!space.write(address, bytes.data(), bytes.size()))
        fail(ErrorKind::io, "shared memory at {:#x} in a copy of the guest can't be written", address);
  }
}

}  // namespace aftercheck
