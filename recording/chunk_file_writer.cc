#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "recording/chunk_file.h"
#include "recording/file_io.h"

namespace aftercheck::recording {
namespace {

template <typename T>
void put(std::span<std::byte> header, size_t at, T value) {
  std::memcpy(header.data() + at, &value, sizeof value);
}

// Of a chunk, bytes: the tables that zstd takes for so few by itself are good enough.
constexpr uint64_t kShort = uint64_t{256} << 10;

}  // namespace

uint64_t header_checksum(std::span<const std::byte> header) {
  return XXH3_64bits(header.data(), header.size() - sizeof(uint64_t));
}

void ChunkFileWriter::FreeContext::operator()(ZSTD_CCtx_s* context) const { ZSTD_freeCCtx(context); }
void ChunkFileWriter::FreeHash::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }

ChunkFileWriter::Context ChunkFileWriter::make_context(const std::string& path,
                                                       const ChunkCompression& compression) {
  const int level = compression.level;
  if (level < ZSTD_minCLevel() || level > ZSTD_maxCLevel())  // zstd itself would quietly take the nearest
    fail(ErrorKind::usage, "zstd level {}: levels go from {} to {}", level, ZSTD_minCLevel(),
         ZSTD_maxCLevel());
  Context context(ZSTD_createCCtx());
  if (context == nullptr) fail(ErrorKind::io, "no memory for the compression of {}", path);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, level);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_windowLog, compression.window_log);
  return context;
}

ChunkFileWriter::ChunkFileWriter(std::string path, const ChunkKind& kind, const ChunkCompression& compression)
    : path_(std::move(path)),
      kind_(kind),
      compression_(compression),
      context_(make_context(path_, compression)),
      file_(create_file(path_)),
      written_(XXH3_createState()) {
  if (written_ == nullptr) throw std::bad_alloc();
  XXH3_64bits_reset(written_.get());
}

ChunkFileWriter::~ChunkFileWriter() = default;

void ChunkFileWriter::begin(uint64_t raw_length) {
  if (raw_length > kind_.max_payload)
    broken(fmt::format("a chunk has {} bytes, more than the {} a reader accepts", raw_length,
                       kind_.max_payload));
  out_.clear();
  out_.reserve_more(kind_.header_length);
  out_.grow(kind_.header_length);
  raw_length_ = raw_length;
  given_ = 0;
  ZSTD_CCtx_reset(context_.get(), ZSTD_reset_session_only);
  // To clear large tables would be most of the work for a short log.
  const bool is_short = raw_length <= kShort;
  ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_hashLog, is_short ? 0 : compression_.hash_log);
  ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_chainLog, is_short ? 0 : compression_.chain_log);
  ZSTD_CCtx_setPledgedSrcSize(context_.get(), raw_length);
}

void ChunkFileWriter::add(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  if (given_ == 0 && bytes.size() == raw_length_)
    out_.reserve_more(ZSTD_compressBound(raw_length_));  // zstd then needs no buffer of its own
  given_ += bytes.size();
  compress(bytes, given_ == raw_length_);
}

void ChunkFileWriter::compress(std::span<const std::byte> bytes, bool last) {
  ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
  for (bool done = false; !done;) {
    std::byte* room = out_.reserve_more(ZSTD_CStreamOutSize());
    ZSTD_outBuffer piece{room, out_.room(), 0};
    const size_t left =
        ZSTD_compressStream2(context_.get(), &piece, &in, last ? ZSTD_e_end : ZSTD_e_continue);
    if (ZSTD_isError(left)) broken(fmt::format("zstd: {}", ZSTD_getErrorName(left)));
    out_.grow(piece.pos);
    done = last ? left == 0 : in.pos == in.size;
  }
}

void ChunkFileWriter::seal(std::span<std::byte> header) {
  if (header.size() != kind_.header_length || given_ != raw_length_)
    fail(ErrorKind::internal, "{}: a chunk of {} bytes got {}", path_, raw_length_, given_);
  if (raw_length_ == 0) compress({}, true);
  const auto frame = out_.span().subspan(header.size());
  put(header, 0, kind_.magic);
  put(header, 8, kind_.version);
  put(header, 12, kind_.header_length);
  put(header, 16, sequence_);
  put<uint64_t>(header, kind_.compressed_length_at, frame.size());
  put<uint64_t>(header, header.size() - 16, XXH3_64bits(frame.data(), frame.size()));
  put(header, header.size() - 8, header_checksum(std::span<const std::byte>(header)));
  std::memcpy(out_.data(), header.data(), header.size());
  if (const int error = write_all(file_.get(), out_.span(), end_); error != 0) broken(errno_text(error));
  XXH3_64bits_update(written_.get(), out_.data(), out_.size());
  end_ += out_.size();
  ++sequence_;
}

void ChunkFileWriter::sync() {
  if (fsync(file_.get()) != 0) broken("fsync: " + errno_text(errno));
  const std::string folder = std::filesystem::path(path_).parent_path().string();
  const UniqueFd place(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!place || fsync(place.get()) != 0) broken("fsync of its folder: " + errno_text(errno));
}

void ChunkFileWriter::verify() const {
  // Non-blocking, or a FIFO put in its place would hang us.
  const UniqueFd found(::open(path_.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  struct stat ours {
  }, there{};
  if (!found || fstat(found.get(), &there) != 0 || fstat(file_.get(), &ours) != 0)
    fail(ErrorKind::io, "{}: what was written can't be read back: {}", path_, errno_text(errno));
  if (ours.st_dev != there.st_dev || ours.st_ino != there.st_ino)
    fail(ErrorKind::io, "{}: another file has taken the place of the one that was written", path_);
  if (static_cast<uint64_t>(there.st_size) != end_)
    fail(ErrorKind::io, "{}: it has {} bytes instead of the {} that were written: somebody changed it", path_,
         there.st_size, end_);
  const std::unique_ptr<XXH3_state_s, FreeHash> read(XXH3_createState());
  if (read == nullptr) throw std::bad_alloc();
  XXH3_64bits_reset(read.get());
  constexpr size_t kPiece = 1 << 20;
  std::vector<std::byte> piece(std::min<uint64_t>(kPiece, end_));
  for (uint64_t at = 0; at < end_;) {
    const size_t n = read_at(found.get(), path_, at, std::span(piece).first(std::min(kPiece, end_ - at)));
    if (n == 0) break;
    XXH3_64bits_update(read.get(), piece.data(), n);
    at += n;
  }
  if (XXH3_64bits_digest(read.get()) != XXH3_64bits_digest(written_.get()))
    fail(ErrorKind::io, "{}: its {} bytes are not those that were written: somebody changed it", path_, end_);
}

void ChunkFileWriter::broken(const std::string& why) {
  // Gives the file system back the partial chunk's space; a reader would stop at the same place without it.
  const bool cut = ftruncate(file_.get(), static_cast<off_t>(end_)) == 0;
  fail(ErrorKind::io, "{}: {}{}", path_, why,
       cut ? "" : fmt::format("; an incomplete chunk stays at offset {}", end_));
}

}  // namespace aftercheck::recording
