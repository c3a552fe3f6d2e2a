#include "pt-trace/perf_pmu.h"

#include <fmt/ranges.h>

#include <charconv>
#include <fstream>
#include <system_error>
#include <vector>

#include "base/error.h"

namespace aftercheck::pt {
namespace {

namespace fs = std::filesystem;

std::optional<std::string> first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return line;
}

[[noreturn]] void senseless(const fs::path& path, const std::string& text, const char* expected) {
  fail(ErrorKind::host_lacks, "{}: \"{}\" is not {}; record with --pt=off", path.string(), text, expected);
}

uint64_t number(const fs::path& path, const std::string& text, int base) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end != text.data() + text.size()) senseless(path, text, "a number");
  return value;
}

// "config:11", "config:24-27", "config1:0".
PmuField field(const fs::path& path, const std::string& text) {
  constexpr const char* kExpected = "a place in perf_event_attr";
  const size_t colon = text.find(':'), dash = text.find('-');
  const std::string word = text.substr(0, colon);
  PmuField field;
  if (colon == std::string::npos || (word != "config" && word != "config1" && word != "config2"))
    senseless(path, text, kExpected);
  field.word = word == "config" ? 0 : word == "config1" ? 1 : 2;
  const uint64_t low =
      number(path, text.substr(colon + 1, dash == std::string::npos ? dash : dash - colon - 1), 10);
  const uint64_t high = dash == std::string::npos ? low : number(path, text.substr(dash + 1), 10);
  if (high > 63 || low > high) senseless(path, text, kExpected);
  field.low = static_cast<unsigned>(low);
  field.high = static_cast<unsigned>(high);
  return field;
}

template <typename Take>
void for_each_file(const fs::path& folder, Take take) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (const auto text = first_line(entry.path())) take(entry.path(), *text);
}

uint64_t get_cap(const PtPmu& pmu, const std::string& name) {
  const auto found = pmu.caps.find(name);
  return found == pmu.caps.end() ? 0 : found->second;
}

}  // namespace

std::optional<PtPmu> PtPmu::read(const fs::path& device) {
  const auto type = first_line(device / "type");
  if (!type) return std::nullopt;
  PtPmu pmu;
  pmu.type = static_cast<uint32_t>(number(device / "type", *type, 10));
  for_each_file(device / "format", [&](const fs::path& path, const std::string& text) {
    pmu.format[path.filename().string()] = field(path, text);
  });
  // The driver prints them in hexadecimal without a prefix (arch/x86/events/intel/pt.c, pt_cap_show).
  for_each_file(device / "caps", [&](const fs::path& path, const std::string& text) {
    pmu.caps[path.filename().string()] = number(path, text, 16);
  });
  if (const auto filters = first_line(device / "nr_addr_filters"))
    pmu.address_filters = static_cast<unsigned>(number(device / "nr_addr_filters", *filters, 10));
  return pmu;
}

perf_event_attr PtPmu::attributes() const {
  perf_event_attr attributes{};
  attributes.size = sizeof attributes;
  attributes.type = type;
  attributes.disabled = 1;
  attributes.exclude_kernel = 1;
  attributes.exclude_hv = 1;
  const auto set = [&](const char* name) {
    const auto found = format.find(name);
    if (found == format.end())
      fail(ErrorKind::host_lacks, "Intel PT of this host has no \"{}\" ({}/format); record with --pt=off",
           name, kDevice);
    const uint64_t bit = uint64_t{1} << found->second.low;
    (found->second.word == 0   ? attributes.config
     : found->second.word == 1 ? attributes.config1
                               : attributes.config2) |= bit;
  };
  // Bit 0 says that BranchEn is given and not implied (arch/x86/events/intel/pt.c, pt_event_valid); drivers
  // before it trace branches always.
  if (format.contains("pt") && format.contains("branch")) {
    set("pt");
    set("branch");
  }
  set("noretcomp");
  return attributes;
}

std::string filter_text(const PtPmu& pmu, std::span<const AddressRange> ranges) {
  if (get_cap(pmu, "ip_filtering") == 0 || pmu.address_filters < ranges.size())
    fail(ErrorKind::host_lacks,
         "Intel PT of this host filters {} address ranges and {} are needed to keep the recorder's own code "
         "out of "
         "the trace; record with --pt=off",
         pmu.address_filters, ranges.size());
  std::vector<std::string> parts;
  for (const AddressRange& range : ranges)
    parts.push_back(fmt::format("filter {:#x}/{:#x}", range.start, range.size));
  return fmt::format("{}", fmt::join(parts, ","));
}

}  // namespace aftercheck::pt
