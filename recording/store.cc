#include "recording/store.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <deque>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/shared_table.h"
#include "recording/blob_compressor.h"
#include "recording/blob_hash.h"
#include "recording/compressed_blob.h"

namespace aftercheck::recording {
namespace {

constexpr size_t kBufferBytes = 256 << 10;
constexpr uint64_t kWorthCompressing = 4096;
// FICLONERANGE (ioctl_ficlonerange(2)) wants block-aligned ranges; no supported file system has smaller
// blocks, and one with larger blocks refuses, which is handled.
constexpr uint64_t kCloneAlignment = 4096;

// A file that goes away unless it is kept.
struct TemporaryFile {
  std::string path;
  UniqueFd fd;
  TemporaryFile() = default;
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    if (!path.empty()) unlink(path.c_str());
  }
};

void create_temporary(const std::filesystem::path& directory, TemporaryFile& file) {
  for (;;) {
    const std::string path = (directory / temporary_name()).string();
    const int fd = ::open(path.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0444);
    if (fd < 0 && errno == EEXIST) continue;
    if (fd < 0) fail(ErrorKind::io, "{}: {}", path, errno_text(errno));
    file.path = path;
    file.fd = move_out_of_guest_reach(UniqueFd(fd));
    return;
  }
}

uint64_t file_size(int fd, const std::string& path) {
  struct stat status {};
  if (fstat(fd, &status) != 0) fail(ErrorKind::io, "{}: {}", path, errno_text(errno));
  return static_cast<uint64_t>(status.st_size);
}

// True when the copy holds the range, or as much of it as the file has.
bool clone_range(int from, uint64_t offset, uint64_t length, const TemporaryFile& to) {
  struct stat status {};
  if (fstat(from, &status) != 0 || !S_ISREG(status.st_mode) || offset % kCloneAlignment != 0) return false;
  const auto size = static_cast<uint64_t>(status.st_size);
  if (offset >= size) return false;
  const bool to_end = length >= size - offset;
  if (!to_end && length % kCloneAlignment != 0) return false;
  file_clone_range range{};
  range.src_fd = from;
  range.src_offset = offset;
  range.src_length = to_end ? 0 : length;  // 0: up to the end, wherever that is by now
  if (ioctl(to.fd.get(), FICLONERANGE, &range) != 0) return false;
  if (file_size(to.fd.get(), to.path) > length && ftruncate(to.fd.get(), static_cast<off_t>(length)) != 0)
    fail(ErrorKind::io, "{}: {}", to.path, errno_text(errno));
  return true;
}

void write_piece(const TemporaryFile& to, const std::byte* bytes, size_t size, uint64_t offset) {
  while (size != 0) {
    const ssize_t n = pwrite(to.fd.get(), bytes, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(ErrorKind::io, "{}: {}", to.path, errno_text(n < 0 ? errno : ENOSPC));
    bytes += n;
    size -= static_cast<size_t>(n);
    offset += static_cast<uint64_t>(n);
  }
}

std::unique_ptr<std::byte[]> buffer_for(uint64_t length) {
  return std::make_unique_for_overwrite<std::byte[]>(std::min<uint64_t>(length, kBufferBytes));
}

// By hand, because the copy must be hashed, and those are the bytes that are at hand; returns their number.
// Special files and files of procfs have no size that could be trusted: reading meets the true end.
uint64_t copy_and_hash(int from, uint64_t offset, uint64_t length, const TemporaryFile& to, BlobHash& hash) {
  const auto buffer = buffer_for(length);
  uint64_t done = 0;
  while (done < length) {
    const auto piece = static_cast<size_t>(std::min<uint64_t>(length - done, kBufferBytes));
    const ssize_t n = pread(from, buffer.get(), piece, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      fail(ErrorKind::io, "{}: reading offset {} of the file to keep: {}", to.path, offset + done,
           errno_text(errno));
    if (n == 0) break;
    write_piece(to, buffer.get(), static_cast<size_t>(n), done);
    hash.update({buffer.get(), static_cast<size_t>(n)});
    done += static_cast<uint64_t>(n);
  }
  return done;
}

// Hashes all of `fd` with a fixed buffer; `size` gets the number of bytes.
Digest128 hash_file(int fd, const std::string& path, uint64_t& size) {
  const auto buffer = std::make_unique_for_overwrite<std::byte[]>(kBufferBytes);
  BlobHash hash;
  size = 0;
  for (;;) {
    const ssize_t n = pread(fd, buffer.get(), kBufferBytes, static_cast<off_t>(size));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(ErrorKind::io, "{}: offset {}: {}", path, size, errno_text(errno));
    if (n == 0) break;
    hash.update({buffer.get(), static_cast<size_t>(n)});
    size += static_cast<uint64_t>(n);
  }
  return hash.value();
}

// Which files were found whole, in this process or another one of the recording or replay. A blob that is
// replaced or changed is another file by this key.
struct FileKey {
  uint64_t device = 0, inode = 0, size = 0;
  int64_t changed_s = 0, changed_ns = 0;
  Digest128 name{};
  friend bool operator==(const FileKey&, const FileKey&) = default;
};

FileKey file_key(const struct stat& status, const Digest128& name) {
  return {status.st_dev,         status.st_ino,          static_cast<uint64_t>(status.st_size),
          status.st_mtim.tv_sec, status.st_mtim.tv_nsec, name};
}

class VerifiedFiles {
 public:
  bool contains(const FileKey& key) const { return keys_.find(SharedTable::bytes(key)).has_value(); }
  void add(const FileKey& key) { keys_.add(SharedTable::bytes(key), {}); }

 private:
  SharedTable keys_{size_t{4} << 20};
};

VerifiedFiles& verified_files() {
  static VerifiedFiles files;
  return files;
}

// Compressed blobs that were unpacked last: a library is mapped in several parts, one after the other.
class UnpackedBlobs {
 public:
  // Nothing where it is not known. The result is a descriptor of its own.
  std::optional<Store::Blob> find(const FileKey& key) {
    const std::lock_guard lock(mutex_);
    for (const auto& [known, blob] : blobs_)
      if (known == key) return copy_of(blob);
    return std::nullopt;
  }
  // The descriptor that stays here is the one given.
  Store::Blob add(const FileKey& key, Store::Blob blob) {
    const std::lock_guard lock(mutex_);
    if (blobs_.size() == kMost) blobs_.pop_front();
    return copy_of(blobs_.emplace_back(key, std::move(blob)).second);
  }

 private:
  static constexpr size_t kMost = 4;  // each holds one of the few descriptors that a recorder has
  std::mutex mutex_;
  std::deque<std::pair<FileKey, Store::Blob>> blobs_;

  static Store::Blob copy_of(const Store::Blob& blob) {
    UniqueFd fd(fcntl(blob.fd.get(), F_DUPFD_CLOEXEC, 0));
    if (!fd) fail(ErrorKind::io, "a blob in memory: {}", errno_text(errno));
    return {blob.name, std::move(fd), blob.size};
  }
};

UnpackedBlobs& unpacked_blobs() {
  static UnpackedBlobs blobs;
  return blobs;
}

UniqueFd open_read_only(const std::string& path) {
  // Non-blocking, or a FIFO put in the store's place would hang the reader.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd >= 0) return UniqueFd(fd);
  const int error = errno;
  std::error_code no_link;
  const std::filesystem::path target = std::filesystem::read_symlink(path, no_link);
  if (!no_link)
    fail(ErrorKind::bad_input, "{}: a link to {}, which can't be opened: {}", path, target.string(),
         errno_text(error));
  if (error == ENOENT) fail(ErrorKind::bad_input, "{}: missing from the recording's store", path);
  fail(ErrorKind::io, "{}: {}", path, errno_text(error));
}

constexpr std::string_view kTemporary = "new-";

// The same bytes, and not only the same hash: others may have put the one into a store that is shared.
bool same_bytes(int one, int other) {
  const auto buffer = std::make_unique_for_overwrite<std::byte[]>(2 * kBufferBytes);
  const std::span<std::byte> first(buffer.get(), kBufferBytes),
      second(buffer.get() + kBufferBytes, kBufferBytes);
  for (uint64_t at = 0;; at += kBufferBytes) {
    const size_t got = read_file(one, at, first);
    if (read_file(other, at, second) != got || std::memcmp(first.data(), second.data(), got) != 0)
      return false;
    if (got < kBufferBytes) return true;
  }
}

// A blob must outlive a power loss together with the events that name it. The compressor, where there is one,
// takes care of that in its own time.
void bring_blob_to_disk(BlobCompressor* compressor, const Digest128& name, uint64_t size, int file,
                        const std::string& path) {
  if (compressor != nullptr && compressor->add(name, size >= kWorthCompressing)) return;
  if (fdatasync(file) != 0) fail(ErrorKind::io, "{}: {}", path, errno_text(errno));
}

}  // namespace

// Another process's, or an earlier life's, unfinished copies must not be hit: open(O_EXCL) decides, this only
// avoids needless tries.
std::string temporary_name() {
  static std::atomic<uint64_t> counter = 0;
  return fmt::format("{}{}-{}", kTemporary, getpid(), counter++);
}

bool may_be_in_store(std::string_view name) {
  return name.starts_with(kTemporary) ||
         (name.size() == 2 * sizeof(Digest128) &&
          name.find_first_not_of("0123456789abcdef") == std::string_view::npos);
}

std::string to_hex(const Digest128& digest) {
  std::string text;
  for (const uint8_t byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

Store::Store(const std::filesystem::path& directory, bool create)
    : directory_(directory / "store"), beside_guest_(create) {
  if (create && mkdir(directory_.c_str(), 0755) != 0 && errno != EEXIST)
    fail(ErrorKind::io, "{}: {}", directory_.string(), errno_text(errno));
}

Store::Blob Store::add(int fd, uint64_t offset, uint64_t length) {
  constexpr uint64_t kMaxOffset = std::numeric_limits<off_t>::max();
  if (offset > kMaxOffset) fail(ErrorKind::internal, "store: offset {:#x} is no file offset", offset);
  length = std::min(length, kMaxOffset - offset);
  TemporaryFile copy;
  create_temporary(directory_, copy);
  Blob blob;
  if (clone_range(fd, offset, length, copy)) {
    blob.name = hash_file(copy.fd.get(), copy.path, blob.size);
  } else {
    BlobHash hash;
    blob.size = copy_and_hash(fd, offset, length, copy, hash);
    blob.name = hash.value();
  }
  const std::string path = (directory_ / to_hex(blob.name)).string();
  if (access(path.c_str(), F_OK) == 0) {
    try {
      Blob known = open(blob.name);
      if (same_bytes(known.fd.get(), copy.fd.get())) return known;
    } catch (const Error&) {
      // It is there but damaged: the copy takes its place.
    }
  }
  blob.fd = move_out_of_guest_reach(open_read_only(copy.path));
  if (rename(copy.path.c_str(), path.c_str()) != 0) fail(ErrorKind::io, "{}: {}", path, errno_text(errno));
  copy.path.clear();
  struct stat status {};
  if (fstat(blob.fd.get(), &status) == 0) verified_files().add(file_key(status, blob.name));
  bring_blob_to_disk(compressor().get(), blob.name, blob.size, copy.fd.get(), path);
  return blob;
}

void Store::compress(std::chrono::milliseconds patience) {
  compressor_ = std::make_shared<BlobCompressor>(directory_, patience);
}

void Store::forked(std::chrono::milliseconds patience) {
  if (!compressor_ && !patience_when_made_) return;
  // The copy's lock may be held, and its thread never ends: it is left as it is.
  static_cast<void>(std::make_unique<std::shared_ptr<BlobCompressor>>(std::move(compressor_)).release());
  compressor_.reset();
  patience_when_made_ = patience;
}

const std::shared_ptr<BlobCompressor>& Store::compressor() const {
  if (patience_when_made_)
    compressor_ =
        std::make_shared<BlobCompressor>(directory_, *std::exchange(patience_when_made_, std::nullopt));
  return compressor_;
}

void Store::sync() {
  if (compressor_) compressor_->sync();
}

void Store::bring_to_disk(const std::filesystem::path& path) {
  if (compressor() && compressor()->add_file(path)) return;
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd || fsync(fd.get()) != 0) fail(ErrorKind::io, "{}: fsync: {}", path.string(), errno_text(errno));
}

void Store::finish() {
  if (compressor_) compressor_->finish();
}

struct Store::NewBlob::Impl {
  std::filesystem::path directory;
  TemporaryFile file;
  std::shared_ptr<BlobCompressor> compressor;
  BlobHash hash;
  uint64_t size = 0;
};

Store::NewBlob::NewBlob(const Store& store) : impl_(std::make_unique<Impl>()) {
  impl_->directory = store.directory_;
  impl_->compressor = store.compressor();
  create_temporary(store.directory_, impl_->file);
}

Store::NewBlob::~NewBlob() = default;

void Store::NewBlob::append(std::span<const std::byte> bytes) {
  write_piece(impl_->file, bytes.data(), bytes.size(), impl_->size);
  impl_->hash.update(bytes);
  impl_->size += bytes.size();
}

uint64_t Store::NewBlob::size() const { return impl_->size; }

Digest128 Store::NewBlob::keep() {
  const Digest128 name = impl_->hash.value();
  const std::string path = (impl_->directory / to_hex(name)).string();
  if (rename(impl_->file.path.c_str(), path.c_str()) != 0)
    fail(ErrorKind::io, "{}: {}", path, errno_text(errno));
  impl_->file.path.clear();
  bring_blob_to_disk(impl_->compressor.get(), name, impl_->size, impl_->file.fd.get(), path);
  return name;
}

bool Store::shared() const {
  std::error_code error;
  return std::filesystem::is_symlink(directory_, error);
}

bool Store::remove(const Digest128& name) {
  if (shared()) return false;
  const std::string path = (directory_ / to_hex(name)).string();
  if (unlink(path.c_str()) == 0) return true;
  if (errno != ENOENT) fail(ErrorKind::io, "{}: {}", path, errno_text(errno));
  return false;
}

Store::Blob Store::open_as_it_lies(const Digest128& name) const {
  const std::string path = (directory_ / to_hex(name)).string();
  Blob blob;
  blob.name = name;
  blob.fd = open_read_only(path);
  // Replays and reports may hold more files than there is room for among the recorder's own descriptors.
  if (beside_guest_) blob.fd = move_out_of_guest_reach(std::move(blob.fd));
  struct stat status {};
  if (fstat(blob.fd.get(), &status) != 0) fail(ErrorKind::io, "{}: {}", path, errno_text(errno));
  if (!S_ISREG(status.st_mode)) fail(ErrorKind::bad_input, "{}: not a regular file", path);
  blob.size = static_cast<uint64_t>(status.st_size);
  return blob;
}

Store::Blob Store::open_unread(const Digest128& name) const {
  Blob blob = open_as_it_lies(name);
  if (std::optional<Blob> unpacked = unpack(blob)) return std::move(*unpacked);
  return blob;
}

// Nothing where the blob is not compressed: its own bytes may begin as if it were.
std::optional<Store::Blob> Store::unpack(const Blob& blob) const {
  if (!is_compressed_blob(blob.fd.get())) return std::nullopt;
  const std::string path = (directory_ / to_hex(blob.name)).string();
  struct stat status {};
  if (fstat(blob.fd.get(), &status) != 0) fail(ErrorKind::io, "{}: {}", path, errno_text(errno));
  const FileKey key = file_key(status, blob.name);
  const auto kept_apart = [&](UniqueFd fd) {
    return beside_guest_ ? move_out_of_guest_reach(std::move(fd)) : std::move(fd);
  };
  if (std::optional<Blob> known = unpacked_blobs().find(key)) {
    known->fd = kept_apart(std::move(known->fd));
    return known;
  }
  uint64_t size = 0;
  try {
    UnpackedBlob unpacked = unpack_blob(blob.fd.get(), path);
    if (unpacked.hash == blob.name) {
      Blob copy = unpacked_blobs().add(key, {blob.name, kept_apart(std::move(unpacked.fd)), unpacked.size});
      copy.fd = kept_apart(std::move(copy.fd));
      return copy;
    }
    if (hash_file(blob.fd.get(), path, size) == blob.name) return std::nullopt;
    fail(ErrorKind::bad_input, "{}: damaged: its {} bytes have the hash {}", path, unpacked.size,
         to_hex(unpacked.hash));
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::io || hash_file(blob.fd.get(), path, size) != blob.name) throw;
    return std::nullopt;
  }
}

Store::Blob Store::open(const Digest128& name) {
  const std::string path = (directory_ / to_hex(name)).string();
  Blob blob = open_as_it_lies(name);
  if (std::optional<Blob> unpacked = unpack(blob)) return std::move(*unpacked);
  struct stat status {};
  if (fstat(blob.fd.get(), &status) != 0) fail(ErrorKind::io, "{}: {}", path, errno_text(errno));
  const FileKey key = file_key(status, name);
  if (verified_files().contains(key)) return blob;
  uint64_t size = 0;
  const Digest128 found = hash_file(blob.fd.get(), path, size);
  if (found != name || size != blob.size)
    fail(ErrorKind::bad_input, "{}: damaged: its {} bytes have the hash {}", path, size, to_hex(found));
  verified_files().add(key);
  return blob;
}

uint64_t Store::size() const {
  uint64_t total = 0;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(directory_, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    std::error_code vanished;
    const auto size = it->file_size(vanished);
    if (!vanished) total += size;
  }
  if (error) fail(ErrorKind::io, "{}: {}", directory_.string(), error.message());
  return total;
}

}  // namespace aftercheck::recording
