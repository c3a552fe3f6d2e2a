#include "tools/pt_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/fd.h"
#include "recording/meta.h"

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

  pt::FlowOptions flow_options(size_t) const override { return data_.flow_options(); }
  const pt::PerfData* perf_data() const override { return &data_; }

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

// The PT data of a recording's threads.
class RecordingSource : public PtSource {
 public:
  explicit RecordingSource(const std::string& path) : PtSource(path) {
    recording::read_meta(path);  // says so when this is no recording
    threads_ = recording::pt_threads(path);
    if (threads_.empty())
      fail(ErrorKind::bad_input,
           "{}: has no Intel PT data; record with --pt=soft, or add it with `aftercheck pt synth`", path);
    for (const uint32_t thread : threads_) {
      summaries_.push_back(recording::summarize_pt(path, thread));
      streams_.push_back({fmt::format("thread {}", thread), summaries_.back().aux_bytes});
    }
  }

  pt::FlowOptions flow_options(size_t stream) const override {
    const recording::PtFormat& format = summaries_[stream].format;
    pt::FlowOptions options;
    options.return_compression = format.return_compression;
    options.errata = pt::errata_of(format.family, format.model);
    return options;
  }
  bool is_recording() const override { return true; }
  bool has_marks(size_t stream) const override {
    return summaries_[stream].format.source != recording::PtSource::perf;
  }

  void read(size_t stream, PtSink& sink) override {
    recording::PtLogReader reader(name_, threads_[stream]);
    while (const recording::PtRecord* record = reader.next()) pass_on(*record, sink);
    std::string why;
    if (reader.truncated(&why)) truncation_ = why;
  }

  std::vector<std::string> warnings() const override {
    std::vector<std::string> list;
    if (!truncation_.empty()) list.push_back("the trace has no end: " + truncation_);
    for (size_t i = 0; i < summaries_.size(); ++i)
      if (summaries_[i].losses > 0)
        list.push_back(fmt::format("{}: AUX data was lost in {} places", streams_[i].name,
                                   human_count(summaries_[i].losses)));
    return list;
  }

 private:
  std::vector<uint32_t> threads_;
  std::vector<recording::PtSummary> summaries_;
  std::string truncation_;
};

}  // namespace

void pass_on(const recording::PtRecord& record, PtSink& sink) {
  switch (record.kind) {
    case recording::PtRecord::Kind::data:
      return sink.bytes(record.offset, record.bytes);
    case recording::PtRecord::Kind::mark:
      return sink.mark(record.offset, record.event);
    case recording::PtRecord::Kind::loss:
      return sink.lost(record.offset, record.offset, recording::describe_pt_loss(record.flags));
  }
}

std::unique_ptr<PtSource> open_pt_source(const std::string& path) {
  UniqueFd fd(path == "-" ? ::dup(STDIN_FILENO) : ::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) fail(ErrorKind::io, "{}: can't open: {}", path, errno_text(errno));
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) fail(ErrorKind::io, "{}: fstat: {}", path, errno_text(errno));
  if (S_ISDIR(info.st_mode)) return std::make_unique<RecordingSource>(path);
  char magic[8];
  if (S_ISREG(info.st_mode) && ::pread(fd.get(), magic, sizeof magic, 0) == sizeof magic &&
      (std::memcmp(magic, "PERFILE2", sizeof magic) == 0 ||
       std::memcmp(magic, "2ELIFREP", sizeof magic) == 0))
    return std::make_unique<PerfSource>(path);
  return std::make_unique<RawSource>(path, std::move(fd),
                                     S_ISREG(info.st_mode) ? static_cast<uint64_t>(info.st_size) : 0);
}

void PtProgress::bytes(uint64_t offset, std::span<const uint8_t> bytes) {
  if (!psb_seen_) {
    const size_t begun = tail_.size();
    tail_.insert(tail_.end(), bytes.begin(), bytes.begin() + std::min(bytes.size(), pt::psb_size - 1));
    psb_seen_ = pt::find_psb(tail_, 0) != pt::npos || pt::find_psb(bytes, 0) != pt::npos;
    if (bytes.size() >= pt::psb_size - 1)
      tail_.assign(bytes.end() - (pt::psb_size - 1), bytes.end());
    else if (begun + bytes.size() >= pt::psb_size)
      tail_.erase(tail_.begin(), tail_.end() - (pt::psb_size - 1));
  }
  sink_.bytes(offset, bytes);
  done_ += bytes.size();
  const double share = stream_.size == 0 ? 0 : static_cast<double>(done_) / static_cast<double>(stream_.size);
  console_.progress(share, fmt::format("{}, {}", stream_.name, human_size(done_)));
}

void PtProgress::lost(uint64_t offset, uint64_t resume, const std::string& why) {
  tail_.clear();
  sink_.lost(offset, resume, why);
}

void require_psb(const PtSource& source, const std::vector<std::string>& streams_without_psb) {
  if (streams_without_psb.empty()) return;
  std::string names;
  for (const std::string& stream : streams_without_psb) names += (names.empty() ? "" : ", ") + stream;
  fail(ErrorKind::bad_input,
       "{}: {}: there is no PSB, with which every Intel PT trace begins: no packet could be read",
       source.name(), names);
}

}  // namespace aftercheck::tools
