// What the kernel says of its intel_pt PMU (Documentation/ABI/testing/sysfs-bus-event_source-devices-format
// and -caps), and the event that Aftercheck asks of it.
#pragma once

#include <linux/perf_event.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>

namespace aftercheck::pt {

// Where a format field lies in perf_event_attr: bits low...high of config, config1 or config2.
struct PmuField {
  unsigned word = 0;  // 0: config, 1: config1, 2: config2
  unsigned low = 0, high = 0;
};

struct AddressRange {
  uint64_t start = 0, size = 0;  // bytes
};

struct PtPmu {
  static constexpr const char* kDevice = "/sys/bus/event_source/devices/intel_pt";

  uint32_t type = 0;                       // perf_event_attr::type
  std::map<std::string, PmuField> format;  // by name: "noretcomp", "psb_period", ...
  std::map<std::string, uint64_t> caps;    // by name: "ip_filtering", "num_address_ranges", ...
  unsigned address_filters = 0;            // how many one event may have

  // Nothing where the directory is missing: no Intel PT, or a kernel without the driver. Throws Error
  // host_lacks, naming the file, when what is there makes no sense.
  static std::optional<PtPmu> read(const std::filesystem::path& device = kDevice);

  // The event for recording: branches of ring 3 with return compression off and no timing packets (the branch
  // stream must need no code image and be the same in every run), disabled until asked for. Throws Error
  // host_lacks, naming the field, when the PMU can't do that.
  perf_event_attr attributes() const;
};

// For PERF_EVENT_IOC_SET_FILTER: "filter 0x10000/0x6fff0000,filter ...". Ranges are fixed addresses, which
// the kernel takes for user space from Linux 5.19 on. Throws Error host_lacks when the PMU can't hold so
// many.
std::string filter_text(const PtPmu& pmu, std::span<const AddressRange> ranges);

}  // namespace aftercheck::pt
