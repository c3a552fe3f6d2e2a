#include "kvm-recorder/logged_space.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "code-scan/code_scan.h"

namespace aftercheck {
namespace {

// Files up to this size are kept whole, so that the several mappings of one library share a blob; of larger
// ones only what gets mapped.
constexpr uint64_t kKeepWhole = 64 << 20;

int64_t nanoseconds(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

recording::SpaceOp plain_op(recording::SpaceOpKind kind, Range range) {
  recording::SpaceOp op;
  op.kind = kind;
  op.address = range.start;
  op.length = range.size();
  return op;
}

}  // namespace

LoggedSpace::LoggedSpace(AddressSpace& space, recording::Store& store) : space_(space), store_(store) {}

int LoggedSpace::map_anonymous(Answer& answer, Range range, int prot, bool shared, const std::string& name) {
  if (const int error = space_.map_anonymous(range, prot, shared, name); error != 0) return error;
  answer.forget(range);
  recording::SpaceOp op = plain_op(recording::SpaceOpKind::map_anonymous, range);
  op.prot = static_cast<uint32_t>(prot);
  op.shared = shared;
  op.name = name;
  answer.add(std::move(op));
  // Zeroes hold no instruction to patch.
  return 0;
}

recording::Store::Blob LoggedSpace::add_to_store(int fd, uint64_t offset, uint64_t length) {
  recording::Store::Blob blob;
  host_thread_.run([&] { blob = store_.add(fd, offset, length); });
  return blob;
}

recording::Store::Blob LoggedSpace::open_in_store(const recording::Digest128& name) {
  recording::Store::Blob blob;
  host_thread_.run([&] { blob = store_.open(name); });
  return blob;
}

LoggedSpace::Kept LoggedSpace::keep(int fd, const struct stat& status, Range range, uint64_t offset) {
  const FileKey key{status.st_dev, status.st_ino};
  const KeptFile now{.name = {},
                     .mtime_ns = nanoseconds(status.st_mtim),
                     .ctime_ns = nanoseconds(status.st_ctim),
                     .size = static_cast<uint64_t>(status.st_size)};
  if (now.size > kKeepWhole) {
    recording::Store::Blob blob = add_to_store(fd, offset, range.size());
    return {blob.name, std::move(blob.fd), 0};
  }
  const auto known = kept_.find(key);
  // Writes through a mapping are not always seen in the times.
  if (known != kept_.end() && !shared_files_.contains(key) && known->second.mtime_ns == now.mtime_ns &&
      known->second.ctime_ns == now.ctime_ns && known->second.size == now.size) {
    recording::Store::Blob blob = open_in_store(known->second.name);
    return {blob.name, std::move(blob.fd), offset};
  }
  recording::Store::Blob blob = add_to_store(fd, 0, now.size);
  KeptFile entry = now;
  entry.name = blob.name;
  kept_[key] = entry;
  return {blob.name, std::move(blob.fd), offset};
}

int LoggedSpace::map_file(Answer& answer, Range range, int prot, int fd, uint64_t offset,
                          bool shared_writable, const std::string& name) {
  struct stat status {};
  if (fstat(fd, &status) != 0) return -errno;
  if (!S_ISREG(status.st_mode)) return -ENODEV;
  if (range.start >= range.end || offset % kPageSize != 0) return -EINVAL;
  if (!in_windows(range.start, range.size())) return -ENOMEM;
  Kept kept;
  try {
    kept = keep(fd, status, range, offset);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::io) throw;
    if (store_error_.empty()) store_error_ = error.what();
  }
  // What the store could not take is mapped from the guest's own file: the recording has ended, not the
  // guest.
  const bool own_file = shared_writable || !kept.fd;
  const int source = own_file ? fd : kept.fd.get();
  const uint64_t source_offset = own_file ? offset : kept.offset;
  const int error = space_.map_file(range, prot, source, source_offset, shared_writable, name, status.st_dev,
                                    status.st_ino, kept.name);
  if (error != 0) return error;
  answer.forget(range);
  recording::SpaceOp op = plain_op(recording::SpaceOpKind::map_blob, range);
  if (shared_writable) {
    op.new_address =
        shared_files_.try_emplace({status.st_dev, status.st_ino}, shared_files_.size() + 1).first->second;
    op.new_length = offset;
  }
  op.prot = static_cast<uint32_t>(prot);
  op.shared = shared_writable;
  op.blob = kept.name;
  op.blob_offset = kept.offset;
  op.name = name;
  answer.add(std::move(op));
  if ((prot & PROT_EXEC) != 0 && !shared_writable) patch_code(answer, range, source, source_offset);
  return 0;
}

int LoggedSpace::unmap(Answer& answer, Range range) {
  if (const int error = space_.unmap(range); error != 0) return error;
  answer.forget(range);
  answer.add(plain_op(recording::SpaceOpKind::unmap, range));
  return 0;
}

int LoggedSpace::protect(Answer& answer, Range range, int prot) {
  // Only what was not executable before needs a scan.
  std::vector<Range> fresh;
  if ((prot & PROT_EXEC) != 0)
    for (uint64_t at = range.start; at < range.end;) {
      const Mapping* mapping = space_.find(at);
      if (mapping == nullptr) break;
      const uint64_t end = std::min(mapping->end, range.end);
      if ((mapping->prot & PROT_EXEC) == 0) fresh.push_back({at, end});
      at = end;
    }
  if (const int error = space_.protect(range, prot); error != 0) return error;
  recording::SpaceOp op = plain_op(recording::SpaceOpKind::protect, range);
  op.prot = static_cast<uint32_t>(prot);
  answer.add(std::move(op));
  for (const Range& part : fresh) {
    const Mapping* mapping = space_.find(part.start);
    if (mapping == nullptr || mapping->shared) continue;
    const auto known = kept_.find({mapping->device, mapping->inode});
    if (mapping->backing == Backing::file && known != kept_.end())
      patch_code(answer, part, open_in_store(known->second.name).fd.get(),
                 mapping->offset + (part.start - mapping->start));
    else
      patch_code(answer, part, -1, 0);
  }
  return 0;
}

int LoggedSpace::remap(Answer& answer, Range from, Range to) {
  if (const int error = space_.remap(from, to); error != 0) return error;
  recording::SpaceOp op = plain_op(recording::SpaceOpKind::remap, from);
  op.new_address = to.start;
  op.new_length = to.size();
  answer.add(std::move(op));
  return 0;
}

int LoggedSpace::discard(Answer& answer, Range range) {
  if (const int error = space_.discard(range); error != 0) return error;
  // Of a shared file mapping nothing is lost: the pages come back from the file, which the replay does not
  // have.
  for (uint64_t at = range.start; at < range.end;) {
    const Mapping* mapping = space_.find(at);
    const uint64_t end = std::min(mapping->end, range.end);
    if (!mapping->shared) {
      answer.forget({at, end});
      answer.add(plain_op(recording::SpaceOpKind::discard, {at, end}));
    }
    at = end;
  }
  return 0;
}

void LoggedSpace::clear(Answer& answer) {
  space_.clear();
  answer.forget_everything();
  answer.add(plain_op(recording::SpaceOpKind::clear, {}));
}

bool LoggedSpace::read(uint64_t address, void* data, uint64_t size) const {
  return space_.accessible(address, size, PROT_READ) && space_.read(address, data, size);
}

bool LoggedSpace::read_string(uint64_t address, std::string& text, size_t limit) const {
  text.clear();
  while (text.size() < limit) {
    char buffer[256];
    const uint64_t page_left = kPageSize - address % kPageSize;
    const size_t size = std::min({sizeof buffer, static_cast<size_t>(page_left), limit - text.size()});
    if (!read(address, buffer, size)) return false;
    const size_t length = strnlen(buffer, size);
    text.append(buffer, length);
    if (length < size) return true;
    address += size;
  }
  return false;
}

void LoggedSpace::file_written(Answer& answer, int fd) {
  if (shared_files_.empty()) return;
  struct stat status {};
  if (fstat(fd, &status) != 0 || !shared_files_.contains({status.st_dev, status.st_ino})) return;
  for (const auto& [start, mapping] : space_.mappings()) {
    if (!mapping.shared || mapping.device != status.st_dev || mapping.inode != status.st_ino) continue;
    const auto size = static_cast<uint64_t>(status.st_size);
    if (size <= mapping.offset || mapping.prot == PROT_NONE) continue;
    answer.written(start, std::min(mapping.end - start, page_up(size - mapping.offset)));
  }
}

void LoggedSpace::patch_code(Answer& answer, Range range, int fd, uint64_t file_offset) {
  // Pages past the end of the file can't be read.
  uint64_t size = range.size();
  if (fd >= 0) {
    struct stat status {};
    if (fstat(fd, &status) != 0 || static_cast<uint64_t>(status.st_size) <= file_offset) return;
    size = std::min(size, static_cast<uint64_t>(status.st_size) - file_offset);
  }
  const CodeRange code{.address = range.start,
                       .bytes = {reinterpret_cast<const uint8_t*>(range.start), size},
                       .fd = fd,
                       .file_offset = file_offset};
  for (const CodePatch& patch : find_trapped_instructions(code))
    if (space_.apply_patch(patch)) answer.add(patch);
}

uint64_t LoggedSpace::shared_file_number(const Mapping& mapping) const {
  const auto known = shared_files_.find({mapping.device, mapping.inode});
  return known == shared_files_.end() ? 0 : known->second;
}

}  // namespace aftercheck
