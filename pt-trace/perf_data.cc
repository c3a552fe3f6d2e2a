#include "pt-trace/perf_data.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "base/error.h"
#include "base/fd.h"

namespace aftercheck::pt {
namespace {

// linux/perf_event.h: enum perf_event_type; from 64 on tools/lib/perf/include/perf/event.h: enum
// perf_user_event_type.
enum : uint32_t {
  record_mmap = 1,
  record_lost = 2,
  record_mmap2 = 10,
  record_aux = 11,
  record_header_attr = 64,
  record_tracing_data = 66,
  record_auxtrace_info = 70,
  record_auxtrace = 71,
  record_header_feature = 80,
  record_compressed = 81,
  record_compressed2 = 83,
};
constexpr uint16_t misc_mmap_data = 1 << 13;  // PERF_RECORD_MISC_MMAP_DATA: not executable
constexpr uint32_t feature_cpuid = 9;         // tools/perf/util/header.h: HEADER_CPUID
constexpr uint32_t auxtrace_intel_pt = 1;     // tools/perf/util/auxtrace.h: PERF_AUXTRACE_INTEL_PT
constexpr uint64_t prot_exec = 4;
constexpr size_t file_header_size = 104;  // struct perf_file_header up to adds_features
constexpr size_t pipe_header_size = 16;

// Indices of the private words of PERF_RECORD_AUXTRACE_INFO (tools/perf/util/intel-pt.h).
enum : size_t {
  info_pmu_type = 0,
  info_tsc_bit = 5,
  info_noretcomp_bit = 6,
  info_snapshot = 8,
  info_per_cpu = 9,
  info_mtc_bit = 10,
  info_ctc_n = 12,
  info_ctc_d = 13,
  info_cyc_bit = 14,
  info_filter_length = 16,
  info_filter = 17,
};

// Bounded reads from a piece of the file; what is outside reads as 0.
class Fields {
 public:
  explicit Fields(std::span<const uint8_t> bytes) : bytes_(bytes) {}
  template <typename T>
  T at(size_t offset) const {
    T value{};
    if (offset <= bytes_.size() && bytes_.size() - offset >= sizeof value)
      std::memcpy(&value, bytes_.data() + offset, sizeof value);
    return value;
  }
  uint16_t u16(size_t offset) const { return at<uint16_t>(offset); }
  uint32_t u32(size_t offset) const { return at<uint32_t>(offset); }
  uint64_t u64(size_t offset) const { return at<uint64_t>(offset); }
  int32_t i32(size_t offset) const { return at<int32_t>(offset); }
  std::string text(size_t offset, size_t limit = SIZE_MAX) const {
    if (offset >= bytes_.size()) return {};
    const auto rest = bytes_.subspan(offset, std::min(limit, bytes_.size() - offset));
    return {rest.begin(), std::find(rest.begin(), rest.end(), uint8_t{0})};
  }
  size_t size() const { return bytes_.size(); }

 private:
  std::span<const uint8_t> bytes_;
};

}  // namespace

class PerfReader {
 public:
  PerfReader(PerfData& data, std::span<const uint8_t> bytes, const std::string& name)
      : data_(data), bytes_(bytes), name_(name), all_(bytes) {}
  void read();

 private:
  void file_header();
  void features(uint64_t behind_data);
  void records(uint64_t begin, uint64_t end);
  uint64_t record(uint32_t type, uint16_t misc, uint64_t offset, const Fields& body, uint64_t end);
  void attribute(const Fields& body);
  void auxtrace_info(const Fields& body);
  uint64_t auxtrace(const Fields& body, uint64_t behind, uint64_t end);
  void feature(uint32_t id, const Fields& body);
  void finish();
  std::span<const uint8_t> piece(uint64_t offset, uint64_t size) const {
    if (offset > bytes_.size() || size > bytes_.size() - offset) return {};
    return bytes_.subspan(offset, size);
  }

  struct Attribute {
    uint32_t type;
    uint64_t config;
  };
  PerfData& data_;
  std::span<const uint8_t> bytes_;
  const std::string& name_;
  Fields all_;
  std::vector<Attribute> attributes_;
  std::vector<uint64_t> info_;
};

void PerfReader::read() {
  constexpr char magic[] = "PERFILE2", swapped[] = "2ELIFREP";
  if (bytes_.size() >= 8 && std::memcmp(bytes_.data(), swapped, 8) == 0)
    fail(ErrorKind::unsupported, "{}: a perf.data file of the other byte order", name_);
  if (bytes_.size() < pipe_header_size || std::memcmp(bytes_.data(), magic, 8) != 0)
    fail(ErrorKind::bad_input, "{}: offset 0: not a perf.data file (no PERFILE2)", name_);
  const uint64_t header_size = all_.u64(8);
  if (header_size == pipe_header_size) {
    records(pipe_header_size, bytes_.size());
  } else if (header_size >= file_header_size && bytes_.size() >= file_header_size) {
    file_header();
  } else {
    fail(ErrorKind::bad_input, "{}: offset 8: header size {} is neither a file's nor a pipe's", name_,
         header_size);
  }
  finish();
}

void PerfReader::file_header() {
  const uint64_t attr_size = all_.u64(16), attrs = all_.u64(24), attrs_size = all_.u64(32);
  const uint64_t data = all_.u64(40);
  uint64_t data_size = all_.u64(48);
  if (piece(attrs, attrs_size).size() != attrs_size || attr_size < 80)
    fail(ErrorKind::bad_input, "{}: offset 24: the attributes are not inside the file", name_);
  for (uint64_t at = 0; at + attr_size <= attrs_size; at += attr_size)
    attribute(Fields(piece(attrs + at, attr_size)));
  if (data > bytes_.size())
    fail(ErrorKind::bad_input, "{}: offset 40: the data at {:#x} is not inside the file", name_, data);
  // perf writes the size last: 0 or too much means that it was killed.
  const uint64_t available = bytes_.size() - data;
  if (data_size == 0 || data_size > available) {
    data_.cut_off_ = true;
    data_size = available;
  }
  if (!data_.cut_off_) features(data + data_size);
  records(data, data + data_size);
}

// Behind the data: one (offset, size) for every feature bit that is set.
void PerfReader::features(uint64_t behind_data) {
  uint64_t slot = behind_data;
  for (uint32_t bit = 0; bit < 256; ++bit) {
    if ((all_.u64(72 + bit / 64 * 8) >> (bit % 64) & 1) == 0) continue;
    const Fields section(piece(slot, 16));
    if (section.size() != 16) return;
    feature(bit, Fields(piece(section.u64(0), section.u64(8))));
    slot += 16;
  }
}

void PerfReader::feature(uint32_t id, const Fields& body) {
  if (id != feature_cpuid) return;
  // "GenuineIntel,6,78,3" behind its length
  const std::string text = body.text(4, body.u32(0));
  const size_t first = text.find(',');
  const size_t second = first == std::string::npos ? first : text.find(',', first + 1);
  const size_t third = second == std::string::npos ? second : text.find(',', second + 1);
  if (third == std::string::npos || text.substr(0, first) != "GenuineIntel") return;
  std::from_chars(text.data() + first + 1, text.data() + second, data_.family_);
  std::from_chars(text.data() + second + 1, text.data() + third, data_.model_);
}

void PerfReader::attribute(const Fields& body) { attributes_.push_back({body.u32(0), body.u64(8)}); }

void PerfReader::records(uint64_t begin, uint64_t end) {
  uint64_t at = begin;
  while (at + 8 <= end) {
    const uint32_t type = all_.u32(at);
    const uint16_t misc = all_.u16(at + 4), size = all_.u16(at + 6);
    if (size < 8) fail(ErrorKind::bad_input, "{}: offset {:#x}: record of {} bytes", name_, at, size);
    if (size > end - at) {
      data_.cut_off_ = true;
      return;
    }
    at = record(type, misc, at, Fields(piece(at + 8, size - 8u)), end);
  }
  if (at != end) data_.cut_off_ = true;
}

// Returns the offset behind the record and the data that some records have behind them.
uint64_t PerfReader::record(uint32_t type, uint16_t misc, uint64_t offset, const Fields& body, uint64_t end) {
  const uint64_t behind = offset + 8 + body.size();
  switch (type) {
    case record_mmap:
      data_.mappings_.push_back({body.i32(0), body.i32(4), body.u64(8), body.u64(16), body.u64(24),
                                 (misc & misc_mmap_data) == 0, body.text(32)});
      break;
    case record_mmap2:
      data_.mappings_.push_back({body.i32(0), body.i32(4), body.u64(8), body.u64(16), body.u64(24),
                                 (body.u32(56) & prot_exec) != 0, body.text(64)});
      break;
    case record_lost:
      data_.lost_ += body.u64(8);
      break;
    case record_aux: {
      const uint64_t flags = body.u64(16);  // PERF_AUX_FLAG_*: 1 truncated, 4 partial, 8 collision
      if ((flags & 13) != 0)
        data_.troubles_.push_back(
            {body.u64(0), body.u64(8), (flags & 1) != 0, (flags & 4) != 0, (flags & 8) != 0});
      break;
    }
    case record_header_attr:
      attribute(body);
      break;
    case record_header_feature:
      if (body.u64(0) < 256)
        feature(static_cast<uint32_t>(body.u64(0)), Fields(piece(offset + 16, body.size() - 8)));
      break;
    case record_auxtrace_info:
      auxtrace_info(body);
      break;
    case record_auxtrace:
      return auxtrace(body, behind, end);
    case record_tracing_data: {
      const uint64_t size = (uint64_t{body.u32(0)} + 7) & ~uint64_t{7};
      return behind + std::min(size, end - behind);
    }
    case record_compressed:
    case record_compressed2:
      fail(ErrorKind::unsupported,
           "{}: offset {:#x}: compressed records; record without -z, or rewrite with perf inject", name_,
           offset);
    default:
      break;
  }
  return behind;
}

void PerfReader::auxtrace_info(const Fields& body) {
  if (body.u32(0) != auxtrace_intel_pt) return;
  data_.itrace_.present = true;
  for (size_t i = 0; 8 + i * 8 + 8 <= body.size(); ++i) info_.push_back(body.u64(8 + i * 8));
  if (info_.size() > info_filter && info_[info_filter_length] <= body.size())
    data_.itrace_.filter = body.text(8 + info_filter * 8, info_[info_filter_length]);
}

uint64_t PerfReader::auxtrace(const Fields& body, uint64_t behind, uint64_t end) {
  uint64_t size = body.u64(0);
  if (size > end - behind) {
    data_.cut_off_ = true;
    size = end - behind;
  }
  const uint32_t index = body.u32(24);
  auto stream = std::find_if(data_.streams_.begin(), data_.streams_.end(),
                             [index](const PerfAuxStream& s) { return s.index == index; });
  if (stream == data_.streams_.end()) {
    data_.streams_.push_back({index, body.i32(32), body.i32(28), {}});
    stream = data_.streams_.end() - 1;
  }
  stream->pieces.push_back({body.u64(8), piece(behind, size)});
  return behind + size;
}

// Puts together what came from several records.
void PerfReader::finish() {
  PerfItraceInfo& itrace = data_.itrace_;
  if (!itrace.present) return;
  const auto word = [this](size_t i) { return i < info_.size() ? info_[i] : 0; };
  itrace.pmu_type = static_cast<uint32_t>(word(info_pmu_type));
  for (const Attribute& a : attributes_)
    if (a.type == itrace.pmu_type) itrace.config = a.config;
  itrace.return_compression = (itrace.config & word(info_noretcomp_bit)) == 0;
  itrace.tsc = (itrace.config & word(info_tsc_bit)) != 0;
  itrace.mtc = (itrace.config & word(info_mtc_bit)) != 0;
  itrace.cyc = (itrace.config & word(info_cyc_bit)) != 0;
  itrace.per_cpu = word(info_per_cpu) != 0;
  itrace.snapshot = word(info_snapshot) != 0;
  itrace.tsc_ctc_numerator = static_cast<uint32_t>(word(info_ctc_n));
  itrace.tsc_ctc_denominator = static_cast<uint32_t>(word(info_ctc_d));
  for (PerfAuxStream& stream : data_.streams_)
    std::stable_sort(stream.pieces.begin(), stream.pieces.end(),
                     [](const PerfAuxPiece& a, const PerfAuxPiece& b) { return a.offset < b.offset; });
}

uint64_t PerfAuxStream::size() const {
  uint64_t sum = 0;
  for (const PerfAuxPiece& piece : pieces) sum += piece.bytes.size();
  return sum;
}

PerfData PerfData::parse(std::span<const uint8_t> bytes, const std::string& name) {
  PerfData data;
  PerfReader(data, bytes, name).read();
  return data;
}

PerfData PerfData::open(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info;
  if (!fd || ::fstat(fd.get(), &info) != 0)
    fail(ErrorKind::io, "{}: can't open: {}", path, errno_text(errno));
  const auto size = static_cast<size_t>(info.st_size);
  if (size == 0) fail(ErrorKind::bad_input, "{}: empty, not a perf.data file", path);
  void* mapped = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (mapped == MAP_FAILED) fail(ErrorKind::io, "{}: mmap: {}", path, errno_text(errno));
  std::shared_ptr<const void> owner(mapped, [mapped, size](const void*) { ::munmap(mapped, size); });
  PerfData data = parse({static_cast<const uint8_t*>(mapped), size}, path);
  data.owner_ = std::move(owner);
  return data;
}

FlowOptions PerfData::flow_options() const {
  FlowOptions options;
  options.return_compression = itrace_.return_compression;
  options.errata = errata_of(family_, model_);
  return options;
}

}  // namespace aftercheck::pt
