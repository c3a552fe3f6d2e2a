// The guest's address space. Guest virtual address = host virtual address: the guest lives in windows of our
// own address space, so pointers in system calls need no translation, and a change of mappings is a plain
// host mmap.
#pragma once

#include <sys/mman.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/interval_map.h"
#include "machine/trapped_instruction.h"

namespace aftercheck {

constexpr uint64_t kPageSize = 4096;
constexpr uint64_t page_down(uint64_t address) { return address & ~(kPageSize - 1); }
constexpr uint64_t page_up(uint64_t address) { return (address + kPageSize - 1) & ~(kPageSize - 1); }

struct Range {
  uint64_t start = 0, end = 0;  // [start, end)
  constexpr uint64_t size() const { return end - start; }
  constexpr bool contains(uint64_t address) const { return address >= start && address < end; }
  friend bool operator==(const Range&, const Range&) = default;
};

// Where guest memory may be; nothing of the host's own is ever inside.
// Low: for non-PIE programs (0x400000) and MAP_32BIT. Starts at the usual vm.mmap_min_addr, ends where
// AddressSanitizer's shadow begins (a page of it lies before the offset that it adds).
constexpr Range kLowWindow{0x10000, 0x7fff'7000};
// Main: everything movable. In one PML4 entry, as many GiB as there are memory slots below 2^39, clear of
// AddressSanitizer's shadow and of where Linux puts PIE programs (0x55..), libraries and stacks (0x7f..) of
// the host process itself.
constexpr Range kMainWindow{0x2000'0000'0000, 0x207d'0000'0000};
// Never given to a guest: translated code, within reach of what is at either end of the main window
// (machine/translated/code_area.h).
constexpr std::array<Range, 2> kCodeWindows = {
    {{0x1fff'c000'0000, kMainWindow.start}, {kMainWindow.end, 0x207d'4000'0000}}};
// Never given to a guest: here the checks of a replay keep what outlives them (checks/excursion.h).
// Reserved with the windows, so that it is free when a replay needs it.
constexpr Range kGhostWindow{0x207d'4000'0000, 0x207e'0000'0000};
// Of the low window, what a guest gets only where it asks for it by address: a machine may need memory below
// 2 GiB (AddressSpace::lend).
constexpr Range kLendable{kLowWindow.end - (uint64_t{64} << 20), kLowWindow.end};

// Beyond the windows a guest may ask for addresses of its own choice: sanitizers and language runtimes do
// (the shadow of AddressSanitizer from 0x7fff7000 on, its heap at 0x600000000000). They are reserved when
// they are first asked for, in whole stretches of this size, and count as windows from then on
// (AddressSpace::claim).
constexpr uint64_t kClaimSize = uint64_t{1} << 30;
// Where what fits into no window goes (a reservation of a terabyte).
constexpr Range kWideArea{0x3000'0000'0000, 0x5000'0000'0000};
// Never a guest's: where Linux puts a PIE program (0x5555'5555'4000 and up to 2^40 above), libraries and
// stack of the host process (mm/mmap.c, mmap_base; arch/x86/mm/mmap.c, 2^40 below the top), and the monitor
// of the machine on KVM.
constexpr Range kHostProgram{0x5500'0000'0000, 0x5700'0000'0000};
constexpr uint64_t kGuestEnd = 0x7e00'0000'0000;
// A guest may reserve these, but not use them: the soft vCPU's page tables are there
// (machine/soft/page_tables.h).
constexpr Range kTablesRange{0x80'0000'0000, 0x81'0000'0000};

// Could a guest have memory there: in the windows, or claimed? False for what overflows.
bool may_be_guest(uint64_t address, uint64_t size);
// The parts of the range where machines need to follow the mappings: all in the two windows; of what was
// claimed, the stretches of kClaimSize that were used (AddressSpace::bring_in). Elsewhere every byte is as it
// was mapped. Ascending.
std::vector<Range> used_parts(Range range);

// What the host's own mapping has where the guest's has `prot`: guest code is never executable on the host.
int host_protection(int prot);

// In one of the two windows that every guest has, that is, not in what was claimed.
bool in_fixed_window(uint64_t address);
// The window that has `address`, or an empty range.
Range window_of(uint64_t address);
// The parts of the range that lie in windows, claimed ones too, ascending.
std::vector<Range> parts_in_windows(Range range);
// True when [address, address+size) lies in windows, claimed ones too. No overflow for any input.
bool in_windows(uint64_t address, uint64_t size);

enum class Backing : uint8_t { anonymous, file };

// Names the contents of a mapped file for whoever maps it; means nothing here. All zero: no name.
using ContentsName = std::array<uint8_t, 16>;

// One guest mapping.
struct Mapping {
  uint64_t start = 0, end = 0;
  int prot = 0;  // PROT_*
  Backing backing = Backing::anonymous;
  bool shared = false;  // MAP_SHARED
  uint64_t offset = 0;  // file: offset of `start` in the file
  // File: its size when it was mapped, or what file_resized() said since; an access beyond its last page is a
  // SIGBUS.
  uint64_t file_size = 0;
  // File: not 0: the mapping shows the file with this number of the log as it is at any time, and not a copy.
  uint64_t number = 0;
  // File: the byte of the guest's file at offset 0 of what is mapped (a copy may begin later than the file).
  uint64_t copied_from = 0;
  // What mprotect may give (VM_MAYREAD and its kin, include/linux/mm.h); only the recorder asks.
  int may = PROT_READ | PROT_WRITE | PROT_EXEC;
  std::string name;                // what /proc/self/maps shows: a path, "[heap]", "[stack]" or ""
  uint64_t device = 0, inode = 0;  // file: of the guest's file, for /proc/self/maps; 0 in a replay
  ContentsName contents{};         // file: as given to map_file()
  // What a recorder keeps here for the guest's later calls (mark()); a replay has neither.
  bool locked = false;                                     // mlock(2)
  bool grows_down = false;                                 // MAP_GROWSDOWN
  bool left_out_of_forks = false, wiped_in_forks = false;  // MADV_DONTFORK, MADV_WIPEONFORK
  bool copy_for_shared = false;                            // a copy of what the guest has mapped MAP_SHARED

  // For IntervalMap.
  uint64_t extent() const { return end - start; }
  Mapping part(uint64_t skip, uint64_t size) const;
};

// A trapped instruction that has been replaced in guest code.
struct CodePatch {
  uint64_t address = 0;
  TrappedInstruction instruction{};
  std::array<uint8_t, 15> original{};  // the first `instruction.length` bytes
};

// A backend that mirrors the address space (page tables, memory slots, Unicorn's regions). Called after the
// host mapping has changed, before any vCPU runs again, on the thread that made the change.
class SpaceObserver {
 public:
  virtual ~SpaceObserver() = default;
  // [range) is now mapped with `prot` (possibly PROT_NONE), replacing whatever was there.
  virtual void on_map(Range range, int prot) = 0;
  virtual void on_unmap(Range range) = 0;
  virtual void on_protect(Range range, int prot) = 0;
  // Bytes in an executable mapping were changed by the host, or pages of it were discarded.
  virtual void on_code_change(Range range) = 0;
};

// All changes of guest mappings, in recording and replay alike, go through here. Functions named like system
// calls return 0 or a negative errno as the kernel would and leave everything unchanged on error; ranges must
// be page-aligned and inside the windows (else -EINVAL / -ENOMEM as mmap(2) says). Not thread-safe: the
// caller holds the guest's token.
class AddressSpace {
 public:
  // Reserves the windows, and the ghost window, in this process (PROT_NONE, MAP_NORESERVE). Throws
  // Error(host_lacks) when something else is already there; at most one AddressSpace can exist at a time.
  AddressSpace();
  ~AddressSpace();
  AddressSpace(const AddressSpace&) = delete;
  AddressSpace& operator=(const AddressSpace&) = delete;

  // Makes the range a part of the guest's address space: 0; or -ENOMEM where it can't be, because it is never
  // a guest's (may_be_guest) or the host has something of its own there.
  int claim(Range range);
  // An access to `address` met nothing. True: it lies in claimed memory that was not used before, the
  // observers have now been told of its mappings (on_map), and the access is to be tried again. Mappings of
  // terabytes, nearly all of them never touched, would otherwise be page tables, memory slots, and hours of
  // looking for pages.
  bool bring_in(uint64_t address);

  // The observer must outlive its registration. It is told about every mapping that already exists.
  void add_observer(SpaceObserver* observer);
  void remove_observer(SpaceObserver* observer);

  int map_anonymous(Range range, int prot, bool shared, const std::string& name = "");
  // What is known of a mapped file beside its descriptor: those members of Mapping.
  struct FileDetails {
    uint64_t device = 0, inode = 0;
    ContentsName contents{};
    uint64_t number = 0;
    uint64_t copied_from = 0;
    int may = PROT_READ | PROT_WRITE | PROT_EXEC;
  };
  // Maps `fd` at `offset` (page-aligned). `shared` maps MAP_SHARED: writes reach the file.
  int map_file(Range range, int prot, int fd, uint64_t offset, bool shared, const std::string& name,
               const FileDetails& details);
  int map_file(Range range, int prot, int fd, uint64_t offset, bool shared, const std::string& name = "") {
    return map_file(range, prot, fd, offset, shared, name, {});
  }
  // Attaches the System V segment (shmat(2)), all of it: the range has its size in whole pages. Without
  // PROT_WRITE it is attached read-only.
  int attach_segment(Range range, int prot, int segment, const std::string& name, const FileDetails& details);
  // The file with this number is now so long; its mappings end, or go on, accordingly.
  void file_resized(uint64_t number, uint64_t size);
  // Bytes [from, from + size) of the file with this number were changed, by other means than a mapping.
  void file_written(uint64_t number, uint64_t from, uint64_t size);
  int unmap(Range range);
  int protect(Range range, int prot);
  // mremap(2) with a fixed target that does not overlap the source; to.size() may be smaller or larger. The
  // source must lie in one mapping. In-place growth is expressed as from.start == to.start.
  int remap(Range from, Range to);
  // Sets one of a mapping's marks (Mapping::locked and what follows it) in the mapped parts of the range.
  void mark(Range range, bool Mapping::*what, bool value);
  // MADV_DONTNEED: anonymous pages read as zero again, private file pages as the file's.
  int discard(Range range);
  // Forgets everything (execve).
  void clear();

  // Memory of the host's own somewhere in kLendable (at random), readable and writable, all zeros: until
  // take_back() guests get none there (-ENOMEM). `size` in whole pages. Throws Error(host_lacks) where it is
  // all in use. At `wished` if that is one of the places and free.
  Range lend(uint64_t size, uint64_t wished = 0);
  void take_back(Range lent);

  // The mapping that holds `address`, or null. Invalidated by the next change.
  const Mapping* find(uint64_t address) const;
  // True when every byte of [address, address+size) is mapped with all of `prot` (PROT_READ, ... or'ed; 0 =
  // mapped at all).
  bool accessible(uint64_t address, uint64_t size, int prot) const;
  // All mappings, by start address.
  const std::map<uint64_t, Mapping>& mappings() const { return mappings_.entries(); }
  // A free range of `size` bytes (page-multiple) in the main window, the highest below `below` (0: anywhere),
  // with the kernel's habit of growing downwards; nullopt when there is none. `window` selects another
  // window.
  std::optional<Range> find_free(uint64_t size, uint64_t below = 0, Range window = kMainWindow) const;

  // Host-side access. read and write return false when some byte is not mapped or its page can't be touched;
  // prot does not matter (the host may read PROT_NONE-but-mapped pages by lifting the protection for the
  // moment).
  bool read(uint64_t address, void* destination, size_t size) const;
  bool write(uint64_t address, const void* source, size_t size);
  // The kernel wrote these bytes in a system call made on the guest's behalf: tells the observers where it
  // was code.
  void host_wrote(Range range);

  // Replaces `patch.instruction.length` bytes at patch.address by the trap and remembers it, or does nothing
  // and returns false when the bytes there aren't patch.original or aren't mapped. Patches disappear with
  // their mapping, move with remap, are put back after discard, and give way to the original bytes where
  // memory stops being executable: a program may read its code as data then.
  bool apply_patch(const CodePatch& patch);
  // As apply_patch() for each of them, by ascending address: the addresses of those that were applied. Memory
  // that the guest can't write is opened once for all that lie in one mapping.
  std::vector<uint64_t> apply_patches(std::span<const CodePatch> patches);
  // The patch at exactly this address, or null.
  const CodePatch* patch_at(uint64_t address) const;
  const std::map<uint64_t, CodePatch>& patches() const { return patches_; }

 private:
  IntervalMap<Mapping> mappings_;
  std::map<uint64_t, CodePatch> patches_;  // by address
  std::vector<SpaceObserver*> observers_;
  std::vector<Range> lent_;
  Range opened_;  // writable for the host at the moment, whatever its mapping says (apply_patches)

  bool is_lent(Range range) const;
  // A stretch of claimed memory holds something from now on: false if it did before.
  bool use(uint64_t address);
  void use_all(Range range);
  void erase_range(Range range);
  void erase_patches(Range range);
  void lift_patches(Range range);
  void insert(Mapping mapping);
  int install(Range range, int prot, void* mapped, Mapping mapping);
  int move_mapping(Range from, Range to);
  int grow_in_place(const Mapping& old, Range to);
  // Calls `visit(mapping, part)` for the part of every mapping in `range`, by ascending address; false when
  // some of the range is not mapped (nothing is visited then).
  template <typename Visit>
  bool for_each_part(Range range, Visit visit) const;
};

}  // namespace aftercheck
