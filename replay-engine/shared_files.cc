#include "replay-engine/shared_files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
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

UniqueFd SharedFiles::make(uint64_t number, const std::string& name) {
  const bool shares = sharing_ != nullptr && number < kFirstPrivate;
  if (UniqueFd found = shares ? sharing_->file_of_others(number) : UniqueFd()) return found;
  UniqueFd file = new_file(name);
  if (shares) sharing_->show_file(number, file.get());
  return file;
}

int SharedFiles::open(uint64_t number, uint64_t length, const std::string& name) {
  File& file = files_[number];
  if (!file.fd) file.fd = make(number, name);
  const int fd = file.fd.get();
  if (!file.sized && size_of(fd) < length && ftruncate(fd, static_cast<off_t>(length)) != 0) no_memory(name);
  return fd;
}

void SharedFiles::resize(uint64_t number, uint64_t size, const std::string& name) {
  const int fd = open(number, 0, name);
  if (ftruncate(fd, static_cast<off_t>(page_up(size))) != 0) no_memory(name);
  files_.at(number).sized = true;
}

void SharedFiles::restore(uint64_t number, uint64_t length, bool sized, const std::string& name) {
  open(number, length, name);
  files_.at(number).sized = sized;
}

void SharedFiles::clear(uint64_t number, uint64_t offset, uint64_t size, const std::string& name) {
  if (size == 0) return;
  if (fallocate(files_.at(number).fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                static_cast<off_t>(offset), static_cast<off_t>(size)) != 0)
    no_memory(name);
}

void SharedFiles::data_in(uint64_t number, uint64_t offset, uint64_t size,
                          const std::function<void(Range)>& visit) const {
  const int file = files_.at(number).fd.get();
  const uint64_t end = std::min(size_of(file), offset + size);
  while (offset < end) {
    const off_t data = lseek(file, static_cast<off_t>(offset), SEEK_DATA);
    if (data < 0 || static_cast<uint64_t>(data) >= end) return;  // nothing but a hole is left
    const off_t hole = lseek(file, data, SEEK_HOLE);
    if (hole < 0) fail(ErrorKind::io, "a shared memory file: {}", errno_text(errno));
    offset = std::min(static_cast<uint64_t>(hole), end);
    visit({static_cast<uint64_t>(data), offset});
  }
}

std::vector<uint64_t> SharedFiles::numbers() const {
  std::vector<uint64_t> all;
  for (const auto& [number, file] : files_) all.push_back(number);
  return all;
}

uint64_t SharedFiles::length(uint64_t number) const { return size_of(files_.at(number).fd.get()); }

void SharedFiles::write(uint64_t number, uint64_t offset, std::span<const std::byte> bytes,
                        const std::string& name) {
  const int file = files_.at(number).fd.get();
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
  const int file = files_.at(number).fd.get();
  std::vector<std::byte> buffer(kPart);
  data_in(number, 0, size_of(file), [&](Range data) {
    while (data.start < data.end) {
      const size_t wanted = std::min<uint64_t>(kPart, data.size());
      const ssize_t got = pread(file, buffer.data(), wanted, static_cast<off_t>(data.start));
      if (got <= 0) fail(ErrorKind::io, "a shared memory file: {}", errno_text(errno));
      visit(data.start, std::span(buffer).first(static_cast<size_t>(got)));
      data.start += static_cast<uint64_t>(got);
    }
  });
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

// With the pages that are the mapping's own.
void SharedFiles::map_again(AddressSpace& space, const Mapping& mapping) {
  const Range range{mapping.start, mapping.end};
  std::vector<std::pair<uint64_t, std::vector<std::byte>>> contents;
  PageMap().own_pages(mapping, kPart, [&](Range run) {
    auto& [address, bytes] = contents.emplace_back(run.start, std::vector<std::byte>(run.size()));
    if (!space.read(address, bytes.data(), bytes.size())) bytes.clear();
  });
  const int error = mapping.backing == Backing::file
                        ? space.map_file(range, mapping.prot, files_.at(mapping.number).fd.get(),
                                         mapping.offset, mapping.shared, mapping.name,
                                         {.contents = mapping.contents, .number = mapping.number})
                        : space.map_anonymous(range, mapping.prot, true, mapping.name);
  if (error != 0)
    fail(ErrorKind::io, "shared memory at {:#x} in a copy of the guest: {}", mapping.start,
         errno_text(-error));
  for (const auto& [address, bytes] : contents)
    if (!space.write(address, bytes.data(), bytes.size()))
      fail(ErrorKind::io, "shared memory at {:#x} in a copy of the guest can't be written", address);
}

void SharedFiles::join(SharingReplays& sharing, AddressSpace& space) {
  sharing_ = &sharing;
  std::vector<Mapping> changed;
  for (auto& [number, file] : files_) {
    if (number >= kFirstPrivate) continue;
    UniqueFd found = sharing.file_of_others(number);
    if (!found) {
      sharing.show_file(number, file.fd.get());
      continue;
    }
    file.fd = std::move(found);
    for (const auto& [start, mapping] : space.mappings())
      if (mapping.number == number) changed.push_back(mapping);
  }
  for (const Mapping& mapping : changed) map_again(space, mapping);
}

void SharedFiles::drop_unmapped(const AddressSpace& space) {
  std::erase_if(files_, [&](const auto& file) {
    return std::ranges::none_of(space.mappings(),
                                [&](const auto& mapping) { return mapping.second.number == file.first; });
  });
}

void SharedFiles::separate(AddressSpace& space) {
  for (auto& [number, file] : files_) file.fd = copy_of(number);
  std::vector<Mapping> shared;
  for (const auto& [start, mapping] : space.mappings())
    if (mapping.shared || mapping.number != 0) shared.push_back(mapping);
  for (const Mapping& mapping : shared) map_again(space, mapping);
}

}  // namespace aftercheck
