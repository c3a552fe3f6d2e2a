// A kernel with an intel_pt PMU that behaves as perf_event_open(2) and the comments of linux/perf_event.h
// say: data ring and AUX area in shared memory, records for what was written to the AUX area, truncation when
// it is full.
#pragma once

#include <linux/perf_event.h>

#include <atomic>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pt-trace/perf_capture.h"

namespace aftercheck::pt::test {

class StandInKernel : public PerfKernel {
 public:
  // Errors that the next calls give: call name -> errno.
  std::map<std::string, int> errors;
  size_t memory_limit = SIZE_MAX;  // mappings beyond it fail with EPERM, as RLIMIT_MEMLOCK does
  int paranoid_level = 2;
  uint64_t feature_config = UINT64_MAX;  // bits of perf_event_attr::config that the driver takes

  int open_event(const perf_event_attr& attributes, pid_t thread) override;
  void* map(int fd, size_t size, uint64_t offset, int* error) override;
  void unmap(void* memory, size_t size) override;
  int control(int fd, unsigned long request, const void* argument) override;
  int paranoid() override { return paranoid_level; }

  // The processor: appends trace bytes, as much as there is room for. What does not fit is lost: the record
  // says PERF_AUX_FLAG_TRUNCATED and the event is switched off, as the kernel does.
  void produce(std::span<const uint8_t> bytes, uint64_t flags = 0);
  // PERF_RECORD_LOST.
  void lose_records(uint64_t count);
  // The AUX offset of the next byte.
  uint64_t written() const { return producer_->written(); }

  perf_event_attr attributes{};
  std::string filter;
  std::atomic<bool> enabled = false;
  int mappings = 0;

 private:
  AuxRings rings_;
  std::optional<AuxProducer> producer_;

  int fails(const std::string& call);
};

}  // namespace aftercheck::pt::test
