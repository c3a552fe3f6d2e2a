#include "stand_in_kernel.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

namespace aftercheck::pt::test {
int StandInKernel::fails(const std::string& call) {
  const auto found = errors.find(call);
  return found == errors.end() ? 0 : -found->second;
}

int StandInKernel::open_event(const perf_event_attr& wanted, pid_t) {
  if (const int error = fails("perf_event_open")) return error;
  if ((wanted.config & ~feature_config) != 0) return -EINVAL;
  attributes = wanted;
  return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

void* StandInKernel::map(int, size_t size, uint64_t offset, int* error) {
  *error = -fails(offset == 0 ? "mmap" : "mmap aux");
  if (*error == 0 && size > memory_limit) *error = EPERM;
  if (*error == 0 && offset != 0 &&
      (rings_.control->aux_offset != offset || rings_.control->aux_size != size))
    *error = EINVAL;
  if (*error != 0) return nullptr;
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  ++mappings;
  auto* bytes = static_cast<uint8_t*>(memory);
  if (offset == 0) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    rings_.control = static_cast<perf_event_mmap_page*>(memory);
    rings_.data = {bytes + page, size - page};
    rings_.control->data_offset = page;
    rings_.control->data_size = rings_.data.size();
  } else {
    rings_.aux = {bytes, size};
    producer_.emplace(rings_);
  }
  return memory;
}

void StandInKernel::unmap(void* memory, size_t size) {
  munmap(memory, size);
  --mappings;
}

int StandInKernel::control(int, unsigned long request, const void* argument) {
  switch (request) {
    case PERF_EVENT_IOC_SET_FILTER:
      if (const int error = fails("PERF_EVENT_IOC_SET_FILTER")) return error;
      filter = static_cast<const char*>(argument);
      return 0;
    case PERF_EVENT_IOC_ENABLE:
      if (const int error = fails("PERF_EVENT_IOC_ENABLE")) return error;
      enabled = true;
      return 0;
    case PERF_EVENT_IOC_DISABLE:
      enabled = false;
      return 0;
    default:
      return -ENOTTY;
  }
}

void StandInKernel::produce(std::span<const uint8_t> bytes, uint64_t flags) {
  if (!enabled) return;
  const size_t room = producer_->room();
  const bool full = room < bytes.size();
  producer_->put(full ? bytes.first(room) : bytes, flags | (full ? PERF_AUX_FLAG_TRUNCATED : 0));
  enabled = !full;
}

void StandInKernel::lose_records(uint64_t count) { producer_->lose_records(count); }

}  // namespace aftercheck::pt::test
