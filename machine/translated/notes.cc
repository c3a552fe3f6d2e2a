#include "machine/translated/notes.h"

#include <sys/mman.h>

#include <cerrno>

#include "base/error.h"

namespace aftercheck::translated {

NoteBuffer::NoteBuffer(uint64_t& next_note, uint64_t& next_target, uint64_t& next_address)
    : next_note_(next_note), next_target_(next_target), next_address_(next_address) {
  void* memory = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    fail(ErrorKind::host_lacks, "no memory to note control flow in: {}", errno_text(errno));
  memory_ = static_cast<std::byte*>(memory);
  // A target may be read where there is none any more.
  for (std::byte* const end :
       {memory_ + kNotes, memory_ + kNotes + kGuard + kTargets, memory_ + kSize - kGuard})
    if (mprotect(end, kGuard, PROT_READ) != 0) {
      const int error = errno;
      munmap(memory_, kSize);
      fail(ErrorKind::host_lacks, "no guard pages behind noted control flow: {}", errno_text(error));
    }
  clear();
}

NoteBuffer::~NoteBuffer() { munmap(memory_, kSize); }

void NoteBuffer::clear() {
  next_note_ = reinterpret_cast<uint64_t>(first_note());
  next_target_ = reinterpret_cast<uint64_t>(first_target());
  next_address_ = reinterpret_cast<uint64_t>(first_address());
}

bool NoteBuffer::is_overrun(uint64_t address) const {
  const uint64_t notes = reinterpret_cast<uint64_t>(first_note()) + kNotes;
  const uint64_t targets = reinterpret_cast<uint64_t>(first_target()) + kTargets;
  const uint64_t addresses = reinterpret_cast<uint64_t>(first_address()) + kAddresses;
  return address - notes < kGuard || address - targets < kGuard || address - addresses < kGuard;
}

void NoteBuffer::take_back_indirect() {
  next_note_ -= sizeof(uint32_t);
  next_target_ -= sizeof(uint64_t);
}

}  // namespace aftercheck::translated
