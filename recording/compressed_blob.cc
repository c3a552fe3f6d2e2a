#include "recording/compressed_blob.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <vector>

#include "base/error.h"
#include "recording/blob_hash.h"
#include "recording/digest.h"
#include "recording/file_io.h"

namespace aftercheck::recording {
namespace {

constexpr std::array<char, 8> kMagic = {'A', 'F', 'T', 'C', 'K', 'B', 'L', 'B'};
constexpr uint32_t kVersion = 1;
constexpr uint64_t kPiece = 1 << 20;  // bytes of the blob in every frame but the last
// A reader refuses more: it would give memory for a few bytes of a hostile file.
constexpr uint64_t kMostTimes = 64;
constexpr int kLevel = 1;  // the guest needs the processors; higher levels save little of programs' files

struct Header {
  std::array<char, 8> magic = kMagic;
  uint32_t version = kVersion;
  uint32_t length = 32;
  uint64_t blob_length = 0;
  uint64_t checksum = 0;  // XXH3-64 of what is before

  uint64_t right_checksum() const {
    return digest64(std::as_bytes(std::span(this, 1)).first(offsetof(Header, checksum)));
  }
};
static_assert(sizeof(Header) == 32);

void put(int fd, const std::string& path, uint64_t offset, std::span<const std::byte> bytes) {
  if (const int error = write_all(fd, bytes, offset); error != 0)
    fail(ErrorKind::io, "{}: {}", path, errno_text(error));
}

// Are the frames there, before memory is given for what they claim? What is wrong with them, or null.
const char* check_frames(int fd, uint64_t blob_length, uint64_t file_size) {
  // Holes cost a hostile file nothing.
  const off_t hole = lseek(fd, 0, SEEK_HOLE);
  lseek(fd, 0, SEEK_SET);
  if (hole >= 0 && static_cast<uint64_t>(hole) < file_size) return "it has holes";
  uint64_t at = sizeof(Header);
  for (uint64_t done = 0; done < blob_length; done += kPiece) {
    uint32_t length = 0;
    if (read_file(fd, at, std::as_writable_bytes(std::span(&length, 1))) != sizeof length || length == 0 ||
        length > ZSTD_compressBound(kPiece))
      return "a frame is cut off";
    at += sizeof length + length;
  }
  if (at > file_size) return "a frame is cut off";
  return at < file_size ? "there is more behind its last frame" : nullptr;
}

}  // namespace

bool is_compressed_blob(int fd) {
  std::array<std::byte, kMagic.size()> start{};
  return read_file(fd, 0, start) == start.size() &&
         std::memcmp(start.data(), kMagic.data(), start.size()) == 0;
}

bool compress_blob(int from, int to, const std::string& path, const std::function<bool()>& stop) {
  const std::unique_ptr<ZSTD_CCtx, size_t (*)(ZSTD_CCtx*)> zstd(ZSTD_createCCtx(), ZSTD_freeCCtx);
  if (zstd == nullptr) throw std::bad_alloc();
  std::vector<std::byte> piece(kPiece), frame(sizeof(uint32_t) + ZSTD_compressBound(kPiece));
  struct stat status {};
  if (fstat(from, &status) != 0) fail(ErrorKind::io, "the blob of {}: {}", path, errno_text(errno));
  if (status.st_blocks < status.st_size / 1024) return false;  // mostly holes, which cost nothing as they are
  Header header;
  uint64_t end = sizeof header;
  for (;;) {
    if (stop()) return false;
    const size_t got = read_file(from, header.blob_length, piece);
    if (got == 0) break;
    const size_t size = ZSTD_compressCCtx(zstd.get(), frame.data() + sizeof(uint32_t),
                                          frame.size() - sizeof(uint32_t), piece.data(), got, kLevel);
    if (ZSTD_isError(size) != 0) fail(ErrorKind::internal, "{}: zstd: {}", path, ZSTD_getErrorName(size));
    const auto length = static_cast<uint32_t>(size);
    std::memcpy(frame.data(), &length, sizeof length);
    put(to, path, end, std::span(frame).first(sizeof length + size));
    end += sizeof length + size;
    header.blob_length += got;
    if (got < piece.size()) break;
  }
  header.checksum = header.right_checksum();
  put(to, path, 0, std::as_bytes(std::span(&header, 1)));
  return header.blob_length / kMostTimes <= end && end < header.blob_length / 10 * 9;
}

UnpackedBlob unpack_blob(int fd, const std::string& path) {
  const auto damaged = [&](const char* what) { fail(ErrorKind::bad_input, "{}: damaged: {}", path, what); };
  Header header;
  if (read_file(fd, 0, std::as_writable_bytes(std::span(&header, 1))) != sizeof header ||
      header.magic != kMagic || header.checksum != header.right_checksum())
    damaged("the head of a compressed blob has another checksum");
  if (header.version != kVersion || header.length != sizeof header)
    fail(ErrorKind::unsupported, "{}: a compressed blob of version {}: this reads version {}", path,
         header.version, kVersion);
  struct stat status {};
  if (fstat(fd, &status) != 0) fail(ErrorKind::io, "{}: {}", path, errno_text(errno));
  if (header.blob_length / kMostTimes > static_cast<uint64_t>(status.st_size))
    damaged("it claims more bytes than it can have");
  if (const char* what = check_frames(fd, header.blob_length, static_cast<uint64_t>(status.st_size));
      what != nullptr)
    damaged(what);
  UniqueFd memory(memfd_create("blob", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory || ftruncate(memory.get(), static_cast<off_t>(header.blob_length)) != 0)
    fail(ErrorKind::io, "memory for {}: {}", path, errno_text(errno));
  const std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> zstd(ZSTD_createDCtx(), ZSTD_freeDCtx);
  if (zstd == nullptr) throw std::bad_alloc();
  UnpackedBlob blob;
  std::vector<std::byte> frame(ZSTD_compressBound(kPiece)), piece(kPiece);
  BlobHash hash;
  uint64_t at = sizeof header;
  while (blob.size < header.blob_length) {
    uint32_t length = 0;
    if (read_file(fd, at, std::as_writable_bytes(std::span(&length, 1))) != sizeof length ||
        length > frame.size() ||  // the file changes meanwhile
        read_file(fd, at + sizeof length, std::span(frame).first(length)) != length)
      damaged("a frame is cut off");
    at += sizeof length + length;
    const uint64_t wanted = std::min(kPiece, header.blob_length - blob.size);
    if (ZSTD_decompressDCtx(zstd.get(), piece.data(), wanted, frame.data(), length) != wanted)
      damaged("a frame does not have its bytes");
    const auto bytes = std::span(piece).first(wanted);
    put(memory.get(), path, blob.size, bytes);
    hash.update(bytes);
    blob.size += wanted;
  }
  // A guest must not write what is mapped from it, if it should ever get hold of it.
  if (fcntl(memory.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK) != 0)
    fail(ErrorKind::io, "memory for {}: {}", path, errno_text(errno));
  blob.hash = hash.value();
  blob.fd = std::move(memory);
  return blob;
}

}  // namespace aftercheck::recording
