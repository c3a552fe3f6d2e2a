#include "kvm-recorder/logged_space.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <optional>
#include <span>

#include "base/error.h"
#include "machine/page_map.h"

namespace aftercheck {
namespace {

// Files up to this size are kept whole, so that the several mappings of one library share a blob; of larger
// ones only what gets mapped.
constexpr uint64_t kKeepWhole = 64 << 20;

int64_t nanoseconds(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

// Of the kernel's clock for times of files, and what a file system may round them to. A file that was changed
// longer ago has another time of change after the next one.
constexpr int64_t kTimesDiffer = 2'000'000'000;

bool changed_lately(const struct stat& status) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return nanoseconds(now) - std::max(nanoseconds(status.st_mtim), nanoseconds(status.st_ctim)) < kTimesDiffer;
}

// Keys of what processes tell each other; no padding.
struct FileAtTime {
  uint64_t is = 1;
  uint64_t device = 0, inode = 0, size = 0;
  int64_t mtime_ns = 0, ctime_ns = 0;
};
struct BlobCode {
  uint64_t is = 2;
  recording::Digest128 blob{};
  uint64_t offset = 0, size = 0, model = 0;
};

recording::SpaceOp plain_op(recording::SpaceOpKind kind, Range range) {
  recording::SpaceOp op;
  op.kind = kind;
  op.address = range.start;
  op.length = range.size();
  return op;
}

}  // namespace

LoggedSpace::LoggedSpace(AddressSpace& space, recording::Store& store, CpuModelKind model)
    : space_(space), store_(store), model_(model), live_(space, store, host_thread_) {}

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

LoggedSpace::Kept LoggedSpace::add_to_store(int fd, uint64_t offset, uint64_t length) {
  recording::Store::Blob blob;
  host_thread_.run([&] { blob = store_.add(fd, offset, length); });
  const recording::Digest128 name = blob.name;
  return {name, keep_open(std::move(blob)), 0};
}

// A library is mapped in several parts, a server maps the same page for each request. The descriptor leads to
// the very file that the store has verified; one that somebody has changed, replaced or removed since is
// opened anew, and so verified or refused by the store.
int LoggedSpace::open_in_store(const recording::Digest128& name) {
  const auto known = std::ranges::find(open_blobs_, name, &OpenBlob::name);
  if (known != open_blobs_.end()) {
    const struct stat& then = known->status;
    struct stat now {};
    if (fstat(known->fd.get(), &now) == 0 && now.st_size == then.st_size && now.st_nlink == then.st_nlink &&
        nanoseconds(now.st_mtim) == nanoseconds(then.st_mtim) &&
        nanoseconds(now.st_ctim) == nanoseconds(then.st_ctim))
      return known->fd.get();
    open_blobs_.erase(known);
  }
  recording::Store::Blob blob;
  host_thread_.run([&] { blob = store_.open(name); });
  return keep_open(std::move(blob));
}

int LoggedSpace::keep_open(recording::Store::Blob blob) {
  OpenBlob open{blob.name, std::move(blob.fd), {}};
  if (fstat(open.fd.get(), &open.status) != 0)
    fail(ErrorKind::io, "a blob of the store: {}", errno_text(errno));
  if (open_blobs_.size() == kMostOpen) open_blobs_.pop_front();
  return open_blobs_.emplace_back(std::move(open)).fd.get();
}

LoggedSpace::Kept LoggedSpace::keep(int fd, const struct stat& status, Range range, uint64_t offset) {
  const FileKey key{status.st_dev, status.st_ino};
  const KeptFile now{.name = {},
                     .mtime_ns = nanoseconds(status.st_mtim),
                     .ctime_ns = nanoseconds(status.st_ctim),
                     .size = static_cast<uint64_t>(status.st_size)};
  if (now.size > kKeepWhole) return add_to_store(fd, offset, range.size());
  const auto known = kept_.find(key);
  if (known != kept_.end() && known->second.mtime_ns == now.mtime_ns &&
      known->second.ctime_ns == now.ctime_ns && known->second.size == now.size)
    return {known->second.name, open_in_store(known->second.name), offset};
  const FileAtTime file{.device = status.st_dev,
                        .inode = status.st_ino,
                        .size = now.size,
                        .mtime_ns = now.mtime_ns,
                        .ctime_ns = now.ctime_ns};
  const bool lately = changed_lately(status);
  KeptFile entry = now;
  if (const auto told = lately ? std::nullopt : known_.find(SharedTable::bytes(file))) {
    std::memcpy(&entry.name, told->data(), sizeof entry.name);
    kept_[key] = entry;
    return {entry.name, open_in_store(entry.name), offset};
  }
  Kept kept = add_to_store(fd, 0, now.size);
  kept.offset = offset;
  entry.name = kept.name;
  kept_[key] = entry;
  if (!lately) known_.add(SharedTable::bytes(file), SharedTable::bytes(kept.name));
  return kept;
}

void LoggedSpace::store_failed(const Error& error) {
  if (error.kind() != ErrorKind::io) throw error;
  if (store_error_.empty()) store_error_ = error.what();
}

bool LoggedSpace::is_live(int fd, const struct stat& status) {
  const bool writable = (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
  // A copy of the holes would cost what the holes save.
  const bool sparse =
      static_cast<uint64_t>(status.st_blocks) * 512 + kKeepWhole < static_cast<uint64_t>(status.st_size);
  const LiveFiles::Key key = LiveFiles::key_of(status);
  return writable || sparse || live_.is_followed(key) || live_.is_shared(key) || live_.may_be_written(status);
}

LoggedSpace::Sees LoggedSpace::sees(int fd) {
  struct stat status {};
  if (group_ == nullptr || fstat(fd, &status) != 0 || !is_live(fd, status)) return Sees::nobody;
  return group_->shown_by_copy_elsewhere(LiveFiles::key_of(status)) ? Sees::copy : Sees::others;
}

LoggedSpace::Sees LoggedSpace::sees(const struct stat& status) const {
  const LiveFiles::Key key = LiveFiles::key_of(status);
  if (group_ == nullptr) return Sees::nobody;
  if (group_->shown_by_copy_elsewhere(key)) return Sees::copy;
  return group_->is_shared(key) ? Sees::others : Sees::nobody;
}

int LoggedSpace::map_file(Answer& answer, Range range, int prot, int fd, uint64_t offset,
                          const std::string& name, const FileMapping& how) {
  struct stat status {};
  if (fstat(fd, &status) != 0) return -errno;
  if (!S_ISREG(status.st_mode)) return -ENODEV;
  if (range.start >= range.end || offset % kPageSize != 0) return -EINVAL;
  if (!in_windows(range.start, range.size())) return -ENOMEM;
  const bool live = !how.program && is_live(fd, status);
  if (how.shared && group_ != nullptr) {
    if (live)
      group_->now_shared(LiveFiles::key_of(status));
    else
      group_->now_shown_by_copy(LiveFiles::key_of(status));
  }
  return live ? map_live(answer, range, prot, fd, offset, name, how, status)
              : map_copy(answer, range, prot, fd, offset, name, how, status);
}

int LoggedSpace::map_live(Answer& answer, Range range, int prot, int fd, uint64_t offset,
                          const std::string& name, const FileMapping& how, const struct stat& status) {
  uint64_t number = 0;
  try {
    if (copied_.contains(LiveFiles::key_of(status))) make_live(answer, fd, status);
    number = live_.show(answer, fd, status, {offset, offset + range.size()});
  } catch (const Error& error) {
    store_failed(error);
  }
  const int error =
      space_.map_file(range, prot, fd, offset, how.shared, name,
                      {.device = status.st_dev, .inode = status.st_ino, .number = number, .may = how.may});
  if (error != 0) return error;
  answer.forget(range);
  recording::SpaceOp op = plain_op(recording::SpaceOpKind::map_blob, range);
  op.new_address = number;
  op.new_length = offset;
  op.prot = static_cast<uint32_t>(prot);
  op.shared = how.shared;
  op.name = name;
  answer.add(std::move(op));
  if ((prot & PROT_EXEC) != 0 && !how.shared) patch_code(answer, range, fd, offset);
  return 0;
}

int LoggedSpace::map_copy(Answer& answer, Range range, int prot, int fd, uint64_t offset,
                          const std::string& name, const FileMapping& how, const struct stat& status) {
  Kept kept;
  try {
    kept = keep(fd, status, range, offset);
  } catch (const Error& error) {
    store_failed(error);
  }
  // What the store could not take is mapped from the guest's own file: the recording has ended, not the
  // guest.
  const int source = kept.fd >= 0 ? kept.fd : fd;
  const uint64_t source_offset = kept.fd >= 0 ? kept.offset : offset;
  const int error = space_.map_file(range, prot, source, source_offset, false, name,
                                    {.device = status.st_dev,
                                     .inode = status.st_ino,
                                     .contents = kept.name,
                                     .copied_from = offset - source_offset,
                                     .may = how.may});
  if (error != 0) return error;
  if (how.shared) space_.mark(range, &Mapping::copy_for_shared, true);
  copied_.insert(LiveFiles::key_of(status));
  answer.forget(range);
  recording::SpaceOp op = plain_op(recording::SpaceOpKind::map_blob, range);
  op.prot = static_cast<uint32_t>(prot);
  op.blob = kept.name;
  op.blob_offset = kept.offset;
  op.name = name;
  answer.add(std::move(op));
  if ((prot & PROT_EXEC) != 0)
    patch_code(answer, range, source, source_offset, kept.fd >= 0 ? &kept.name : nullptr);
  return 0;
}

int LoggedSpace::attach_segment(Answer& answer, Range range, int prot, const Segment& segment,
                                const std::string& name) {
  const bool attached = live_.is_attached(segment, range.size());
  const uint64_t number = live_.number_of_segment(segment);
  const int may = PROT_READ | PROT_EXEC | (prot & PROT_WRITE);
  const int error = space_.attach_segment(range, prot, segment.id, name,
                                          {.device = makedev(0, 1),  // the kernel's own tmpfs
                                           .inode = static_cast<uint64_t>(segment.id),
                                           .number = number,
                                           .may = may});
  if (error != 0) return error;
  segments_[number] = range.size();
  answer.forget(range);
  try {
    if (!attached) live_.show_segment(answer, segment, range.size(), range.start);
  } catch (const Error& store) {
    store_failed(store);
  }
  recording::SpaceOp op = plain_op(recording::SpaceOpKind::map_blob, range);
  op.new_address = number;
  op.prot = static_cast<uint32_t>(prot);
  op.shared = true;
  op.name = name;
  answer.add(std::move(op));
  return 0;
}

// ipc/shm.c, ksys_shmdt(): parts may have gone or have other neighbours, but what is left of a segment that
// was attached at `address` lies as far behind it as in the segment.
int LoggedSpace::detach_segment(Answer& answer, uint64_t address) {
  std::vector<Range> parts;
  uint64_t number = 0;
  const auto& mappings = space_.mappings();
  for (auto at = mappings.lower_bound(address); at != mappings.end(); ++at) {
    const Mapping& mapping = at->second;
    if (number != 0 && mapping.start - address >= segments_.at(number)) break;
    if (mapping.start - address != mapping.offset || !segments_.contains(mapping.number)) continue;
    if (number == 0) number = mapping.number;
    if (mapping.number == number) parts.push_back({mapping.start, mapping.end});
  }
  for (const Range& part : parts)
    if (const int error = unmap(answer, part); error != 0) return error;
  return parts.empty() ? -EINVAL : 0;
}

// Of mappings of the store's copy those pages become the file's own that the guest has not written. Code
// stays: what is executed must be in the recording.
void LoggedSpace::make_live(Answer& answer, int fd, const struct stat& status) {
  const FileKey key = LiveFiles::key_of(status);
  copied_.erase(key);
  std::vector<std::pair<Mapping, std::vector<Range>>> mappings;
  std::optional<PageMap> pages;
  for (const auto& [start, mapping] : space_.mappings()) {
    if (mapping.backing != Backing::file || mapping.number != 0 || (mapping.prot & PROT_EXEC) != 0 ||
        FileKey{mapping.device, mapping.inode} != key)
      continue;
    if (!pages) host_thread_.run([&] { pages.emplace(); });
    std::vector<Range> untouched;
    uint64_t at = start;
    pages->own_pages(mapping, mapping.extent(), [&](Range own) {
      if (own.start > at) untouched.push_back({at, own.start});
      at = own.end;
    });
    if (at < mapping.end) untouched.push_back({at, mapping.end});
    mappings.emplace_back(mapping, std::move(untouched));
  }
  if (mappings.empty()) return;
  const UniqueFd reader = live_.reader_of(fd);
  if (!reader) fail(ErrorKind::io, "descriptor {}: the program maps this file, and it can't be read", fd);
  for (const auto& [mapping, untouched] : mappings)
    for (const Range& range : untouched) {
      const uint64_t offset = mapping.offset + mapping.copied_from + (range.start - mapping.start);
      const uint64_t number = live_.show(answer, reader.get(), status, {offset, offset + range.size()});
      const int error = space_.map_file(
          range, mapping.prot, reader.get(), offset, false, mapping.name,
          {.device = mapping.device, .inode = mapping.inode, .number = number, .may = mapping.may});
      if (error != 0)
        fail(ErrorKind::io, "{}: mapping it at {:#x} again fails: {}", mapping.name, range.start,
             errno_text(-error));
      recording::SpaceOp op = plain_op(recording::SpaceOpKind::map_blob, range);
      op.new_address = number;
      op.new_length = offset;
      op.prot = static_cast<uint32_t>(mapping.prot);
      op.name = mapping.name;
      answer.add(std::move(op));
    }
}

void LoggedSpace::opened(Answer& answer, int fd, const struct stat& status, uint64_t flags) {
  if (!S_ISREG(status.st_mode) || (flags & O_PATH) != 0) return;
  const FileKey key = LiveFiles::key_of(status);
  const bool writes = (flags & O_ACCMODE) != O_RDONLY;
  if (writes) live_.opened_for_writing(key);
  if (!writes && (flags & O_TRUNC) == 0) return;
  try {
    if (copied_.contains(key)) make_live(answer, fd, status);
    live_.changed(answer, fd, status, {});
  } catch (const Error& error) {
    store_failed(error);
  }
}

void LoggedSpace::about_to_fork() {
  if (group_ == nullptr) return;
  for (const auto& [start, mapping] : space_.mappings())
    if (mapping.copy_for_shared) group_->copy_is_inherited({mapping.device, mapping.inode});
}

void LoggedSpace::file_changed(Answer& answer, int fd, Range in_file) {
  struct stat status {};
  if (!may_change_files() || fstat(fd, &status) != 0) return;
  try {
    live_.changed(answer, fd, status, in_file);
  } catch (const Error& error) {
    store_failed(error);
  }
}

void LoggedSpace::file_truncated(Answer& answer, const char* path) {
  struct stat status {};
  if (stat(path, &status) != 0) return;
  try {
    if (copied_.contains(LiveFiles::key_of(status))) {
      const UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
      if (file) make_live(answer, file.get(), status);
    }
    live_.changed(answer, -1, status, {});
  } catch (const Error& error) {
    store_failed(error);
  }
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
    if (mapping->backing == Backing::file && mapping->number == 0 && known != kept_.end())
      patch_code(answer, part, open_in_store(known->second.name),
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
  if (to.size() > from.size()) show_grown(answer, {to.start + from.size(), to.end});
  return 0;
}

void LoggedSpace::show_grown(Answer& answer, Range pages) {
  const Mapping* mapping = space_.find(pages.start);
  if (mapping == nullptr || mapping->number == 0) return;
  try {
    live_.grown(answer, *mapping, pages);
  } catch (const Error& error) {
    store_failed(error);
  }
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
      show_grown(answer, {at, end});
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

std::vector<CodePatch> LoggedSpace::find_patches(const CodeRange& code, const recording::Digest128* blob) {
  if (blob == nullptr) return find_trapped_instructions(code);
  const BlobCode key{.blob = *blob,
                     .offset = code.file_offset,
                     .size = code.bytes.size(),
                     .model = static_cast<uint64_t>(code.model)};
  std::vector<CodePatch> found;
  if (const auto told = known_.find(SharedTable::bytes(key))) {
    const auto* const first = reinterpret_cast<const CodePatch*>(told->data());
    found.assign(first, first + told->size() / sizeof(CodePatch));
    for (CodePatch& patch : found) patch.address += code.address;
    return found;
  }
  found = find_trapped_instructions(code);
  std::vector<CodePatch> relative = found;
  for (CodePatch& patch : relative) patch.address -= code.address;
  known_.add(SharedTable::bytes(key), std::as_bytes(std::span(relative)));
  return found;
}

void LoggedSpace::patch_code(Answer& answer, Range range, int fd, uint64_t file_offset,
                             const recording::Digest128* blob) {
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
                       .file_offset = file_offset,
                       .model = model_};
  const std::vector<CodePatch> found = find_patches(code, blob);
  const std::vector<uint64_t> applied = space_.apply_patches(found);
  size_t next = 0;
  for (const CodePatch& patch : found)
    if (next < applied.size() && applied[next] == patch.address) {
      answer.add(patch);
      ++next;
    }
}

}  // namespace aftercheck
