// Mappings: where they go, what is refused.
#include <fcntl.h>
#include <unistd.h>

#include <fstream>

#include "syscall_fixture.h"

using namespace aftercheck;
using namespace aftercheck::test;

namespace {

constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS;
constexpr int kRw = PROT_READ | PROT_WRITE;

}  // namespace

TEST_CASE("mmap places mappings in the windows", "[memory]") {
  SystemCalls guest;
  const long first = guest.call(SYS_mmap, 0, 10000, kRw, kAnonymous, -1, 0);
  REQUIRE(first > 0);
  CHECK(kMainWindow.contains(static_cast<uint64_t>(first)));
  REQUIRE(guest.space_ops.size() == 1);
  CHECK(guest.space_ops[0].length == 3 * kPageSize);
  const uint64_t hint = kMainWindow.start + (1ULL << 35);
  CHECK(guest.call(SYS_mmap, hint + kPageSize + 1, 4096, kRw, kAnonymous, -1, 0) ==
        static_cast<long>(hint + kPageSize));
  CHECK(guest.call(SYS_mmap, hint + kPageSize, 4096, kRw, kAnonymous, -1, 0) !=
        static_cast<long>(hint + kPageSize));
  const long low = guest.call(SYS_mmap, 0, 4096, kRw, kAnonymous | MAP_32BIT, -1, 0);
  CHECK(kLowWindow.contains(static_cast<uint64_t>(low)));
  CHECK(guest.call(SYS_mmap, hint + kPageSize, 4096, kRw, kAnonymous | MAP_FIXED, -1, 0) ==
        static_cast<long>(hint + kPageSize));
  CHECK(guest.call(SYS_mmap, hint + kPageSize, 4096, kRw, kAnonymous | MAP_FIXED_NOREPLACE, -1, 0) ==
        -EEXIST);
  CHECK(guest.call(SYS_mmap, 0, 0, kRw, kAnonymous, -1, 0) == -EINVAL);
  CHECK(guest.call(SYS_mmap, 0, ~0ULL - 100, kRw, kAnonymous, -1, 0) == -ENOMEM);
  CHECK(guest.call(SYS_mmap, 0, 1ULL << 46, kRw, kAnonymous, -1, 0) == -ENOMEM);
  CHECK(guest.call(SYS_mmap, 0, 4096, kRw, MAP_ANONYMOUS, -1, 0) == -EINVAL);
  CHECK(guest.call(SYS_mmap, 0, 4096, kRw, MAP_PRIVATE, -1, 0) == -EBADF);
  CHECK(guest.call(SYS_mmap, 0, 4096, kRw, kAnonymous, -1, 100) == -EINVAL);
}

TEST_CASE("MAP_FIXED outside the windows is refused with a line", "[memory]") {
  SystemCalls guest;
  int ours = 4711;
  const uint64_t target = page_down(reinterpret_cast<uint64_t>(&ours));
  CHECK(guest.call(SYS_mmap, target, 4096, kRw, kAnonymous | MAP_FIXED, -1, 0) == -ENOMEM);
  CHECK(guest.call(SYS_mmap, kMainWindow.end - 4096, 8192, kRw, kAnonymous | MAP_FIXED, -1, 0) == -ENOMEM);
  CHECK(guest.call(SYS_mmap, target + 1, 4096, kRw, kAnonymous | MAP_FIXED, -1, 0) == -EINVAL);
  CHECK(guest.call(SYS_munmap, target, 4096) == 0);  // nothing of the guest's is there
  CHECK(guest.call(SYS_mprotect, target, 4096, PROT_NONE) == -ENOMEM);
  CHECK(guest.call(SYS_madvise, target, 4096, MADV_DONTNEED) == -ENOMEM);
  CHECK(guest.call(SYS_mremap, target, 4096, 8192, MREMAP_MAYMOVE, 0) == -EFAULT);
  CHECK(guest.call(SYS_mremap, SystemCalls::kBase, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, target) ==
        -EINVAL);
  CHECK(guest.call(SYS_msync, target, 4096, 4) < 0);
  CHECK(guest.call(SYS_mlock, target, 4096) < 0);
  CHECK(guest.call(SYS_mincore, target, 4096, guest.room(8)) == -ENOMEM);
  CHECK(ours == 4711);
  REQUIRE(guest.messages.size() == 1);
  CHECK(guest.messages[0].find("can't be given to it") != std::string::npos);
}

TEST_CASE("files are mapped as their descriptors allow", "[memory]") {
  SystemCalls guest;
  const std::string path = guest.directory.write("file", std::string(5000, 'f'));
  const uint64_t name = guest.text(path);
  const long reader = guest.call(SYS_open, name, O_RDONLY), writer = guest.call(SYS_open, name, O_WRONLY),
             both = guest.call(SYS_open, name, O_RDWR);
  const long copy = guest.call(SYS_mmap, 0, 5000, kRw, MAP_PRIVATE, reader, 0);
  REQUIRE(copy > 0);
  CHECK(guest.string_at(static_cast<uint64_t>(copy), 5) == "fffff");
  CHECK(guest.call(SYS_mmap, 0, 5000, kRw, MAP_SHARED, reader, 0) == -EACCES);
  CHECK(guest.call(SYS_mmap, 0, 5000, PROT_READ, MAP_PRIVATE, writer, 0) == -EACCES);
  const long shared = guest.call(SYS_mmap, 0, 5000, kRw, MAP_SHARED, both, 0);
  REQUIRE(shared > 0);
  REQUIRE(guest.space_ops.size() == 1);  // the log has the file from the mapping before
  CHECK(guest.space_ops[0].shared);
  const uint64_t number = guest.space_ops[0].new_address;
  CHECK(number != 0);
  *reinterpret_cast<char*>(shared) = 'g';
  CHECK(std::ifstream(path).get() == 'g');
  CHECK(*reinterpret_cast<char*>(copy) == 'g');
  // A write to the mapped file changes guest memory.
  CHECK(guest.call(SYS_pwrite64, both, guest.text("hh"), 2, 0) == 2);
  REQUIRE(guest.space_ops.size() == 1);
  CHECK(guest.space_ops[0].kind == recording::SpaceOpKind::fill_file);
  CHECK(guest.space_ops[0].new_address == number);
  CHECK(guest.space_ops[0].bytes == std::vector<std::byte>(2, std::byte{'h'}));
  CHECK(*reinterpret_cast<char*>(shared) == 'h');
  REQUIRE(guest.call(SYS_mmap, 0, 5000, PROT_READ, MAP_SHARED, reader, 0) > 0);
  CHECK(guest.space_ops.back().shared);
  CHECK(guest.space_ops.back().new_address == number);
  // What the guest can't change is the store's copy, until it can.
  const long other = guest.call(SYS_open, guest.text(guest.directory.write("other", "1111")), O_RDONLY);
  const long snapshot = guest.call(SYS_mmap, 0, 4096, PROT_READ, MAP_SHARED, other, 0);
  REQUIRE(snapshot > 0);
  CHECK(guest.space_ops.back().new_address == 0);
  std::ofstream(guest.directory.path() / "other") << "2222";
  CHECK(*reinterpret_cast<char*>(snapshot) == '1');
  const long late = guest.call(SYS_open, guest.text(guest.directory.path() / "other"), O_WRONLY);
  REQUIRE(late > 0);
  CHECK(guest.space_ops.back().new_address > number);
  CHECK(*reinterpret_cast<char*>(snapshot) == '2');
  const long zero = guest.call(SYS_open, guest.text("/dev/zero"), O_RDWR);
  CHECK(guest.call(SYS_mmap, 0, 4096, kRw, MAP_PRIVATE, zero, 0) > 0);
  CHECK(guest.call(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE, guest.call(SYS_open, guest.text("/"), O_RDONLY),
                   0) == -ENODEV);
  CHECK(guest.call(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE,
                   guest.call(SYS_open, guest.text("/dev/null"), O_RDONLY), 0) == -ENODEV);
  CHECK(guest.messages.size() == 1);
}

TEST_CASE("a kept file that somebody changed in the store is not mapped again", "[memory]") {
  SystemCalls guest;
  const std::filesystem::path store = guest.scratch.path() / "store";
  const long file = guest.call(SYS_open, guest.text(guest.directory.write("mapped", "1111")), O_RDONLY);
  const auto map = [&] { return guest.call(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE, file, 0); };
  REQUIRE(map() > 0);
  REQUIRE(map() > 0);
  for (const auto& blob : std::filesystem::directory_iterator(store)) {
    SECTION("changed") {
      std::filesystem::permissions(blob, std::filesystem::perms::owner_all);
      std::ofstream(blob.path()) << "22222";
    }
    SECTION("removed") { std::filesystem::remove(blob); }
  }
  CHECK_THROWS_AS(map(), Error);
}

TEST_CASE("brk grows and shrinks the heap", "[memory]") {
  SystemCalls guest;
  const uint64_t heap = kMainWindow.start + (1ULL << 34) + 0x123;
  guest.process.heap_start = guest.process.heap_end = heap;
  CHECK(guest.call(SYS_brk, 0) == static_cast<long>(heap));
  CHECK(guest.call(SYS_brk, heap + 100) == static_cast<long>(heap + 100));
  CHECK(guest.space_ops.empty());  // the same page... of which nothing is mapped below the first boundary
  CHECK(guest.call(SYS_brk, heap + 10000) == static_cast<long>(heap + 10000));
  REQUIRE(guest.space_ops.size() == 1);
  CHECK(guest.space_ops[0].name == "[heap]");
  std::memset(reinterpret_cast<void*>(page_up(heap)), 1, 8000);
  CHECK(guest.call(SYS_brk, heap + 5000) == static_cast<long>(heap + 5000));
  CHECK(guest.call(SYS_brk, heap + 10000) == static_cast<long>(heap + 10000));
  CHECK(*reinterpret_cast<char*>(page_up(heap + 5000)) == 0);
  CHECK(guest.call(SYS_brk, heap - 1) == static_cast<long>(heap + 10000));
  CHECK(guest.call(SYS_brk, ~0ULL) == static_cast<long>(heap + 10000));
  REQUIRE(guest.memory.map_anonymous(guest.answer, {page_up(heap) + (1 << 20), page_up(heap) + (2 << 20)},
                                     PROT_READ, false) == 0);
  CHECK(guest.call(SYS_brk, heap + (3 << 20)) == static_cast<long>(heap + 10000));
}

TEST_CASE("mremap grows, moves and shrinks", "[memory]") {
  SystemCalls guest;
  const uint64_t place = kMainWindow.start + (1ULL << 34);
  REQUIRE(guest.call(SYS_mmap, place, 2 * kPageSize, kRw, kAnonymous | MAP_FIXED, -1, 0) > 0);
  std::memset(reinterpret_cast<void*>(place), 'm', 2 * kPageSize);
  const auto unmoved = static_cast<long>(place);
  CHECK(guest.call(SYS_mremap, place, 2 * kPageSize, 4 * kPageSize, 0, 0) == unmoved);
  REQUIRE(guest.call(SYS_mmap, place + 4 * kPageSize, kPageSize, kRw, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED,
                     -1, 0) > 0);
  CHECK(guest.call(SYS_mremap, place, 4 * kPageSize, 8 * kPageSize, 0, 0) == -ENOMEM);
  const long moved = guest.call(SYS_mremap, place, 4 * kPageSize, 8 * kPageSize, MREMAP_MAYMOVE, 0);
  REQUIRE(moved > 0);
  CHECK(moved != unmoved);
  CHECK(*reinterpret_cast<char*>(moved + kPageSize) == 'm');
  CHECK(guest.memory.space().find(place) == nullptr);
  CHECK(guest.call(SYS_mremap, moved, 8 * kPageSize, kPageSize, 0, 0) == moved);
  CHECK(guest.memory.space().find(static_cast<uint64_t>(moved) + kPageSize) == nullptr);
  CHECK(guest.call(SYS_mremap, moved, kPageSize, kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, place) == unmoved);
  CHECK(*reinterpret_cast<char*>(place) == 'm');
  CHECK(guest.call(SYS_mremap, place, kPageSize, kPageSize, MREMAP_FIXED, place) == -EINVAL);
  CHECK(guest.call(SYS_mremap, place, 0, kPageSize, MREMAP_MAYMOVE, 0) == -EINVAL);
  CHECK(guest.call(SYS_mremap, place + (1 << 30), kPageSize, 2 * kPageSize, MREMAP_MAYMOVE, 0) == -EFAULT);
}

TEST_CASE("madvise discards or does nothing", "[memory]") {
  SystemCalls guest;
  const auto place = static_cast<uint64_t>(guest.call(SYS_mmap, 0, 2 * kPageSize, kRw, kAnonymous, -1, 0));
  char& byte = *reinterpret_cast<char*>(place);
  byte = 'x';
  CHECK(guest.call(SYS_madvise, place, kPageSize, MADV_FREE) == 0);
  CHECK(byte == 'x');
  CHECK(guest.call(SYS_madvise, place, kPageSize, MADV_DONTNEED) == 0);
  REQUIRE(guest.space_ops.size() == 1);
  CHECK(guest.space_ops[0].kind == recording::SpaceOpKind::discard);
  CHECK(byte == 0);
  CHECK(guest.call(SYS_madvise, place, kPageSize, MADV_REMOVE) == -EINVAL);
  CHECK(guest.call(SYS_madvise, place + 1, kPageSize, MADV_DONTNEED) == -EINVAL);
  CHECK(guest.call(SYS_mincore, place, 2 * kPageSize, guest.room(2)) == 0);
  CHECK(guest.noted_bytes == 2);
  CHECK(guest.call(SYS_mprotect, place, kPageSize, PROT_READ) == 0);
  CHECK(guest.call(SYS_mprotect, place, kPageSize, 0x100) == -EINVAL);
  CHECK(guest.call(SYS_read, guest.call(SYS_open, guest.text("/dev/zero"), O_RDONLY), place, 10) == -EFAULT);
  CHECK(guest.noted_bytes == 0);
}
