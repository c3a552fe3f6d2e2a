#include "kvm-recorder/pt_trace.h"

#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "base/error.h"
#include "pt-trace/encoder.h"
#include "recording/pt_log.h"
#include "stand_in_kernel.h"

namespace aftercheck {
namespace {

namespace fs = std::filesystem;
using recording::PtRecord;

struct Folder {
  Folder() {
    std::string name = (fs::temp_directory_path() / "aftercheck-trace-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() { fs::remove_all(path); }
  fs::path path;
};

pt::PtPmu pmu() {
  pt::PtPmu pmu;
  pmu.type = 8;
  pmu.format["noretcomp"] = {0, 11, 11};
  pmu.caps["ip_filtering"] = 1;
  pmu.address_filters = 2;
  return pmu;
}

pt::CaptureOptions small_rings() {
  pt::CaptureOptions options;
  options.data_bytes = options.least_data_bytes = 16 << 10;
  options.aux_bytes = options.least_aux_bytes = 16 << 10;
  return options;
}

std::vector<uint8_t> some_trace() {
  pt::Encoder encoder;
  encoder.enable(0x401000);
  for (unsigned i = 0; i < 20000; ++i) encoder.conditional(i % 3 != 0, 0x401000 + i % 7);
  encoder.disable();
  return encoder.take();
}

struct Kept {
  std::vector<uint8_t> bytes;
  std::vector<uint8_t> losses;
  bool whole = false;
};

Kept read_back(const fs::path& directory) {
  recording::PtLogReader reader(directory, 0);
  CHECK(reader.format().source == recording::PtSource::perf);
  CHECK_FALSE(reader.format().return_compression);
  CHECK_THAT(reader.format().capabilities, Catch::Contains("config=0x800 ip_filtering=0x1"));
  Kept kept;
  while (const PtRecord* record = reader.next()) {
    if (record->kind == PtRecord::Kind::data)
      kept.bytes.insert(kept.bytes.end(), record->bytes.begin(), record->bytes.end());
    if (record->kind == PtRecord::Kind::loss) kept.losses.push_back(record->flags);
  }
  kept.whole = !reader.truncated();
  return kept;
}

TEST_CASE("trace by the processor: what it wrote is in the recording") {
  const Folder folder;
  pt::test::StandInKernel kernel;
  const std::vector<uint8_t> trace = some_trace();
  {
    const auto recorded = trace_by_processor(kernel, pmu(), folder.path, small_rings());
    CHECK(kernel.enabled);
    CHECK(kernel.filter == "filter 0x10000/0x7ffe7000,filter 0x200000000000/0x7d00000000");
    kernel.produce(std::span(trace).first(3000));
    kernel.produce(std::span(trace).subspan(3000));
    recorded->finish();
    CHECK_FALSE(kernel.enabled);
    CHECK(recorded->error().empty());
  }
  CHECK(kernel.mappings == 0);
  const Kept kept = read_back(folder.path);
  CHECK(kept.bytes == trace);
  CHECK(kept.losses.empty());
  CHECK(kept.whole);
}

TEST_CASE("trace by the processor: an overrun is a loss, and tracing goes on after it") {
  const Folder folder;
  pt::test::StandInKernel kernel;
  const std::vector<uint8_t> flood(64 << 10, 0), more = some_trace();
  {
    const auto recorded = trace_by_processor(kernel, pmu(), folder.path, small_rings());
    kernel.produce(flood);
    for (int i = 0; i < 5000 && !kernel.enabled; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    REQUIRE(kernel.enabled);
    kernel.produce(more);
    recorded->finish();
  }
  const Kept kept = read_back(folder.path);
  CHECK(kept.bytes.size() == (16 << 10) + more.size());
  CHECK(kept.losses == std::vector<uint8_t>{recording::pt_loss::kTruncated});
  CHECK(std::equal(more.rbegin(), more.rend(), kept.bytes.rbegin()));
}

TEST_CASE("trace by the processor: a kernel that stops tracing is an error of the trace") {
  const Folder folder;
  pt::test::StandInKernel kernel;
  const auto recorded = trace_by_processor(kernel, pmu(), folder.path, small_rings());
  kernel.errors["PERF_EVENT_IOC_ENABLE"] = EBUSY;
  kernel.produce(std::vector<uint8_t>(64 << 10, 0));
  for (int i = 0; i < 5000 && recorded->error().empty(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK_THAT(recorded->error(), Catch::Contains("something else uses Intel PT"));
  CHECK_THROWS_AS(recorded->finish(), Error);
}

}  // namespace
}  // namespace aftercheck
