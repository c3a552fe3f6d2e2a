#include "kvm-recorder/logged_space.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "code-scan/code_scan.h"
#include "recording/digest.h"

namespace aftercheck {
namespace {

// Files up to this size are kept whole, so that the several mappings of one library share a blob; of larger
// ones only what gets mapped.
constexpr uint64_t kKeepWhole = 64 << 20;

int64_t nanoseconds(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

std::span<const std::byte> guest_bytes(uint64_t address, uint64_t size) {
  return {reinterpret_cast<const std::byte*>(address), size};
}

recording::CodePatch to_log(const CodePatch& patch) {
  return {.address = patch.address,
          .kind = static_cast<uint8_t>(patch.instruction.kind),
          .length = patch.instruction.length,
          .operand = patch.instruction.operand,
          .operand_bits = patch.instruction.operand_bits,
          .original = patch.original};
}

}  // namespace

LoggedSpace::LoggedSpace(AddressSpace& space, recording::Store& store) : space_(space), store_(store) {}

int LoggedSpace::map_anonymous(Range range, int prot, bool shared, const std::string& name) {
  if (const int error = space_.map_anonymous(range, prot, shared, name); error != 0) return error;
  forget(range);
  recording::SpaceOp op;
  op.kind = recording::SpaceOpKind::map_anonymous;
  op.address = range.start;
  op.length = range.size();
  op.prot = static_cast<uint32_t>(prot);
  op.shared = shared;
  op.name = name;
  ops_.push_back(std::move(op));
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

int LoggedSpace::map_file(Range range, int prot, int fd, uint64_t offset, bool shared_writable,
                          const std::string& name) {
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
  forget(range);
  recording::SpaceOp op;
  if (shared_writable) {
    op.new_address =
        shared_files_.try_emplace({status.st_dev, status.st_ino}, shared_files_.size() + 1).first->second;
    op.new_length = offset;
  }
  op.kind = recording::SpaceOpKind::map_blob;
  op.address = range.start;
  op.length = range.size();
  op.prot = static_cast<uint32_t>(prot);
  op.shared = shared_writable;
  op.blob = kept.name;
  op.blob_offset = kept.offset;
  op.name = name;
  ops_.push_back(std::move(op));
  if ((prot & PROT_EXEC) != 0 && !shared_writable) patch_code(range, source, source_offset);
  return 0;
}

int LoggedSpace::simple_op(recording::SpaceOpKind kind, Range range, int error) {
  if (error != 0) return error;
  recording::SpaceOp op;
  op.kind = kind;
  op.address = range.start;
  op.length = range.size();
  ops_.push_back(std::move(op));
  return 0;
}

int LoggedSpace::unmap(Range range) {
  const int error = simple_op(recording::SpaceOpKind::unmap, range, space_.unmap(range));
  if (error == 0) forget(range);
  return error;
}

int LoggedSpace::protect(Range range, int prot) {
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
  const int error = simple_op(recording::SpaceOpKind::protect, range, space_.protect(range, prot));
  if (error != 0) return error;
  ops_.back().prot = static_cast<uint32_t>(prot);
  for (const Range& part : fresh) {
    const Mapping* mapping = space_.find(part.start);
    if (mapping == nullptr || mapping->shared) continue;
    const auto known = kept_.find({mapping->device, mapping->inode});
    if (mapping->backing == Backing::file && known != kept_.end())
      patch_code(part, open_in_store(known->second.name).fd.get(),
                 mapping->offset + (part.start - mapping->start));
    else
      patch_code(part, -1, 0);
  }
  return 0;
}

int LoggedSpace::remap(Range from, Range to) {
  if (const int error = space_.remap(from, to); error != 0) return error;
  recording::SpaceOp op;
  op.kind = recording::SpaceOpKind::remap;
  op.address = from.start;
  op.length = from.size();
  op.new_address = to.start;
  op.new_length = to.size();
  ops_.push_back(std::move(op));
  return 0;
}

int LoggedSpace::discard(Range range) {
  if (const int error = space_.discard(range); error != 0) return error;
  // Of a shared file mapping nothing is lost: the pages come back from the file, which the replay does not
  // have.
  for (uint64_t at = range.start; at < range.end;) {
    const Mapping* mapping = space_.find(at);
    const uint64_t end = std::min(mapping->end, range.end);
    if (!mapping->shared) simple_op(recording::SpaceOpKind::discard, {at, end}, 0);
    at = end;
  }
  return 0;
}

void LoggedSpace::clear() {
  space_.clear();
  ops_.clear();  // all earlier ones of this event are void
  writes_.clear();
  patches_.clear();
  recording::SpaceOp op;
  op.kind = recording::SpaceOpKind::clear;
  ops_.push_back(std::move(op));
}

// Bytes noted before a mapping went away must not be read when the event is taken.
void LoggedSpace::forget(Range range) {
  std::vector<Noted> kept;
  for (const Noted& noted : writes_) {
    const uint64_t end = noted.address + noted.size;
    if (end <= range.start || noted.address >= range.end) {
      kept.push_back(noted);
      continue;
    }
    if (noted.address < range.start) kept.push_back({noted.address, range.start - noted.address});
    if (end > range.end) kept.push_back({range.end, end - range.end});
  }
  writes_ = std::move(kept);
  std::erase_if(patches_, [&](const recording::CodePatch& patch) { return range.contains(patch.address); });
}

void LoggedSpace::written(uint64_t address, uint64_t size) {
  if (size == 0) return;
  if (!space_.accessible(address, size, 0)) return;  // the kernel wrote less than it was allowed to
  writes_.push_back({address, size});
  space_.host_wrote({address, address + size});
}

bool LoggedSpace::write(uint64_t address, const void* data, uint64_t size) {
  if (!space_.accessible(address, size, PROT_WRITE)) return false;
  return poke(address, data, size);
}

bool LoggedSpace::poke(uint64_t address, const void* data, uint64_t size) {
  if (!space_.write(address, data, size)) return false;
  if (size != 0) writes_.push_back({address, size});
  return true;
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

void LoggedSpace::file_written(int fd) {
  if (shared_files_.empty()) return;
  struct stat status {};
  if (fstat(fd, &status) != 0 || !shared_files_.contains({status.st_dev, status.st_ino})) return;
  for (const auto& [start, mapping] : space_.mappings()) {
    if (!mapping.shared || mapping.device != status.st_dev || mapping.inode != status.st_ino) continue;
    const auto size = static_cast<uint64_t>(status.st_size);
    if (size <= mapping.offset || mapping.prot == PROT_NONE) continue;
    written(start, std::min(mapping.end - start, page_up(size - mapping.offset)));
  }
}

void LoggedSpace::output(int fd, uint8_t stream, std::span<const recording::Output::Piece> pieces,
                         uint64_t length) {
  recording::Output output;
  output.stream = stream;
  output.fd = fd;
  recording::OutputDigest digest;
  for (const recording::Output::Piece& piece : pieces) {
    const uint64_t size = std::min(piece.length, length);
    if (size == 0) continue;
    output.pieces.push_back({piece.address, size});
    digest.update(guest_bytes(piece.address, size));
    length -= size;
  }
  output.digest = digest.value();
  outputs_.push_back(std::move(output));
}

void LoggedSpace::take(recording::Event& event) {
  event.space_ops = std::move(ops_);
  event.patches = std::move(patches_);
  event.outputs = std::move(outputs_);
  event.writes.clear();
  for (const Noted& noted : writes_)
    event.writes.push_back({noted.address, guest_bytes(noted.address, noted.size)});
  ops_.clear();
  patches_.clear();
  outputs_.clear();
  writes_.clear();
}

void LoggedSpace::patch_code(Range range, int fd, uint64_t file_offset) {
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
    if (space_.apply_patch(patch)) patches_.push_back(to_log(patch));
}

}  // namespace aftercheck
