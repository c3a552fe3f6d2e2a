#include "kvm-recorder/live_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "base/fd.h"

namespace aftercheck {
namespace {

// Files up to this size are kept whole, so that mappings may come and grow without more in the log.
constexpr uint64_t kKeepWhole = 64 << 20;
// So much of a change goes into the log itself, which holds 16 MiB of such for an event; more goes to a blob.
constexpr uint64_t kInline = 1 << 20;
constexpr uint64_t kPiece = 1 << 20;
// Holes shorter than this are written as the zeros that they are.
constexpr uint64_t kWorthSkipping = 64 << 10;

int64_t nanoseconds(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

bool can_write(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  return flags >= 0 && (flags & O_PATH) == 0 && (flags & O_ACCMODE) != O_RDONLY;
}

// Does a descriptor of this process that can write lead to the file?
bool has_writer(const LiveFiles::Key& key) {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir("/proc/self/fd"), closedir);
  if (directory == nullptr) return true;  // nobody can say
  while (const dirent* entry = readdir(directory.get())) {
    int fd = -1;
    const char* end = entry->d_name + std::strlen(entry->d_name);
    if (std::from_chars(entry->d_name, end, fd).ptr != end || is_own_fd(fd)) continue;
    struct stat status {};
    if (fstat(fd, &status) == 0 && LiveFiles::key_of(status) == key && can_write(fd)) return true;
  }
  return false;
}

recording::SpaceOp file_op(recording::SpaceOpKind kind, uint64_t number, uint64_t offset_or_size) {
  recording::SpaceOp op;
  op.kind = kind;
  op.new_address = number;
  op.new_length = offset_or_size;
  return op;
}

}  // namespace

// Where a file's contents are read.
struct LiveFiles::Source {
  int fd = -1;
  bool may_seek = false;  // the descriptor's position is our own
  // Without a descriptor: guest memory that shows the file.
  const AddressSpace* space = nullptr;
  uint64_t address = 0;  // of the file's first byte, if it were mapped
  bool segment = false;  // what is mapped there is a System V segment

  // What can't be read is zero: the file has become shorter.
  void read(uint64_t offset, std::span<std::byte> bytes) const {
    size_t got = 0;
    if (fd >= 0)
      got = read_file(fd, offset, bytes);
    else if (space->read(address + offset, bytes.data(), bytes.size()))
      got = bytes.size();
    std::fill(bytes.begin() + static_cast<long>(got), bytes.end(), std::byte{0});
  }

  // The parts that are no holes, and holes that are not worth a word.
  std::vector<Range> data(Range range) const {
    std::vector<Range> parts;
    if (segment) return touched(range);
    if (fd < 0 || !may_seek || range.size() < kWorthSkipping) return {range};
    for (uint64_t at = range.start; at < range.end;) {
      const off_t first = lseek(fd, static_cast<off_t>(at), SEEK_DATA);
      if (first < 0 && errno == ENXIO) break;
      if (first < 0) return {range};
      const off_t last = lseek(fd, first, SEEK_HOLE);
      if (last < 0) return {range};
      const Range part{std::max(static_cast<uint64_t>(first), range.start),
                       std::min(static_cast<uint64_t>(last), range.end)};
      if (part.start >= range.end) break;
      if (!parts.empty() && part.start - parts.back().end < kWorthSkipping)
        parts.back().end = part.end;
      else
        parts.push_back(part);
      at = static_cast<uint64_t>(last);
    }
    return parts;
  }

  // Of a segment: what is more than zeros that nobody has looked at. The kernel doesn't tell pages in swap
  // from those that never were.
  std::vector<Range> touched(Range range) const {
    shm_info all{};
    if (shmctl(0, SHM_INFO, reinterpret_cast<shmid_ds*>(&all)) < 0 || all.shm_swp != 0) return {range};
    std::vector<unsigned char> there(range.size() / kPageSize);
    if (mincore(reinterpret_cast<void*>(address + range.start), range.size(), there.data()) != 0)
      return {range};
    std::vector<Range> parts;
    for (uint64_t page = 0; page < there.size(); ++page) {
      if ((there[page] & 1) == 0) continue;
      const Range part{range.start + page * kPageSize, range.start + (page + 1) * kPageSize};
      if (!parts.empty() && part.start - parts.back().end < kWorthSkipping)
        parts.back().end = part.end;
      else
        parts.push_back(part);
    }
    return parts;
  }
};

UniqueFd LiveFiles::reader_of(int fd) {
  UniqueFd reader;
  const std::string link = fmt::format("/proc/self/fd/{}", fd);
  host_thread_.run([&] {
    UniqueFd opened(open(link.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (opened) reader = move_out_of_guest_reach(std::move(opened));
  });
  return reader;
}

bool LiveFiles::may_be_written(const struct stat& status) {
  // A file without a name came by other ways than open: memfd_create, or another process.
  if (status.st_nlink != 0 && !written_.contains(key_of(status))) return false;
  bool found = false;
  host_thread_.run([&] { found = has_writer(key_of(status)); });
  return found;
}

bool LiveFiles::is_followed(const Key& key) const {
  const auto file = files_.find(key);
  return file != files_.end() && file->second.followed;
}

std::vector<Range> LiveFiles::mapped_parts(uint64_t number) const {
  std::vector<Range> parts;
  for (const auto& [start, mapping] : space_.mappings())
    if (mapping.number == number) parts.push_back({mapping.offset, mapping.offset + mapping.extent()});
  std::ranges::sort(parts, {}, &Range::start);
  std::vector<Range> joined;
  for (const Range& part : parts) {
    if (joined.empty() || joined.back().end < part.start)
      joined.push_back(part);
    else
      joined.back().end = std::max(joined.back().end, part.end);
  }
  return joined;
}

LiveFiles::File& LiveFiles::file(const Key& key, bool& fresh) {
  if (const auto known = files_.find(key); known != files_.end()) {
    fresh = false;
    return known->second;
  }
  fresh = true;
  const uint64_t number = group_ != nullptr ? group_->number_of(key, fresh) : files_.size() + 1;
  return files_.try_emplace(key, File{.number = number}).first->second;
}

void LiveFiles::follow(File& file, bool followed) {
  if (file.followed != followed) followed_ += followed ? 1 : -1;
  file.followed = followed;
  if (!followed) file.whole = file.sized = false;
}

void LiveFiles::note_times(File& file, const struct stat& status) {
  file.mtime_ns = nanoseconds(status.st_mtim);
  file.ctime_ns = nanoseconds(status.st_ctim);
}

void LiveFiles::resize(Answer& answer, File& file, uint64_t size) {
  if (file.sized && file.size == size) return;
  answer.add(file_op(recording::SpaceOpKind::resize_file, file.number, size));
  space_.file_resized(file.number, size);
  file.size = size;
  file.sized = true;
}

void LiveFiles::fill_zeros(Answer& answer, const File& file, Range in_file) {
  recording::SpaceOp op = file_op(recording::SpaceOpKind::fill_file, file.number, in_file.start);
  op.length = in_file.size();
  answer.add(std::move(op));
}

void LiveFiles::fill_data(Answer& answer, const File& file, const Source& source,
                          std::span<const Range> parts) {
  uint64_t total = 0;
  for (const Range& part : parts) total += part.size();
  std::vector<recording::SpaceOp> ops;
  for (const Range& part : parts) {
    ops.push_back(file_op(recording::SpaceOpKind::fill_file, file.number, part.start));
    ops.back().length = part.size();
  }
  if (total <= kInline) {
    for (recording::SpaceOp& op : ops) {
      op.bytes.resize(op.length);
      source.read(op.new_length, op.bytes);
    }
  } else {
    host_thread_.run([&] {
      recording::Store::NewBlob blob(store_);
      std::vector<std::byte> buffer(kPiece);
      for (recording::SpaceOp& op : ops) {
        op.blob_offset = blob.size();
        for (uint64_t done = 0; done < op.length;) {
          const auto piece = std::span(buffer).first(std::min(kPiece, op.length - done));
          source.read(op.new_length + done, piece);
          blob.append(piece);
          done += piece.size();
        }
      }
      const recording::Digest128 name = blob.keep();
      for (recording::SpaceOp& op : ops) op.blob = name;
    });
  }
  for (recording::SpaceOp& op : ops) answer.add(std::move(op));
}

// Fresh: the log has nothing of it yet, so holes need not be told.
void LiveFiles::fill(Answer& answer, const File& file, const Source& source, Range in_file, bool fresh) {
  in_file.end = std::min(in_file.end, file.size);
  if (in_file.start >= in_file.end) return;
  const std::vector<Range> parts = source.data(in_file);
  if (!fresh) {
    uint64_t at = in_file.start;
    for (const Range& part : parts) {
      if (part.start > at) fill_zeros(answer, file, {at, part.start});
      at = part.end;
    }
    if (at < in_file.end) fill_zeros(answer, file, {at, in_file.end});
  }
  if (!parts.empty()) fill_data(answer, file, source, parts);
  space_.file_written(file.number, in_file.start, in_file.size());
}

uint64_t LiveFiles::show(Answer& answer, int fd, const struct stat& status, Range in_file) {
  bool fresh = false;
  File& file = this->file(key_of(status), fresh);
  const auto size = static_cast<uint64_t>(status.st_size);
  const bool known = file.whole && file.size == size && file.mtime_ns == nanoseconds(status.st_mtim) &&
                     file.ctime_ns == nanoseconds(status.st_ctim);
  follow(file, true);
  resize(answer, file, size);
  if (known) return file.number;
  file.whole = size <= kKeepWhole;
  const UniqueFd reader = reader_of(fd);
  fill(answer, file, {.fd = reader ? reader.get() : fd, .may_seek = static_cast<bool>(reader)},
       file.whole ? Range{0, size} : in_file, fresh);
  note_times(file, status);
  return file.number;
}

namespace {

// No file's: devices have 32 bits.
LiveFiles::Key key_of_segment(const Segment& segment) {
  return {UINT64_MAX - segment.ipc_namespace, static_cast<uint64_t>(segment.id)};
}

}  // namespace

uint64_t LiveFiles::number_of_segment(const Segment& segment) {
  bool fresh = false;
  return file(key_of_segment(segment), fresh).number;
}

bool LiveFiles::is_mapped(const Segment& segment) const {
  const auto entry = files_.find(key_of_segment(segment));
  return entry != files_.end() && !mapped_parts(entry->second.number).empty();
}

bool LiveFiles::is_attached(const Segment& segment, uint64_t size) const {
  const auto entry = files_.find(key_of_segment(segment));
  if (entry == files_.end() || !entry->second.followed) return false;
  const std::vector<Range> parts = mapped_parts(entry->second.number);
  return parts.size() == 1 && parts.front() == Range{0, size};
}

void LiveFiles::show_segment(Answer& answer, const Segment& segment, uint64_t size, uint64_t address) {
  File& file = files_.at(key_of_segment(segment));
  follow(file, true);
  resize(answer, file, size);
  fill(answer, file, {.space = &space_, .address = address, .segment = true}, {0, size}, false);
}

void LiveFiles::changed(Answer& answer, int fd, const struct stat& status, Range in_file) {
  // What others have mapped is in their replays' memory, too.
  const bool shared = is_shared(key_of(status));
  if (!shared && !is_followed(key_of(status))) return;
  bool fresh = false;
  File& file = this->file(key_of(status), fresh);
  const std::vector<Range> mapped = mapped_parts(file.number);
  if (mapped.empty() && !shared) return follow(file, false);
  const auto size = static_cast<uint64_t>(status.st_size);
  const uint64_t old_size = file.size;
  resize(answer, file, size);
  note_times(file, status);
  if (size > kKeepWhole) file.whole = false;
  // The kernel clears what is behind the new end in its page, and may clear what was behind the old one.
  if (size < old_size && size % kPageSize != 0) fill_zeros(answer, file, {size, page_up(size)});
  const Range tail{old_size, std::min(page_up(old_size), size)};
  std::vector<Range> parts;
  for (const Range& part : {in_file, tail}) {
    if (part.start >= part.end) continue;
    const bool all = file.whole || shared;
    if (all) parts.push_back(part);
    for (const Range& shown : mapped)
      if (const Range both{std::max(part.start, shown.start), std::min(part.end, shown.end)};
          !all && both.start < both.end)
        parts.push_back(both);
  }
  if (parts.empty() || fd < 0) return;
  UniqueFd reader;
  const bool can_read = (fcntl(fd, F_GETFL) & O_ACCMODE) != O_WRONLY;
  if (!can_read || in_file.size() > kInline) reader = reader_of(fd);
  if (!can_read && !reader)
    fail(ErrorKind::io, "descriptor {}: the program maps the file and writes to it, and it can't be read: {}",
         fd, errno_text(errno));
  const Source source{.fd = reader ? reader.get() : fd, .may_seek = static_cast<bool>(reader)};
  for (const Range& part : parts) fill(answer, file, source, part, false);
}

void LiveFiles::grown(Answer& answer, const Mapping& mapping, Range pages) {
  for (const auto& [key, file] : files_) {
    if (file.number != mapping.number || file.whole) continue;
    const uint64_t first = mapping.offset + (pages.start - mapping.start);
    fill(answer, file, {.space = &space_, .address = pages.start - first}, {first, first + pages.size()},
         false);
    return;
  }
}

void LiveFiles::forget_unmapped() {
  for (auto& [key, file] : files_) {
    file.whole = false;
    if (file.followed && mapped_parts(file.number).empty()) follow(file, false);
  }
}

}  // namespace aftercheck
