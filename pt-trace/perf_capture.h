// Traces one thread with the kernel's intel_pt PMU: perf_event_open(2), the AUX area of its second mapping,
// address filters. What the kernel refuses is explained.
#pragma once

#include <linux/perf_event.h>
#include <sys/types.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "pt-trace/aux_ring.h"
#include "pt-trace/perf_pmu.h"

namespace aftercheck::pt {

// The system calls that capturing needs, so that tests can stand in for a kernel that has Intel PT. Results
// are those of the calls, or a negative errno.
class PerfKernel {
 public:
  virtual ~PerfKernel() = default;
  virtual int open_event(const perf_event_attr& attributes, pid_t thread) = 0;
  // mmap(2), MAP_SHARED, readable and writable; null and `*error` (an errno) where it fails.
  virtual void* map(int fd, size_t size, uint64_t offset, int* error) = 0;
  virtual void unmap(void* memory, size_t size) = 0;
  virtual int control(int fd, unsigned long request, const void* argument) = 0;  // ioctl(2)
  virtual int paranoid() = 0;  // /proc/sys/kernel/perf_event_paranoid; INT_MAX where it can't be read
};
PerfKernel& host_perf_kernel();

struct CaptureOptions {
  pid_t thread = 0;  // 0: the calling one
  // Both are tried first and halved, down to the least, while the kernel has no memory for them or the limit
  // on locked memory is too low. Powers of two, in bytes; the data ring (PERF_RECORD_AUX and the like) is one
  // page of control and these.
  size_t data_bytes = 256 << 10, least_data_bytes = 16 << 10;
  size_t aux_bytes = 64 << 20, least_aux_bytes = 1 << 20;
  // Only branches inside are traced; at most PtPmu::address_filters.
  std::vector<AddressRange> ranges;
};

class PerfCapture {
 public:
  // Opens the event, maps both rings and sets the filter; tracing is off. Throws Error host_lacks that names
  // the call and what to do. `kernel` must outlive the capture.
  PerfCapture(PerfKernel& kernel, const PtPmu& pmu, const CaptureOptions& options);
  ~PerfCapture();
  PerfCapture(const PerfCapture&) = delete;
  PerfCapture& operator=(const PerfCapture&) = delete;

  // PERF_EVENT_IOC_ENABLE, _DISABLE. The kernel switches an event off whose AUX area is full: enable it again
  // once there is room. Throw Error host_lacks.
  void enable();
  void disable();

  // In a process that fork(2) has made, which has the event but not its areas: closes it.
  void leave_to_parent() { event_.reset(); }

  // For AuxReader.
  AuxRings rings() const;
  // For poll(2).
  int fd() const { return event_.get(); }

 private:
  struct Mapping {
    void* memory = nullptr;
    size_t size = 0;
  };
  PerfKernel& kernel_;
  UniqueFd event_;
  Mapping base_, aux_;

  void open(const PtPmu& pmu, pid_t thread);
  void map_data(const CaptureOptions& options);
  void map_aux(const CaptureOptions& options);
  void set_filter(const PtPmu& pmu, const CaptureOptions& options);
  void release();
};

}  // namespace aftercheck::pt
