// Memory of the recorder's that stands in for guest memory while a system call blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvm-recorder/answer.h"
#include "machine/address_space.h"

namespace aftercheck {

// While a call of one guest thread blocks, others run: what it reads or changes in guest memory then would be
// at no place in the log. So the host's kernel gets stand-ins: what goes out is copied before the call, what
// comes in is copied to the guest, and noted, after it.
//
// A stand-in fails where the guest's memory would: it is accessible as far as the guest's range is, from its
// start on, and what comes after it faults. It lies at the same place within a page (small ones: within a
// sector), since O_DIRECT asks for alignment. So the kernel's partial transfers and its order of errors are
// what they would be. One thread's.
class CallBuffers {
 public:
  explicit CallBuffers(const AddressSpace& space) : space_(space) {}
  ~CallBuffers();
  CallBuffers(const CallBuffers&) = delete;
  CallBuffers& operator=(const CallBuffers&) = delete;

  // From now on another thread of the guest may run while a call blocks. Before, nobody looks at the guest's
  // memory meanwhile, and the kernel gets that itself: stand_in() gives back the address that it is given.
  void others_run() { others_run_ = true; }

  // A call begins: stand-ins of earlier ones are gone.
  void begin();

  enum class Use : uint8_t {
    out,       // the kernel writes; from where on it did is known from its result
    contents,  // the kernel writes some of it, or reads it first: starts with what the guest has there
    in,        // the kernel reads
  };
  // The stand-in's address. Pointers that are null, or lead out of the guest's windows, stay what they are.
  uint64_t stand_in(uint64_t address, uint64_t size, Use use);

  // The kernel wrote `size` bytes at `host`, a stand-in's address: copies them to the guest's memory, as far
  // as both go, and notes them. False when `host` is none: the kernel had the guest's own memory.
  bool deliver(Answer& answer, uint64_t host, uint64_t size);
  // Some of what the call wrote couldn't be copied: another thread has taken the memory away meanwhile.
  bool lost() const { return lost_; }
  // The call failed with EFAULT: whatever of the stand-in the kernel may have written.
  bool deliver_reached(Answer& answer, uint64_t host);

  // The bytes of [address, +size) in the guest as the kernel got them: in a stand-in, or the guest's own if
  // the call has none. Null when the stand-in doesn't go that far.
  const std::byte* sent(uint64_t address, uint64_t size) const;

 private:
  bool others_run_ = false;

  struct Region {
    uint64_t address, size;  // in the guest
    uint64_t accessible;     // bytes from the start on
    std::byte* host;
    bool filled;  // has the guest's bytes, so that all of it may be copied back
  };
  struct Chunk {
    std::byte* start;
    uint64_t size;
    std::byte* guard = nullptr;  // a page that faults for the call under way
  };

  const AddressSpace& space_;
  std::vector<Region> regions_;
  std::vector<Chunk> chunks_;  // the first stays from call to call
  uint64_t used_ = 0;          // of the last chunk
  bool lost_ = false;          // see lost()
  bool faults_ = false;        // some pointer of this call leads to what can't be accessed

  const Region* find(uint64_t host) const;
  uint64_t accessible_size(uint64_t address, uint64_t size, int prot) const;
  std::byte* room(uint64_t address, uint64_t accessible, bool guarded);
  void expect_faults();
  static void fill(Region& region);
};

}  // namespace aftercheck
