#include "kvm-recorder/call_buffers.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "base/guarded_copy.h"

namespace aftercheck {
namespace {

constexpr uint64_t kChunk = 1 << 20;
constexpr uint64_t kSector = 512;  // the smallest logical block of a disk (open(2), O_DIRECT)

}  // namespace

CallBuffers::~CallBuffers() {
  for (const Chunk& chunk : chunks_) munmap(chunk.start, chunk.size);
}

void CallBuffers::begin() {
  regions_.clear();
  used_ = 0;
  faults_ = lost_ = false;
  while (chunks_.size() > 1) {
    munmap(chunks_.back().start, chunks_.back().size);
    chunks_.pop_back();
  }
  if (!chunks_.empty() && chunks_.front().guard != nullptr) {
    mprotect(chunks_.front().guard, kPageSize, PROT_READ | PROT_WRITE);
    chunks_.front().guard = nullptr;
  }
}

uint64_t CallBuffers::accessible_size(uint64_t address, uint64_t size, int prot) const {
  const uint64_t end = address + size;
  uint64_t reached = address;
  while (reached < end) {
    const Mapping* mapping = space_.find(reached);
    // x86 has no write-only or execute-only pages.
    if (mapping == nullptr || mapping->prot == PROT_NONE ||
        (prot == PROT_WRITE && !(mapping->prot & PROT_WRITE)))
      break;
    uint64_t mapping_end = mapping->end;
    if (mapping->backing == Backing::file) {  // beyond the file's last page nothing can be accessed
      const uint64_t in_file = page_up(mapping->file_size);
      const uint64_t present = in_file > mapping->offset ? in_file - mapping->offset : 0;
      mapping_end = mapping->start + std::min(present, mapping->end - mapping->start);
      if (mapping_end <= reached) break;
    }
    reached = std::min(mapping_end, end);
    if (mapping_end != mapping->end) break;
  }
  return reached - address;
}

// Guarded: the page after the accessible bytes faults, which end where a page does in the guest too.
std::byte* CallBuffers::room(uint64_t address, uint64_t accessible, bool guarded) {
  const uint64_t alignment = guarded || accessible >= kPageSize ? kPageSize : kSector;
  const auto place = [&]() -> std::byte* {
    if (chunks_.empty() || (guarded && chunks_.back().guard != nullptr)) return nullptr;
    Chunk& chunk = chunks_.back();
    uint64_t at = (guarded ? page_up(used_) : used_ / alignment * alignment) + address % alignment;
    if (at < used_) at += alignment;
    const uint64_t guard = page_down(at + accessible);
    const uint64_t end = guarded ? guard + kPageSize : at + accessible;
    if (end > chunk.size) return nullptr;
    if (guarded) {
      if (mprotect(chunk.start + guard, kPageSize, PROT_NONE) != 0)
        fail(ErrorKind::host_lacks, "mprotect: {}", errno_text(errno));
      chunk.guard = chunk.start + guard;
    }
    used_ = end;
    return chunk.start + at;
  };
  if (std::byte* found = place()) return found;
  const uint64_t size = std::max(kChunk, page_up(accessible) + 3 * kPageSize);
  void* mapped =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED)
    fail(ErrorKind::host_lacks, "no {} bytes for a system call: {}", size, errno_text(errno));
  chunks_.push_back({static_cast<std::byte*>(mapped), size});
  used_ = 0;
  return place();
}

// What can't be read stays zero; the kernel does not get to it.
void CallBuffers::fill(Region& region) {
  if (!region.filled)
    guarded_copy(region.host, reinterpret_cast<const void*>(region.address), region.accessible);
  region.filled = true;
}

// The kernel may stop anywhere in what it would write, and does not say where.
void CallBuffers::expect_faults() {
  faults_ = true;
  for (Region& region : regions_) fill(region);
}

uint64_t CallBuffers::stand_in(uint64_t address, uint64_t size, Use use) {
  if (!others_run_) return address;
  if (address == 0) return address;
  if (!in_windows(address, std::max<uint64_t>(size, 1))) {
    expect_faults();
    return address;
  }
  if (size == 0) return address;  // the kernel touches nothing
  const uint64_t accessible = accessible_size(address, size, use == Use::in ? PROT_READ : PROT_WRITE);
  const bool guarded = accessible < size;
  if (guarded) expect_faults();
  regions_.push_back({address, size, accessible, room(address, accessible, guarded), false});
  if (use != Use::out || faults_) fill(regions_.back());
  return reinterpret_cast<uint64_t>(regions_.back().host);
}

const CallBuffers::Region* CallBuffers::find(uint64_t host) const {
  const auto found = std::ranges::find_if(
      regions_, [&](const Region& region) { return reinterpret_cast<uint64_t>(region.host) == host; });
  return found == regions_.end() ? nullptr : &*found;
}

bool CallBuffers::deliver(Answer& answer, uint64_t host, uint64_t size) {
  const Region* region = find(host);
  if (region == nullptr) return false;
  if (!answer.write(region->address, region->host, std::min(size, region->accessible))) lost_ = true;
  return true;
}

bool CallBuffers::deliver_reached(Answer& answer, uint64_t host) {
  const Region* region = find(host);
  if (region == nullptr) return false;
  // Without anything that faults in this call, the kernel found nothing to fault on before it wrote.
  if (faults_) answer.write(region->address, region->host, region->accessible);
  return true;
}

const std::byte* CallBuffers::sent(uint64_t address, uint64_t size) const {
  if (regions_.empty()) return reinterpret_cast<const std::byte*>(address);
  for (const Region& region : regions_)
    if (address >= region.address && address + size <= region.address + region.accessible)
      return region.host + (address - region.address);
  return nullptr;
}

}  // namespace aftercheck
