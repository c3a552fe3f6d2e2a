// Files made of chunks, which the events, the PT traces and whatever else a recording keeps have in common:
// each chunk is a header with checksums and a zstd frame that decodes by itself; chunks are appended and
// never rewritten, so that a file whose writer was killed is good up to its last whole chunk. What the
// payload means, and fields of a header beyond these, is the user's. docs/recording-format.md is the
// description for others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "recording/byte_buffer.h"

struct XXH3_state_s;
struct ZSTD_CCtx_s;

namespace aftercheck::recording {

// The header of a kind that needs no fields of its own. Written as it lies in memory: little-endian, as
// x86-64 is. Other headers have more fields between these: the first four and the last two stay where they
// are, counted from the start and from the end.
struct ChunkHeader {
  uint64_t magic = 0;
  uint32_t version = 0;
  uint32_t header_length = sizeof(ChunkHeader);
  uint64_t sequence = 0;           // of the chunk, from 0 without gaps
  uint64_t raw_length = 0;         // of the payload, decompressed
  uint64_t compressed_length = 0;  // of the zstd frame that follows the header
  uint64_t payload_checksum = 0;   // XXH3-64 of the zstd frame
  uint64_t header_checksum = 0;    // XXH3-64 of the header up to here; always its last 8 bytes
};

// A header longer than this is damage, not a newer version.
constexpr uint32_t kMaxHeaderLength = 4096;

// What distinguishes the files of one kind. Texts are parts of messages and live as long as the program.
struct ChunkKind {
  uint64_t magic = 0;
  uint32_t version = 0;
  uint32_t header_length = 0;
  uint32_t compressed_length_at = 0;  // place of this field in the header
  uint64_t max_payload = 0;           // bytes; no reader accepts more
  const char* version_name = "";      // "format version"
  const char* not_ours = "";          // said after the path when the magic at the file's start is another
};

// A kind whose chunks have the header `Header`.
template <typename Header>
constexpr ChunkKind chunk_kind(uint64_t magic, uint32_t version, uint64_t max_payload,
                               const char* version_name, const char* not_ours) {
  static_assert(offsetof(Header, magic) == 0 && offsetof(Header, version) == 8 &&
                offsetof(Header, header_length) == 12 && offsetof(Header, sequence) == 16);
  static_assert(offsetof(Header, payload_checksum) == sizeof(Header) - 16 &&
                offsetof(Header, header_checksum) == sizeof(Header) - 8);
  return {magic,       version,      sizeof(Header), offsetof(Header, compressed_length),
          max_payload, version_name, not_ours};
}

// The checksum that the header must have: of all that comes before it.
uint64_t header_checksum(std::span<const std::byte> header);
template <typename Header>
uint64_t header_checksum(const Header& header) {
  return header_checksum(std::as_bytes(std::span(&header, 1)));
}

// Parameters of zstd; 0: what zstd has for the level.
struct ChunkCompression {
  int level = 3;
  int window_log = 0, hash_log = 0, chain_log = 0;
};

// Makes a file and appends chunks. Not thread-safe, but may move from thread to thread.
class ChunkFileWriter {
 public:
  // Creates the file, which must not exist, out of the guest's reach. `kind` must outlive the writer. Throws
  // Error(io), or Error(usage) for a level that zstd does not have.
  ChunkFileWriter(std::string path, const ChunkKind& kind, const ChunkCompression& compression);
  ~ChunkFileWriter();
  ChunkFileWriter(const ChunkFileWriter&) = delete;
  ChunkFileWriter& operator=(const ChunkFileWriter&) = delete;

  // One chunk: begin() with the payload's length, add() until all of it was given, then end() with the
  // header, of which only the kind's own fields need values. Each throws Error(io) naming the file when it
  // can't be done; the file is then cut to its last whole chunk, and the writer is of no more use.
  void begin(uint64_t raw_length);
  void add(std::span<const std::byte> bytes);
  template <typename Header>
  void end(Header& header) {
    seal(std::as_writable_bytes(std::span(&header, 1)));
  }

  // Lets go of the file as it is. Nothing more may be written.
  void close() { file_.reset(); }

  // Makes what was written last over a loss of power, the file's name included. Throws Error(io) as above.
  void sync();
  // Reads the file back, all of it, and throws Error(io) when it is not there under its name any more, or is
  // not what was written: somebody else changed it.
  void verify() const;

  const std::string& path() const { return path_; }
  uint64_t size() const { return end_; }           // of the file: where the next chunk will start
  uint64_t sequence() const { return sequence_; }  // of the next chunk

 private:
  struct FreeContext {
    void operator()(ZSTD_CCtx_s* context) const;
  };
  using Context = std::unique_ptr<ZSTD_CCtx_s, FreeContext>;
  struct FreeHash {
    void operator()(XXH3_state_s* state) const;
  };

  static Context make_context(const std::string& path, const ChunkCompression& compression);
  void seal(std::span<std::byte> header);
  void compress(std::span<const std::byte> bytes, bool last);
  [[noreturn]] void broken(const std::string& why);

  const std::string path_;
  const ChunkKind& kind_;
  const ChunkCompression compression_;
  Context context_;
  UniqueFd file_;
  ByteBuffer out_;           // the chunk under way, with room for its header
  uint64_t raw_length_ = 0;  // of its payload
  uint64_t given_ = 0;       // by add()
  uint64_t sequence_ = 0, end_ = 0;
  std::unique_ptr<XXH3_state_s, FreeHash> written_;  // running XXH3-64 of the file
};

// Where a chunk lies.
struct ChunkPlace {
  uint64_t offset = 0;    // in the file
  uint64_t sequence = 0;  // of the chunk
};

// Reads a file's chunks one after another. Trusts nothing: damage is Error(bad_input) with file, chunk and
// offset, a newer version Error(unsupported). Memory is bounded by the kind's max_payload. Not thread-safe.
class ChunkFileReader {
 public:
  // `kind` must outlive the reader. Throws Error(io), or Error(bad_input) when it is no regular file.
  ChunkFileReader(std::string path, const ChunkKind& kind);

  // Goes to another chunk. That there is one is checked by the next load_header().
  void go_to(const ChunkPlace& place);

  // The header of the chunk after the one last loaded or skipped, with all that the framing knows checked.
  // False at the end of the file, or when what follows is a chunk that never got whole: incomplete() tells.
  template <typename Header>
  bool load_header(Header& header) {
    return read_header(std::as_writable_bytes(std::span(&header, 1)));
  }
  // After load_header(): reads the payload, which must have `raw_length` bytes. False when the chunk is not
  // whole.
  bool load_payload(uint64_t raw_length);
  // After load_header(): passes the chunk over. False when the file ends within it.
  bool skip();

  // What load_payload() read. Words, so that it is aligned; the last one is filled up with anything. Valid
  // until the next load_payload().
  std::span<const uint64_t> words() const { return payload_; }
  std::span<const std::byte> payload() const { return std::as_bytes(std::span(payload_)).first(raw_length_); }

  // Of the chunk last looked at; at the file's end where the next one would be.
  const ChunkPlace& place() const { return at_; }
  // "DIR/events: chunk 3 at offset 1234"
  std::string where() const;
  // Throws Error(bad_input) about the chunk last looked at.
  template <typename... Args>
  [[noreturn]] void damaged(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorKind::bad_input, "{}: {}", where(), fmt::format(format, std::forward<Args>(args)...));
  }
  // Empty, or "DIR/events: the last 1234 bytes from offset 5678 on are an incomplete chunk".
  const std::string& incomplete() const { return incomplete_; }

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }                // of the file, when it was opened
  uint64_t next_offset() const { return next_.offset; }  // all before it was read

 private:
  bool read_header(std::span<std::byte> header);
  void check_version(std::span<const std::byte> header) const;
  void decompress(uint64_t raw_length);
  bool set_incomplete();
  void pass();

  const std::string path_;
  const ChunkKind& kind_;
  UniqueFd file_;
  uint64_t size_ = 0;
  ChunkPlace at_, next_;
  uint64_t compressed_length_ = 0, payload_checksum_ = 0;  // of the header last loaded
  std::vector<std::byte> compressed_;
  std::vector<uint64_t> payload_;
  uint64_t raw_length_ = 0;
  std::string incomplete_;
};

}  // namespace aftercheck::recording
