#include <algorithm>
#include <catch2/catch.hpp>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "pt-trace/perf_capture.h"
#include "stand_in_kernel.h"

namespace aftercheck::pt {
namespace {

namespace fs = std::filesystem;
using test::StandInKernel;

// A device folder as Linux 6.1 shows it on a Tiger Lake.
class Device {
 public:
  Device() {
    std::string name = (fs::temp_directory_path() / "aftercheck-pmu-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
    fs::create_directories(path / "format");
    fs::create_directories(path / "caps");
    put("type", "8");
    put("nr_addr_filters", "2");
    for (const auto& [file, text] :
         std::initializer_list<std::pair<const char*, const char*>>{{"format/pt", "config:0"},
                                                                    {"format/branch", "config:13"},
                                                                    {"format/noretcomp", "config:11"},
                                                                    {"format/tsc", "config:10"},
                                                                    {"format/psb_period", "config:24-27"},
                                                                    {"caps/ip_filtering", "1"},
                                                                    {"caps/num_address_ranges", "2"},
                                                                    {"caps/psb_periods", "3f"},
                                                                    {"caps/mtc_periods", "249"}})
      put(file, text);
  }
  ~Device() { fs::remove_all(path); }
  void put(const std::string& file, const std::string& text) const {
    std::ofstream(path / file) << text << '\n';
  }
  PtPmu read() const { return PtPmu::read(path).value(); }
  fs::path path;
};

std::string message(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::host_lacks);
    return error.what();
  }
  FAIL("no error");
  return {};
}

CaptureOptions small_options() {
  CaptureOptions options;
  options.aux_bytes = 64 << 10;
  options.least_aux_bytes = 4 << 10;
  options.ranges = {{0x10000, 0x6fff0000}, {0x200000000000, 0x7e00000000}};
  return options;
}

TEST_CASE("PMU: format, capabilities and filters as sysfs shows them") {
  const Device device;
  const PtPmu pmu = device.read();
  CHECK(pmu.type == 8);
  CHECK(pmu.format.at("psb_period").low == 24);
  CHECK(pmu.format.at("psb_period").high == 27);
  CHECK(pmu.caps.at("psb_periods") == 0x3f);
  CHECK(pmu.address_filters == 2);
  const perf_event_attr attributes = pmu.attributes();
  CHECK(attributes.type == 8);
  CHECK(attributes.config == ((1U << 0) | (1U << 11) | (1U << 13)));
  CHECK(attributes.exclude_kernel == 1);
  CHECK(attributes.disabled == 1);
  CHECK_FALSE(PtPmu::read(device.path / "elsewhere").has_value());
}

TEST_CASE("PMU: what makes no sense is named") {
  const Device device;
  device.put("format/tsc", "config:10-99");
  CHECK_THAT(message([&] { device.read(); }), Catch::Contains("format/tsc: \"config:10-99\" is not"));
  device.put("format/tsc", "konfig:1");
  CHECK_THAT(message([&] { device.read(); }), Catch::Contains("konfig:1"));
  device.put("format/tsc", "config:10");
  device.put("caps/mtc_periods", "many");
  CHECK_THAT(message([&] { device.read(); }), Catch::Contains("caps/mtc_periods"));
  device.put("caps/mtc_periods", "249");
  fs::remove(device.path / "format/noretcomp");
  CHECK_THAT(message([&] { device.read().attributes(); }), Catch::Contains("noretcomp"));
  PtPmu pmu = device.read();
  pmu.address_filters = 1;
  CHECK_THAT(message([&] { filter_text(pmu, small_options().ranges); }), Catch::Contains("1 address range"));
}

TEST_CASE("capture: the event that is asked for, and both rings") {
  const Device device;
  StandInKernel kernel;
  {
    PerfCapture capture(kernel, device.read(), small_options());
    CHECK(kernel.attributes.config == device.read().attributes().config);
    CHECK(kernel.filter == "filter 0x10000/0x6fff0000,filter 0x200000000000/0x7e00000000");
    CHECK_FALSE(kernel.enabled);
    capture.enable();
    CHECK(kernel.enabled);
    CHECK(capture.rings().aux.size() == 64 << 10);
    CHECK(capture.rings().data.size() == 256 << 10);
    capture.disable();
    CHECK_FALSE(kernel.enabled);
  }
  CHECK(kernel.mappings == 0);
}

TEST_CASE("capture: buffers shrink to what the kernel allows") {
  const Device device;
  StandInKernel kernel;
  kernel.memory_limit = 40 << 10;
  const PerfCapture capture(kernel, device.read(), small_options());
  CHECK(capture.rings().aux.size() == 32 << 10);
  CHECK(capture.rings().data.size() == 32 << 10);
}

TEST_CASE("capture: every refusal is explained, and nothing leaks") {
  const Device device;
  struct Refusal {
    const char* call;
    int error;
    const char* text;
  };
  const Refusal refusal = GENERATE(
      Refusal{"perf_event_open", ENOSYS, "without perf events"},
      Refusal{"perf_event_open", EACCES, "CAP_PERFMON"}, Refusal{"perf_event_open", EPERM, "(it is 2)"},
      Refusal{"perf_event_open", EBUSY, "pt_mode=1"}, Refusal{"perf_event_open", EINVAL, "doctor"},
      Refusal{"perf_event_open", EIO, "(EIO)"}, Refusal{"mmap", EPERM, "perf_event_mlock_kb"},
      Refusal{"mmap", ENOMEM, "no memory"}, Refusal{"mmap aux", ENOMEM, "no memory"},
      Refusal{"mmap aux", EOPNOTSUPP, "AUX area"}, Refusal{"PERF_EVENT_IOC_SET_FILTER", EINVAL, "Linux 5.19"},
      Refusal{"PERF_EVENT_IOC_SET_FILTER", EOPNOTSUPP, "can't filter"});
  StandInKernel kernel;
  kernel.errors[refusal.call] = refusal.error;
  const std::string text = message([&] { PerfCapture(kernel, device.read(), small_options()); });
  CHECK_THAT(text, Catch::Contains(refusal.text));
  CHECK_THAT(text, Catch::Contains("--pt=off"));
  CHECK(kernel.mappings == 0);
}

}  // namespace
}  // namespace aftercheck::pt
