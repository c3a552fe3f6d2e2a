// Contents of pages, out of the store.
#include <unistd.h>
#include <zstd.h>

#include <optional>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "machine/address_space.h"
#include "recording/digest.h"
#include "recording/file_io.h"

namespace aftercheck {

void read_pages(const Checkpoint& checkpoint, const recording::Store& store,
                const std::function<void(const PageRun& run, std::span<const std::byte> bytes)>& put) {
  // One pack at a time: there may be more of them than descriptors, and runs are in the order of their
  // frames.
  recording::Store::Blob pack;
  std::optional<uint32_t> open_pack;
  std::vector<std::byte> compressed, pages;
  std::optional<uint32_t> current;
  for (const PageRun& run : checkpoint.runs) {
    const PageFrame& frame = checkpoint.frames[run.frame];
    if (current != run.frame) {
      const recording::Digest128& name = checkpoint.packs[frame.pack];
      const std::string what =
          fmt::format("store/{}: pages at offset {}", recording::to_hex(name), frame.offset);
      if (open_pack != frame.pack) pack = store.open_unread(name);
      open_pack = frame.pack;
      if (frame.offset > pack.size || frame.length > pack.size - frame.offset)
        fail(ErrorKind::bad_input, "{}: they lie beyond its {} bytes", what, pack.size);
      compressed.resize(frame.length);
      if (recording::read_at(pack.fd.get(), what, frame.offset, compressed) != compressed.size())
        fail(ErrorKind::bad_input, "{}: the file is shorter than it was", what);
      if (recording::digest128(compressed) != frame.digest)
        fail(ErrorKind::bad_input, "{}: damaged: they have another digest", what);
      pages.resize(uint64_t{frame.pages} * kPageSize);
      const size_t size = ZSTD_decompress(pages.data(), pages.size(), compressed.data(), compressed.size());
      if (ZSTD_isError(size)) fail(ErrorKind::bad_input, "{}: zstd: {}", what, ZSTD_getErrorName(size));
      if (size != pages.size())
        fail(ErrorKind::bad_input, "{}: they are {} bytes instead of {}", what, size, pages.size());
      current = run.frame;
    }
    put(run, std::span(pages).subspan(uint64_t{run.first_page} * kPageSize, uint64_t{run.pages} * kPageSize));
  }
}

}  // namespace aftercheck
