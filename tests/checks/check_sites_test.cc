// Tables of sites in memory that says anything.
#include "checks/check_sites.h"

#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <random>

#include "base/fd.h"
#include "check_fixture.h"

namespace aftercheck::test {
namespace {

// Maps a file at two addresses of the guest: as a loader maps its first segment, and its code.
class Mapped {
 public:
  explicit Mapped(const std::string& bytes) : file_(memfd_create("module", MFD_CLOEXEC)) {
    REQUIRE(write(file_.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
    const Range range{kBase, kBase + page_up(bytes.size())};
    REQUIRE(space.map_file(range, PROT_READ | PROT_EXEC, file_.get(), 0, false, "module") == 0);
    op_.kind = recording::SpaceOpKind::map_blob;
    op_.address = range.start;
    op_.length = range.size();
  }
  bool update(SiteTables& tables) { return tables.update({op_}); }

  static constexpr uint64_t kBase = kMainWindow.start + (64 << 20);
  AddressSpace space;

 private:
  UniqueFd file_;
  recording::SpaceOp op_;
};

class NoVcpu : public Vcpu {
 public:
  Exit run() override { return {}; }
  Exit step() override { return {}; }
  Registers& registers() override { return registers_; }
  FpuState fpu() override { return {}; }
  void set_fpu(const FpuState&) override {}
  void kick() noexcept override {}
  void clear_kick() noexcept override {}

 private:
  Registers registers_;
};

size_t count_sites(const std::string& bytes) {
  Mapped mapped(bytes);
  NoVcpu vcpu;
  const Breakpoints breakpoints(vcpu, mapped.space);
  SiteTables tables(mapped.space, breakpoints);
  mapped.update(tables);
  size_t places = 0;
  for (const auto& [start, module] : tables.modules()) places += module.places.size();
  return places;
}

}  // namespace

TEST_CASE("site tables: a real file's, its damage, and any cut of it") {
  const std::string whole = read_file(guest_path("plugin.so"));
  REQUIRE(count_sites(whole) >= 3);
  std::mt19937_64 random(1);
  for (int i = 0; i < 300; ++i) {
    std::string damaged = whole;
    // Headers, notes and the table are where it hurts.
    const size_t reach = i % 2 == 0 ? std::min<size_t>(damaged.size(), 0x400) : damaged.size();
    for (int j = 0; j < 8; ++j) damaged[random() % reach] = static_cast<char>(random());
    count_sites(damaged);
  }
  for (size_t size = 1; size < whole.size(); size += whole.size() / 40) count_sites(whole.substr(0, size));
}

TEST_CASE("site tables: a changed NOP is no site") {
  std::string bytes = read_file(guest_path("plugin.so"));
  const std::string nop("\x0f\x1f\x44\x00\x00", 5);
  size_t changed = 0;
  for (size_t at = bytes.find(nop); at != std::string::npos; at = bytes.find(nop, at + 1), ++changed)
    bytes[at] = '\x90';
  REQUIRE(changed > 0);
  CHECK(count_sites(bytes) == 0);
}

}  // namespace aftercheck::test
