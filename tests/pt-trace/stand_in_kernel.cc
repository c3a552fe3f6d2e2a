#include "stand_in_kernel.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>

namespace aftercheck::pt::test {
namespace {

template <typename Record>
std::span<const uint8_t> bytes_of(const Record& record) {
  return {reinterpret_cast<const uint8_t*>(&record), sizeof record};
}

// linux/perf_event.h, enum perf_event_type.
struct AuxRecord {
  perf_event_header header{PERF_RECORD_AUX, 0, sizeof(AuxRecord)};
  uint64_t offset = 0, size = 0, flags = 0;
};
struct LostRecord {
  perf_event_header header{PERF_RECORD_LOST, 0, sizeof(LostRecord)};
  uint64_t id = 0, lost = 0;
};

}  // namespace

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
  if (*error == 0 && offset != 0 && (control_->aux_offset != offset || control_->aux_size != size))
    *error = EINVAL;
  if (*error != 0) return nullptr;
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  ++mappings;
  auto* bytes = static_cast<uint8_t*>(memory);
  if (offset == 0) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    control_ = static_cast<perf_event_mmap_page*>(memory);
    data_ = {bytes + page, size - page};
    control_->data_offset = page;
    control_->data_size = data_.size();
  } else {
    aux_ = {bytes, size};
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

void StandInKernel::record(std::span<const uint8_t> bytes) {
  for (const uint8_t byte : bytes) data_[data_head_++ % data_.size()] = byte;
  std::atomic_ref<__u64>(control_->data_head).store(data_head_, std::memory_order_release);
}

void StandInKernel::produce(std::span<const uint8_t> bytes, uint64_t flags) {
  if (!enabled) return;
  const uint64_t tail = std::atomic_ref<__u64>(control_->aux_tail).load(std::memory_order_acquire);
  const size_t room = aux_.size() - (aux_head_ - tail), size = std::min(room, bytes.size());
  AuxRecord aux;
  aux.offset = aux_head_;
  aux.size = size;
  aux.flags = flags;
  for (size_t i = 0; i < size; ++i) aux_[aux_head_++ % aux_.size()] = bytes[i];
  if (size < bytes.size()) {
    aux.flags |= PERF_AUX_FLAG_TRUNCATED;
    enabled = false;
  }
  std::atomic_ref<__u64>(control_->aux_head).store(aux_head_, std::memory_order_release);
  record(bytes_of(aux));
}

void StandInKernel::lose_records(uint64_t count) {
  LostRecord lost;
  lost.lost = count;
  record(bytes_of(lost));
}

}  // namespace aftercheck::pt::test
