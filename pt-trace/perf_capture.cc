#include "pt-trace/perf_capture.h"

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <fstream>

#include "base/error.h"

namespace aftercheck::pt {
namespace {

class HostKernel : public PerfKernel {
 public:
  int open_event(const perf_event_attr& attributes, pid_t thread) override {
    const long fd = syscall(SYS_perf_event_open, &attributes, thread, -1, -1, PERF_FLAG_FD_CLOEXEC);
    return fd < 0 ? -errno : static_cast<int>(fd);
  }
  void* map(int fd, size_t size, uint64_t offset, int* error) override {
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(offset));
    *error = memory == MAP_FAILED ? errno : 0;
    return memory == MAP_FAILED ? nullptr : memory;
  }
  void unmap(void* memory, size_t size) override { munmap(memory, size); }
  int control(int fd, unsigned long request, const void* argument) override {
    return ioctl(fd, request, argument) < 0 ? -errno : 0;
  }
  int paranoid() override {
    int level = INT_MAX;
    std::ifstream("/proc/sys/kernel/perf_event_paranoid") >> level;
    return level;
  }
};

constexpr const char* kOff = "or record with --pt=off";

// What people can do about it, by call and errno (perf_event_open(2); kernel/events/core.c).
struct Explanation {
  const char* call;
  int error;
  const char* text;
};
constexpr Explanation kExplanations[] = {
    {"perf_event_open", ENOSYS, "this kernel was built without perf events, or a sandbox forbids them"},
    {"perf_event_open", ENOENT,
     "the intel_pt PMU is gone; is the processor's tracing switched off in its firmware?"},
    {"perf_event_open", ENODEV, "the processor has no Intel PT that the kernel can use"},
    {"perf_event_open", EACCES,
     "run as root, give the command CAP_PERFMON (CAP_SYS_ADMIN before Linux 5.8), or lower "
     "/proc/sys/kernel/perf_event_paranoid"},
    {"perf_event_open", EPERM,
     "run as root, give the command CAP_PERFMON (CAP_SYS_ADMIN before Linux 5.8), or lower "
     "/proc/sys/kernel/perf_event_paranoid"},
    {"perf_event_open", EBUSY,
     "something else uses Intel PT: another tracer (`perf record -e intel_pt//`), or KVM in "
     "the mode kvm_intel.pt_mode=1"},
    {"perf_event_open", EINVAL,
     "the kernel refuses the event's settings; see `aftercheck doctor` for what its driver "
     "offers"},
    {"perf_event_open", EOPNOTSUPP, "the kernel's driver can't trace without its own code"},
    {"perf_event_open", EMFILE, "too many open files; raise `ulimit -n`"},
    {"mmap", EPERM,
     "too little memory may be locked: raise `ulimit -l` or /proc/sys/kernel/perf_event_mlock_kb"},
    {"mmap", ENOMEM, "the kernel has no memory for the trace buffer"},
    {"mmap", EOPNOTSUPP, "the kernel's driver has no AUX area"},
    {"mmap", EBUSY, "something else uses Intel PT: another tracer, or KVM in the mode kvm_intel.pt_mode=1"},
    {"PERF_EVENT_IOC_SET_FILTER", EINVAL,
     "the kernel takes fixed addresses for ring 3 from Linux 5.19 on only"},
    {"PERF_EVENT_IOC_SET_FILTER", EOPNOTSUPP, "the processor can't filter addresses"},
    {"PERF_EVENT_IOC_ENABLE", EBUSY, "something else uses Intel PT now"},
};

[[noreturn]] void refused(PerfKernel& kernel, const char* call, int error) {
  const auto* found = std::find_if(
      std::begin(kExplanations), std::end(kExplanations),
      [&](const Explanation& e) { return std::string_view(e.call) == call && e.error == error; });
  std::string why = found == std::end(kExplanations) ? "see `aftercheck doctor`" : found->text;
  if (error == EACCES || (error == EPERM && std::string_view(call) == "perf_event_open"))
    if (const int level = kernel.paranoid(); level != INT_MAX) why += fmt::format(" (it is {})", level);
  fail(ErrorKind::host_lacks, "Intel PT: {}: {}: {}; {}", call, errno_text(error), why, kOff);
}

// What a smaller buffer may get around.
bool too_large(int error) { return error == ENOMEM || error == EPERM || error == EAGAIN; }

size_t page_size() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

}  // namespace

PerfKernel& host_perf_kernel() {
  static HostKernel kernel;
  return kernel;
}

PerfCapture::PerfCapture(PerfKernel& kernel, const PtPmu& pmu, const CaptureOptions& options)
    : kernel_(kernel) {
  try {
    open(pmu, options.thread);
    map_data(options);
    map_aux(options);
    set_filter(pmu, options);
  } catch (...) {
    release();
    throw;
  }
}

PerfCapture::~PerfCapture() { release(); }

void PerfCapture::release() {
  if (aux_.memory != nullptr) kernel_.unmap(aux_.memory, aux_.size);
  if (base_.memory != nullptr) kernel_.unmap(base_.memory, base_.size);
}

void PerfCapture::open(const PtPmu& pmu, pid_t thread) {
  const int fd = kernel_.open_event(pmu.attributes(), thread);
  if (fd < 0) refused(kernel_, "perf_event_open", -fd);
  event_ = move_out_of_guest_reach(UniqueFd(fd));
}

void PerfCapture::map_data(const CaptureOptions& options) {
  int error = 0;
  for (size_t size = options.data_bytes; size >= options.least_data_bytes; size /= 2) {
    base_.size = page_size() + size;
    base_.memory = kernel_.map(event_.get(), base_.size, 0, &error);
    if (base_.memory != nullptr) return;
    if (!too_large(error)) break;
  }
  refused(kernel_, "mmap", error);
}

void PerfCapture::map_aux(const CaptureOptions& options) {
  auto* control = static_cast<perf_event_mmap_page*>(base_.memory);
  int error = 0;
  for (size_t size = options.aux_bytes; size >= options.least_aux_bytes; size /= 2) {
    control->aux_offset = base_.size;
    control->aux_size = size;
    aux_.size = size;
    // Writable: a full area stops the trace instead of overwriting what was not read yet.
    aux_.memory = kernel_.map(event_.get(), size, base_.size, &error);
    if (aux_.memory != nullptr) return;
    if (!too_large(error)) break;
  }
  refused(kernel_, "mmap", error);
}

void PerfCapture::set_filter(const PtPmu& pmu, const CaptureOptions& options) {
  if (options.ranges.empty()) return;
  const std::string text = filter_text(pmu, options.ranges);
  if (const int result = kernel_.control(event_.get(), PERF_EVENT_IOC_SET_FILTER, text.c_str()); result < 0)
    refused(kernel_, "PERF_EVENT_IOC_SET_FILTER", -result);
}

void PerfCapture::enable() {
  if (const int result = kernel_.control(event_.get(), PERF_EVENT_IOC_ENABLE, nullptr); result < 0)
    refused(kernel_, "PERF_EVENT_IOC_ENABLE", -result);
}

void PerfCapture::disable() {
  if (const int result = kernel_.control(event_.get(), PERF_EVENT_IOC_DISABLE, nullptr); result < 0)
    refused(kernel_, "PERF_EVENT_IOC_DISABLE", -result);
}

AuxRings PerfCapture::rings() const {
  auto* bytes = static_cast<uint8_t*>(base_.memory);
  return {static_cast<perf_event_mmap_page*>(base_.memory),
          {bytes + page_size(), base_.size - page_size()},
          {static_cast<uint8_t*>(aux_.memory), aux_.size}};
}

}  // namespace aftercheck::pt
