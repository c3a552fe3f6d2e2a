#include <cpuid.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "machine/address_space.h"
#include "pt-trace/perf_capture.h"
#include "pt-trace/perf_pmu.h"
#include "tools/doctor.h"

namespace aftercheck::tools {
namespace {

Finding finding(const char* name, const char* title, std::optional<bool> works, std::string value,
                const char* cost = "") {
  return {
      .group = "host", .name = name, .title = title, .works = works, .value = std::move(value), .cost = cost};
}

// CPUID.(EAX=07H,ECX=0):EBX[25] (SDM vol. 3, 33.3.1).
bool processor_has_it() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (ebx & (1U << 25)) != 0;
}

// Opens the very event that recording would use, with small buffers, switches it on and off.
Finding capture(const std::optional<pt::PtPmu>& pmu) {
  constexpr const char* kName = "intel_pt";
  constexpr const char* kTitle = "Intel PT can be used";
  constexpr const char* kCost = "no recorded control flow: divergences are found at exits only";
  if (!pmu)
    return finding(kName, kTitle, false,
                   processor_has_it() ? "the processor has it, but the kernel has no intel_pt PMU"
                                      : "the processor has none (CPUID.7.0:EBX[25] is 0)",
                   kCost);
  try {
    pt::CaptureOptions options;
    options.aux_bytes = options.least_aux_bytes;
    options.data_bytes = options.least_data_bytes;
    for (const Range& window : {kLowWindow, kMainWindow})
      options.ranges.push_back({window.start, window.size()});
    pt::PerfCapture capture(pt::host_perf_kernel(), *pmu, options);
    capture.enable();
    capture.disable();
    return finding(kName, kTitle, true, "", kCost);
  } catch (const Error& error) {
    return finding(kName, kTitle, false, error.what(), kCost);
  }
}

std::string list(const std::map<std::string, uint64_t>& values) {
  std::string text;
  for (const auto& [name, value] : values)
    text += fmt::format("{}{}={:#x}", text.empty() ? "" : " ", name, value);
  return text;
}

std::string list(const std::map<std::string, pt::PmuField>& fields) {
  std::string text;
  for (const auto& [name, field] : fields) {
    text += fmt::format("{}{}={}", text.empty() ? "" : " ", name, field.low);
    if (field.high != field.low) text += fmt::format("-{}", field.high);
  }
  return text;
}

// Without it the processor stops tracing when KVM switches VMX on (SDM vol. 3, A.6: IA32_VMX_MISC[14]).
Finding traces_under_vmx() {
  constexpr const char* kName = "pt_in_vmx";
  constexpr const char* kTitle = "Intel PT goes on under KVM (IA32_VMX_MISC[14])";
  constexpr const char* kCost = "guests on KVM can't be traced";
  constexpr off_t kVmxMisc = 0x485;
  if (!processor_has_it()) return finding(kName, kTitle, {}, "not applicable: the processor has no Intel PT");
  const UniqueFd registers(open("/dev/cpu/0/msr", O_RDONLY | O_CLOEXEC));
  uint64_t value = 0;
  if (!registers || pread(registers.get(), &value, sizeof value, kVmxMisc) != sizeof value)
    return finding(kName, kTitle, {},
                   "not known: " + errno_text(errno) + " for /dev/cpu/0/msr; `modprobe msr` and be root");
  return finding(kName, kTitle, (value >> 14 & 1) != 0, fmt::format("{:#x}", value), kCost);
}

}  // namespace

std::vector<Finding> examine_processor_trace() {
  std::optional<pt::PtPmu> pmu;
  std::vector<Finding> findings;
  try {
    pmu = pt::PtPmu::read();
    findings.push_back(capture(pmu));
  } catch (const Error& error) {
    findings.push_back(
        finding("intel_pt", "Intel PT can be used", false, error.what(), "no recorded control flow"));
  }
  findings.push_back(traces_under_vmx());
  if (pmu) {
    findings.push_back(finding("intel_pt_format", "Intel PT format bits", {}, list(pmu->format)));
    findings.push_back(finding("intel_pt_caps", "Intel PT capabilities", {}, list(pmu->caps)));
    findings.push_back(
        finding("intel_pt_filters", "Intel PT address filters", {}, std::to_string(pmu->address_filters)));
  }
  std::string mode;
  if (std::getline(std::ifstream("/sys/module/kvm_intel/parameters/pt_mode") >> std::ws, mode))
    findings.push_back(
        finding("pt_mode", "kvm_intel pt_mode", {},
                mode + (mode == "0" ? " (system)" : " (host and guest apart: the host can't trace guests)")));
  return findings;
}

}  // namespace aftercheck::tools
