// What `--machine auto` takes, and what it knows of a host.
#include "machine/machine_choice.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "tests/tools/tool_runner.h"

namespace aftercheck {
namespace {

using Catch::Matchers::Contains;
using Kinds = std::vector<MachineKind>;
using enum MachineKind;
namespace fs = std::filesystem;

ExitCosts costs(std::optional<double> kvm, std::optional<double> translated) {
  return {kvm, translated, "no KVM today", "no FSGSBASE"};
}

MachineOrder order(const ExitCosts& of_host, MachineNeeds needs = {},
                   CpuModelKind cpu = CpuModelKind::portable) {
  return machines_in_order(needs, cpu, [&] { return of_host; });
}

}  // namespace

TEST_CASE("automatic: what exits cost decides between KVM and translated code") {
  CHECK(order(costs(1.5, 0.1)).kinds == Kinds{kvm, translated, soft});
  CHECK(order(costs(kCheapExit, 0.1)).kinds == Kinds{kvm, translated, soft});
  CHECK(order(costs(kCheapExit + 0.1, 0.1)).kinds == Kinds{translated, kvm, soft});
  CHECK(order(costs(31, 0.16)).reason == "an exit costs 31 us on KVM, 0.16 us in translated code");
  CHECK(order(costs(std::nullopt, 0.1)).kinds == Kinds{translated, soft});
  CHECK_THAT(order(costs(std::nullopt, 0.1)).reason, Contains("no KVM today"));
  CHECK(order(costs(31, std::nullopt)).kinds == Kinds{kvm, soft});
  CHECK_THAT(order(costs(31, std::nullopt)).reason, Contains("no FSGSBASE"));
}

TEST_CASE("automatic: some needs leave no choice, and nothing is measured") {
  const auto not_asked = []() -> ExitCosts { throw std::logic_error("measured"); };
  const auto of = [&](MachineNeeds needs, CpuModelKind cpu) {
    return machines_in_order(needs, cpu, not_asked).kinds;
  };
  CHECK(of({.walls = true}, CpuModelKind::portable) == Kinds{kvm, soft});
  CHECK(of({.processor_trace = true}, CpuModelKind::portable).front() == kvm);
  CHECK(of({}, CpuModelKind::host) == Kinds{kvm});
  CHECK(of({.walls = true}, CpuModelKind::host) == Kinds{kvm});
}

TEST_CASE("a machine without walls is not had where they are needed") {
  AddressSpace space;
  const CpuModel cpu(CpuModelKind::portable);
  CHECK_THROWS_WITH(create_machine(MachineChoice::translated, space, cpu, {.walls = true}),
                    Contains("no wall"));
  std::string reason;
  const auto machine = create_machine(MachineChoice::automatic, space, cpu, {.walls = true}, &reason);
  CHECK(machine->kind() != translated);
  CHECK_THAT(reason, Contains("no wall"));
}

TEST_CASE("what exits cost is measured in a child, and leaves nothing in the address space") {
  AddressSpace space;
  const ExitCosts found = measure_exit_costs(space);
  CHECK(space.mappings().empty());
  CHECK((found.kvm ? *found.kvm > 0.01 && *found.kvm < 1e5 : !found.why_not_kvm.empty()));
  CHECK((found.translated ? *found.translated > 0.001 && *found.translated < 1e5
                          : !found.why_not_translated.empty()));
}

TEST_CASE("what exits cost is kept, and only what is right is believed") {
  const test::Workplace place;
  const std::string file = place / "below" / "costs";
  CHECK_FALSE(read_exit_costs(file));
  REQUIRE(keep_exit_costs(file, costs(31.5, 0.125)));
  const auto kept = read_exit_costs(file);
  REQUIRE(kept);
  CHECK(*kept->kvm == 31.5);
  CHECK(*kept->translated == 0.125);
  CHECK(std::distance(fs::directory_iterator(place / "below"), fs::directory_iterator()) == 1);

  CHECK_FALSE(keep_exit_costs(place / "partial", costs(31, std::nullopt)));
  CHECK_FALSE(keep_exit_costs("", costs(1, 1)));
  CHECK_FALSE(fs::exists(place / "partial"));
  for (const char* text :
       {"", "kvm 1\n", "kvm 1\ntranslated\n", "kvm 1\ntranslated x\n", "kvm 1\ntranslated 1x\n",
        "kvm -1\ntranslated 1\n", "kvm nan\ntranslated 1\n", "kvm 0\ntranslated 1\n",
        "soft 1\ntranslated 1\n", "kvm 1\nkvm 1\n", "kvm - none\ntranslated 1\n", "\xff\xfe\n\n"}) {
    INFO(text);
    std::ofstream(place / "bad", std::ios::trunc) << text;
    CHECK_FALSE(read_exit_costs(place / "bad"));
  }
  const std::string fifo = place / "fifo";
  REQUIRE(mkfifo(fifo.c_str(), 0600) == 0);
  CHECK_FALSE(read_exit_costs(fifo));
  CHECK_FALSE(read_exit_costs(place.path()));
}

TEST_CASE("what exits cost is kept where the user's caches are") {
  const char* const cache = getenv("XDG_CACHE_HOME");
  const std::string before = cache == nullptr ? "" : cache;
  setenv("XDG_CACHE_HOME", "/somewhere", 1);
  CHECK_THAT(exit_costs_file(), Catch::StartsWith("/somewhere/aftercheck/exit-costs-"));
  CHECK(exit_costs_file() == exit_costs_file());
  setenv("XDG_CACHE_HOME", "not/absolute", 1);
  CHECK_THAT(exit_costs_file(), !Contains("not/absolute"));
  if (cache == nullptr)
    unsetenv("XDG_CACHE_HOME");
  else
    setenv("XDG_CACHE_HOME", before.c_str(), 1);
}

}  // namespace aftercheck
