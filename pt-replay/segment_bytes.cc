#include "pt-replay/segment_bytes.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/error.h"

namespace aftercheck {
namespace {

constexpr size_t kInMemory = 16 << 20;

UniqueFd temporary_file() {
  const std::string folder = std::filesystem::temp_directory_path().string();
  UniqueFd file(open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!file)
    fail(ErrorKind::io, "{}: no temporary file for a long segment's trace: {}", folder, errno_text(errno));
  return file;
}

}  // namespace

void SegmentBytes::append(std::span<const uint8_t> bytes) {
  memory_.insert(memory_.end(), bytes.begin(), bytes.end());
  if (memory_.size() < kInMemory) return;
  if (!file_) file_ = temporary_file();
  for (size_t done = 0; done < memory_.size();) {
    const ssize_t n =
        pwrite(file_.get(), memory_.data() + done, memory_.size() - done, static_cast<off_t>(in_file_));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(ErrorKind::io, "a temporary file for a long segment's trace: {}", errno_text(errno));
    done += static_cast<size_t>(n);
    in_file_ += static_cast<uint64_t>(n);
  }
  memory_.clear();
}

void SegmentBytes::clear() {
  memory_.clear();
  in_file_ = 0;
  file_.reset();
}

void SegmentBytes::visit(const std::function<bool(std::span<const uint8_t>)>& visit) const {
  std::vector<uint8_t> piece(64 << 10);
  for (uint64_t at = 0; at < in_file_;) {
    const ssize_t n = pread(file_.get(), piece.data(), std::min<uint64_t>(piece.size(), in_file_ - at),
                            static_cast<off_t>(at));
    if (n <= 0) fail(ErrorKind::io, "a temporary file for a long segment's trace: {}", errno_text(errno));
    if (!visit(std::span(piece).first(static_cast<size_t>(n)))) return;
    at += static_cast<uint64_t>(n);
  }
  for (size_t at = 0; at < memory_.size(); at += piece.size())
    if (!visit(std::span(memory_).subspan(at, std::min(piece.size(), memory_.size() - at)))) return;
}

}  // namespace aftercheck
