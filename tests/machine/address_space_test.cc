#include "machine/address_space.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <cstring>
#include <random>

#include "base/error.h"
#include "base/fd.h"
#include "base/guarded_copy.h"

namespace {

using namespace aftercheck;

constexpr uint64_t kBase = kMainWindow.start + 0x10000000;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;

Range pages(uint64_t first, uint64_t count) {
  return {kBase + first * kPageSize, kBase + (first + count) * kPageSize};
}

UniqueFd file_of(size_t size, uint8_t fill) {
  UniqueFd fd(memfd_create("test", MFD_CLOEXEC));
  std::vector<uint8_t> bytes(size, fill);
  REQUIRE(write(fd.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(size));
  return fd;
}

uint8_t byte_at(const AddressSpace& space, uint64_t address) {
  uint8_t byte = 0;
  REQUIRE(space.read(address, &byte, 1));
  return byte;
}

TEST_CASE("Windows: no overflow, whole ranges only") {
  CHECK(in_windows(kLowWindow.start, kLowWindow.size()));
  CHECK_FALSE(in_windows(kLowWindow.start, kLowWindow.size() + 1));
  CHECK_FALSE(in_windows(kLowWindow.start - 1, 1));
  CHECK_FALSE(in_windows(kMainWindow.end - 1, UINT64_MAX));
  CHECK_FALSE(in_windows(UINT64_MAX, 2));
  CHECK(in_windows(kMainWindow.end, 0));
}

TEST_CASE("Memory beyond the windows is claimed, and never what the host needs") {
  constexpr uint64_t kShadow = 0x7fff'8000, kShadowEnd = 0x1000'7fff'8000, kHeap = 0x2800'0000'0000;
  AddressSpace space;
  CHECK_FALSE(in_windows(kHeap, kPageSize));
  CHECK(space.map_anonymous({kHeap, kHeap + kPageSize}, kReadWrite, false) == -ENOMEM);
  REQUIRE(space.claim({kHeap, kHeap + kPageSize}) == 0);
  CHECK(in_windows(kHeap, kClaimSize));
  CHECK_FALSE(in_windows(kHeap, kClaimSize + 1));
  REQUIRE(space.map_anonymous({kHeap, kHeap + kPageSize}, kReadWrite, false) == 0);
  CHECK(used_parts({kHeap, kHeap + kClaimSize}).empty());
  CHECK_FALSE(space.bring_in(kHeap + kPageSize));  // nothing is mapped there
  CHECK(space.bring_in(kHeap + 5));
  CHECK_FALSE(space.bring_in(kHeap + 5));
  // What moves there is used, and what is written, whatever the protection.
  REQUIRE(space.map_anonymous(pages(0, 1), kReadWrite, false) == 0);
  REQUIRE(space.claim({kHeap + 4 * kClaimSize, kHeap + 6 * kClaimSize}) == 0);
  const uint64_t moved = kHeap + 5 * kClaimSize, forbidden = kHeap + 4 * kClaimSize;
  REQUIRE(space.remap(pages(0, 1), {moved, moved + kPageSize}) == 0);
  REQUIRE(space.map_anonymous({forbidden, forbidden + kPageSize}, PROT_NONE, false) == 0);
  CHECK(space.write(forbidden, "x", 1));
  CHECK(used_parts({forbidden, moved + kClaimSize}) ==
        std::vector<Range>{{forbidden, forbidden + kClaimSize}, {moved, moved + kClaimSize}});
  CHECK(used_parts({kHeap - kClaimSize, kHeap + 2 * kClaimSize}) ==
        std::vector<Range>{{kHeap, kHeap + kClaimSize}});
  for (const Range& never :
       {kGhostWindow, kHostProgram, Range{kGuestEnd, kGuestEnd + kPageSize}, Range{0x1000, 0x2000},
        Range{kMainWindow.end - kPageSize, kMainWindow.end + kPageSize}})
    CHECK(space.claim(never) == -ENOMEM);
  CHECK_FALSE(may_be_guest(UINT64_MAX, 2));
  if (space.claim({kShadow, kShadowEnd}) != 0) return;                 // this is AddressSanitizer's own
  CHECK(in_windows(kLowWindow.start, kShadowEnd - kLowWindow.start));  // side by side
  // A reservation may cover the soft vCPU's page tables, a use may not.
  REQUIRE(space.map_anonymous({kShadow, kShadowEnd}, PROT_NONE, false) == 0);
  CHECK(space.protect(kTablesRange, kReadWrite) == -ENOMEM);
  CHECK(space.protect({kTablesRange.end, kTablesRange.end + kPageSize}, kReadWrite) == 0);
  const uint64_t value = 7;
  CHECK(space.write(kTablesRange.end, &value, sizeof value));
  CHECK(used_parts({kShadow, kShadowEnd}) ==
        std::vector<Range>{{kTablesRange.end, kTablesRange.end + kClaimSize}});
  space.clear();
  CHECK(space.mappings().empty());
}

TEST_CASE("Marks go with their part of a mapping, and keep it apart") {
  AddressSpace space;
  REQUIRE(space.map_anonymous(pages(0, 8), kReadWrite, false) == 0);
  space.mark(pages(2, 2), &Mapping::locked, true);
  REQUIRE(space.mappings().size() == 3);
  CHECK(space.find(pages(3, 1).start)->locked);
  CHECK_FALSE(space.find(pages(4, 1).start)->locked);
  space.mark(pages(0, 8), &Mapping::locked, false);
  CHECK(space.mappings().size() == 1);
}

TEST_CASE("One address space at a time") {
  AddressSpace space;
  CHECK_THROWS_AS(AddressSpace(), Error);
}

TEST_CASE("Mapping, splitting, protecting, unmapping") {
  AddressSpace space;
  REQUIRE(space.map_anonymous(pages(0, 8), kReadWrite, false) == 0);
  REQUIRE(space.protect(pages(2, 2), PROT_READ) == 0);
  CHECK(space.mappings().size() == 3);
  CHECK(space.accessible(pages(0, 8).start, 8 * kPageSize, PROT_READ));
  CHECK_FALSE(space.accessible(pages(0, 8).start, 8 * kPageSize, PROT_WRITE));
  REQUIRE(space.protect(pages(2, 2), kReadWrite) == 0);
  CHECK(space.mappings().size() == 1);  // merged again
  REQUIRE(space.unmap(pages(3, 1)) == 0);
  CHECK(space.find(pages(3, 1).start) == nullptr);
  CHECK(space.protect(pages(2, 3), PROT_READ) == -ENOMEM);
  CHECK(space.mappings().size() == 2);  // nothing changed
  CHECK(space.map_anonymous({kBase + 1, kBase + kPageSize}, kReadWrite, false) == -EINVAL);
  CHECK(space.map_anonymous({0x7f0000000000, 0x7f0000001000}, kReadWrite, false) == -ENOMEM);
}

TEST_CASE("Parts of a file's mapping show the file from where they are") {
  AddressSpace space;
  const UniqueFd fd = file_of(8 * kPageSize, 1);
  REQUIRE(space.map_file(pages(0, 6), PROT_READ, fd.get(), kPageSize, false) == 0);
  REQUIRE(space.protect(pages(2, 2), PROT_NONE) == 0);
  REQUIRE(space.unmap(pages(5, 1)) == 0);
  CHECK(space.find(pages(0, 1).start)->offset == kPageSize);
  CHECK(space.find(pages(3, 1).start)->offset == 3 * kPageSize);
  CHECK(space.find(pages(4, 1).start)->offset == 5 * kPageSize);
}

TEST_CASE("Host access does not care about protection, and survives missing pages") {
  AddressSpace space;
  REQUIRE(space.map_anonymous(pages(0, 2), PROT_NONE, false) == 0);
  const char text[] = "across the pages";
  const uint64_t address = pages(1, 1).start - 5;
  REQUIRE(space.write(address, text, sizeof text));
  char back[sizeof text] = {};
  REQUIRE(space.read(address, back, sizeof back));
  CHECK(std::strcmp(text, back) == 0);
  CHECK_FALSE(space.read(pages(2, 1).start - 1, back, 2));
  CHECK_FALSE(space.write(pages(2, 1).start - 1, back, 2));
  const UniqueFd fd = file_of(100, 1);
  REQUIRE(space.map_file(pages(4, 2), PROT_READ, fd.get(), 0, false) == 0);
  CHECK(byte_at(space, pages(4, 1).start + 99) == 1);
  CHECK(byte_at(space, pages(4, 1).start + 100) == 0);
  CHECK_FALSE(space.read(pages(5, 1).start, back, 1));  // SIGBUS for others
}

TEST_CASE("remap grows, shrinks and moves with the contents") {
  AddressSpace space;
  REQUIRE(space.map_anonymous(pages(0, 4), kReadWrite, false) == 0);
  const uint8_t mark = 42;
  REQUIRE(space.write(pages(3, 1).start, &mark, 1));
  REQUIRE(space.remap(pages(0, 4), pages(0, 6)) == 0);
  CHECK(space.accessible(kBase, 6 * kPageSize, PROT_WRITE));
  REQUIRE(space.remap(pages(0, 6), pages(100, 5)) == 0);
  CHECK(byte_at(space, pages(103, 1).start) == mark);
  CHECK(space.find(kBase) == nullptr);
  REQUIRE(space.remap(pages(100, 5), pages(100, 4)) == 0);
  CHECK_FALSE(space.accessible(pages(104, 1).start, 1, 0));
  CHECK(space.remap(pages(100, 4), pages(102, 4)) == -EINVAL);  // overlaps
  CHECK(space.remap(pages(200, 1), pages(300, 1)) == -EFAULT);
  const UniqueFd fd = file_of(8 * kPageSize, 9);
  REQUIRE(space.map_file(pages(10, 2), PROT_READ, fd.get(), 2 * kPageSize, false) == 0);
  REQUIRE(space.remap(pages(10, 2), pages(10, 4)) == 0);
  CHECK(byte_at(space, pages(13, 1).start) == 9);
  REQUIRE(space.remap(pages(11, 2), pages(50, 2)) == 0);
  CHECK(space.find(pages(50, 1).start)->offset == 3 * kPageSize);
}

TEST_CASE("discard gives zeroes or the file again, and puts patches back") {
  AddressSpace space;
  const UniqueFd fd = file_of(2 * kPageSize, 0x90);
  const uint8_t rdtsc[2] = {0x0f, 0x31};
  REQUIRE(pwrite(fd.get(), rdtsc, 2, 64) == 2);
  REQUIRE(space.map_file(pages(0, 2), PROT_READ | PROT_EXEC, fd.get(), 0, false) == 0);
  CodePatch patch;
  patch.address = kBase + 64;
  patch.instruction = {TrappedKind::rdtsc, 2, 0, 0};
  patch.original = {0x0f, 0x31};
  REQUIRE(space.apply_patch(patch));
  CHECK(byte_at(space, kBase + 65) == kTrapBytes[1]);
  CHECK_FALSE(space.apply_patch(patch));  // the bytes are no longer the instruction's
  REQUIRE(space.discard(pages(0, 1)) == 0);
  CHECK(byte_at(space, kBase + 65) == kTrapBytes[1]);
  CHECK(space.patch_at(kBase + 64) != nullptr);
  REQUIRE(space.unmap(pages(0, 1)) == 0);
  CHECK(space.patch_at(kBase + 64) == nullptr);
}

TEST_CASE("patches go with code that moves, whole ones only, and away when it becomes data") {
  AddressSpace space;
  const UniqueFd fd = file_of(2 * kPageSize, 0x90);
  const uint8_t rdtsc[2] = {0x0f, 0x31}, cpuid_rdtsc[4] = {0x0f, 0xa2, 0x0f, 0x31};
  REQUIRE(pwrite(fd.get(), rdtsc, 2, 64) == 2);
  REQUIRE(pwrite(fd.get(), rdtsc, 2, kPageSize - 1) == 2);
  REQUIRE(pwrite(fd.get(), cpuid_rdtsc, 4, kPageSize + 100) == 4);
  REQUIRE(space.map_file(pages(0, 2), PROT_READ | PROT_EXEC, fd.get(), 0, false) == 0);
  for (const uint64_t at : {uint64_t{64}, kPageSize - 1, kPageSize + 102}) {
    CodePatch patch;
    patch.address = kBase + at;
    patch.instruction = {TrappedKind::rdtsc, 2, 0, 0};
    patch.original = {0x0f, 0x31};
    REQUIRE(space.apply_patch(patch));
  }
  // Only its first page: of the one that goes on into the second nothing is left to answer.
  REQUIRE(space.remap(pages(0, 2), pages(20, 1)) == 0);
  const uint64_t moved = pages(20, 1).start;
  CHECK(space.patch_at(moved + 64) != nullptr);
  CHECK(space.patches().size() == 1);
  CHECK(space.patch_at(kBase + 64) == nullptr);

  REQUIRE(space.protect(pages(20, 1), PROT_READ) == 0);
  CHECK(space.patches().empty());
  CHECK(byte_at(space, moved + 64) == 0x0f);
  CHECK(byte_at(space, moved + 65) == 0x31);
}

TEST_CASE("many patches are applied at once, and the memory is closed again") {
  AddressSpace space;
  const UniqueFd fd = file_of(4 * kPageSize, 0x90);
  const uint8_t rdtsc[2] = {0x0f, 0x31};
  std::vector<CodePatch> patches;
  for (const uint64_t at :
       {uint64_t{64}, uint64_t{66}, kPageSize - 1, 2 * kPageSize, 3 * kPageSize, 4 * kPageSize}) {
    REQUIRE(pwrite(fd.get(), rdtsc, at == 66 ? 1 : 2, static_cast<off_t>(at)) > 0);
    CodePatch& patch = patches.emplace_back();
    patch.address = kBase + at;
    patch.instruction = {TrappedKind::rdtsc, 2, 0, 0};
    patch.original = {0x0f, 0x31};
  }
  REQUIRE(space.map_file(pages(0, 3), PROT_READ | PROT_EXEC, fd.get(), 0, false) == 0);
  REQUIRE(space.map_file(pages(3, 1), PROT_READ | PROT_WRITE | PROT_EXEC, fd.get(), 3 * kPageSize, false) ==
          0);
  // The second one's bytes are others, and where the last one's were there is nothing.
  CHECK(space.apply_patches(patches) ==
        std::vector{kBase + 64, kBase + kPageSize - 1, kBase + 2 * kPageSize, kBase + 3 * kPageSize});
  for (const CodePatch& patch : patches)
    CHECK((space.patch_at(patch.address) != nullptr) ==
          (patch.address != kBase + 66 && patch.address != kBase + 4 * kPageSize));
  CHECK(byte_at(space, kBase + kPageSize) == kTrapBytes[1]);
  for (const uint64_t page : {0, 1, 2, 3})
    CHECK(guarded_copy(reinterpret_cast<void*>(kBase + page * kPageSize), rdtsc, 2) == (page == 3));
  CHECK(space.apply_patches({}).empty());
}

TEST_CASE("find_free: highest place below, always free") {
  AddressSpace space;
  std::mt19937_64 random(1);
  for (int i = 0; i < 300; ++i) {
    const uint64_t count = 1 + random() % 16;
    const auto range = space.find_free(count * kPageSize, kBase);
    REQUIRE(range);
    CHECK(range->end <= kBase);
    for (const auto& [start, mapping] : space.mappings())
      CHECK((mapping.end <= range->start || start >= range->end));
    REQUIRE(space.map_anonymous(*range, PROT_READ, i % 2 == 0) == 0);
    if (i % 3 == 0) REQUIRE(space.unmap({range->start, range->start + kPageSize}) == 0);
  }
  CHECK_FALSE(space.find_free(kMainWindow.size() + kPageSize));
  CHECK_FALSE(space.find_free(123));
}

struct Watcher final : SpaceObserver {
  std::vector<std::pair<char, Range>> seen;
  void on_map(Range range, int) override { seen.push_back({'m', range}); }
  void on_unmap(Range range) override { seen.push_back({'u', range}); }
  void on_protect(Range range, int) override { seen.push_back({'p', range}); }
  void on_code_change(Range range) override { seen.push_back({'c', range}); }
};

TEST_CASE("Observers hear of what is there and of every change") {
  AddressSpace space;
  REQUIRE(space.map_anonymous(pages(0, 2), PROT_READ | PROT_EXEC, false) == 0);
  Watcher watcher;
  space.add_observer(&watcher);
  const uint8_t byte = 1;
  REQUIRE(space.write(kBase, &byte, 1));
  REQUIRE(space.protect(pages(0, 1), PROT_READ) == 0);
  REQUIRE(space.write(kBase, &byte, 1));
  REQUIRE(space.unmap(pages(0, 2)) == 0);
  const std::vector<std::pair<char, Range>> expected = {
      {'m', pages(0, 2)}, {'c', {kBase, kBase + 1}}, {'p', pages(0, 1)}, {'u', pages(0, 2)}};
  CHECK(watcher.seen == expected);
  space.remove_observer(&watcher);
  REQUIRE(space.map_anonymous(pages(0, 1), PROT_READ, false) == 0);
  CHECK(watcher.seen.size() == 4);
}

}  // namespace
