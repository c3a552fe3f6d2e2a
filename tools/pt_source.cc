#include "tools/pt_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/fd.h"
#include "pt-trace/perf_data.h"

namespace aftercheck::tools {
namespace {

constexpr size_t kPiece = 256 << 10;

// The bytes of a file or pipe, nothing else known.
class RawSource : public PtSource {
 public:
  RawSource(const std::string& path, UniqueFd fd, uint64_t size)
      : PtSource(path), fd_(std::move(fd)), buffer_(kPiece) {
    streams_.push_back({"trace", size});
  }

  void read(size_t, PtSink& sink) override {
    uint64_t offset = 0;
    while (true) {
      const ssize_t got = ::read(fd_.get(), buffer_.data(), buffer_.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail(ErrorKind::io, "{}: offset {:#x}: read: {}", name_, offset, errno_text(errno));
      if (got == 0) return;
      sink.bytes(offset, {buffer_.data(), static_cast<size_t>(got)});
      offset += static_cast<uint64_t>(got);
    }
  }

 private:
  UniqueFd fd_;
  std::vector<uint8_t> buffer_;
};

// What `perf record` wrote.
class PerfSource : public PtSource {
 public:
  explicit PerfSource(const std::string& path) : PtSource(path), data_(pt::PerfData::open(path)) {
    if (data_.streams().empty())
      fail(ErrorKind::bad_input, "{}: has no AUX data; record with `perf record -e intel_pt//u`", path);
    for (const pt::PerfAuxStream& stream : data_.streams())
      streams_.push_back(
          {stream.cpu >= 0 ? fmt::format("cpu {}", stream.cpu) : fmt::format("thread {}", stream.tid),
           stream.size()});
  }

  pt::FlowOptions flow_options() const override { return data_.flow_options(); }
  const pt::PerfData& data() const { return data_; }

  void read(size_t stream, PtSink& sink) override {
    uint64_t at = 0;
    for (const pt::PerfAuxPiece& piece : data_.streams()[stream].pieces) {
      if (piece.offset != at) sink.lost(at, piece.offset, "the file has no AUX data from there on");
      sink.bytes(piece.offset, piece.bytes);
      at = piece.offset + piece.bytes.size();
    }
  }

  std::vector<std::string> warnings() const override {
    std::vector<std::string> list;
    if (data_.cut_off()) list.push_back("the file ends inside a record: perf was stopped before its end");
    if (data_.lost_records() > 0)
      list.push_back(
          fmt::format("{} records were lost while perf recorded", human_count(data_.lost_records())));
    uint64_t truncated = 0, other = 0;
    for (const pt::PerfAuxTrouble& trouble : data_.troubles()) ++(trouble.truncated ? truncated : other);
    if (truncated > 0)
      list.push_back(
          fmt::format("AUX data was truncated {} times: the ring was full; record with a larger -m ,N",
                      human_count(truncated)));
    if (other > 0)
      list.push_back(fmt::format("AUX data has gaps or collisions in {} places", human_count(other)));
    return list;
  }

 private:
  pt::PerfData data_;
};

}  // namespace

std::unique_ptr<PtSource> open_pt_source(const std::string& path) {
  UniqueFd fd(path == "-" ? ::dup(STDIN_FILENO) : ::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) fail(ErrorKind::io, "{}: can't open: {}", path, errno_text(errno));
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) fail(ErrorKind::io, "{}: fstat: {}", path, errno_text(errno));
  if (S_ISDIR(info.st_mode)) fail(ErrorKind::bad_input, "{}: is a directory; name a file", path);
  char magic[8];
  if (S_ISREG(info.st_mode) && ::pread(fd.get(), magic, sizeof magic, 0) == sizeof magic &&
      (std::memcmp(magic, "PERFILE2", sizeof magic) == 0 ||
       std::memcmp(magic, "2ELIFREP", sizeof magic) == 0))
    return std::make_unique<PerfSource>(path);
  return std::make_unique<RawSource>(path, std::move(fd),
                                     S_ISREG(info.st_mode) ? static_cast<uint64_t>(info.st_size) : 0);
}

void PtProgress::bytes(uint64_t offset, std::span<const uint8_t> bytes) {
  sink_.bytes(offset, bytes);
  done_ += bytes.size();
  const double share = stream_.size == 0 ? 0 : static_cast<double>(done_) / static_cast<double>(stream_.size);
  console_.progress(share, fmt::format("{}, {}", stream_.name, human_size(done_)));
}

void PtProgress::lost(uint64_t offset, uint64_t resume, const std::string& why) {
  sink_.lost(offset, resume, why);
}

}  // namespace aftercheck::tools
