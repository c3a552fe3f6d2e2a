// The table against the kernel's own list of numbers, so that no call is silently missing.
#include <catch2/catch.hpp>
#include <cstdio>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>

#include "kvm-recorder/system_call_table.h"
#include "system-calls/system_call_names.h"

using namespace aftercheck;

namespace {

// Name by number, from the header that the compiler here sees.
std::map<uint64_t, std::string> kernel_list() {
  std::map<uint64_t, std::string> list;
  FILE* macros = popen(TEST_C_COMPILER " -E -dM -include asm/unistd_64.h -x c /dev/null", "r");
  REQUIRE(macros != nullptr);
  char line[512];
  while (fgets(line, sizeof line, macros) != nullptr) {
    char name[256];
    unsigned long long number = 0;
    if (sscanf(line, "#define __NR_%255s %llu", name, &number) == 2) list[number] = name;
  }
  REQUIRE(pclose(macros) == 0);
  return list;
}

}  // namespace

TEST_CASE("every system call of the kernel's list is in the table under its name") {
  const std::map<uint64_t, std::string> list = kernel_list();
  REQUIRE(list.size() > 350);
  for (const auto& [number, name] : list) {
    INFO(number << " " << name);
    const SystemCall* row = find_system_call(number);
    REQUIRE(row != nullptr);
    CHECK(row->name == name);
    CHECK(row->number == number);
  }
}

TEST_CASE("the table is in order and its rows make sense") {
  int last = -1;
  for (const SystemCall& row : system_call_table()) {
    INFO(row.name);
    CHECK(row.number > last);
    last = row.number;
    CHECK((row.klass == CallClass::refused) == (row.error > 0));
    CHECK((row.klass == CallClass::refused && row.handler != nullptr) == false);
    if (row.meaning != nullptr)
      CHECK((row.klass == CallClass::refused ? !row.quiet : row.handler != nullptr));
    if (row.capability >= 0) CHECK(row.meaning != nullptr);
    if (row.pids_if >= 0) CHECK((row.pids & 1) == 0);
    if (row.klass == CallClass::own || row.klass == CallClass::space) CHECK(row.handler != nullptr);
    for (const Arg& arg : row.args) {
      const bool needs_handler = arg.kind == ArgKind::nested || arg.kind == ArgKind::iovec_in ||
                                 arg.kind == ArgKind::iovec_out || arg.kind == ArgKind::message_in ||
                                 arg.kind == ArgKind::message_out;
      if (needs_handler) CHECK(row.handler != nullptr);
      if (arg.count != Arg::kOnce) CHECK((arg.count & ~Arg::kInt) < 6);
    }
  }
}

TEST_CASE("numbers beyond the table and in its gap are unknown") {
  for (const uint64_t number : {335ULL, 423ULL, 470ULL, 1000ULL, ~0ULL}) {
    CHECK(find_system_call(number) == nullptr);
    CHECK(system_call_name(number) == "system call " + std::to_string(number));
  }
}

TEST_CASE("calls have as many arguments as the kernel's have") {
  for (const SystemCallEntry& entry : kSystemCallList) CHECK(argument_count(entry.number) <= 6);
  CHECK(argument_count(9) == 6);    // mmap
  CHECK(argument_count(39) == 0);   // getpid
  CHECK(argument_count(334) == 4);  // rseq
  CHECK(argument_count(424) == 4);  // pidfd_send_signal
  CHECK(argument_count(450) == 4);  // set_mempolicy_home_node
  CHECK(argument_count(400) == 6);  // none: everything is shown
  CHECK(argument_count(UINT64_MAX) == 6);
}

TEST_CASE("every rule about what the kernel writes is tried against the kernel") {
  // Need rights, devices or kernels that a test can't count on, or are the same rule under another name.
  const std::set<std::string> untried = {
      "pipe",   // pipe2
      "ustat",  // most file systems answer EINVAL
      "tee",    // no memory of the guest
  };
  std::string sources;
  for (const char* name : {"/syscall_writes.cc", "/syscall_writes_io.cc", "/syscall_memory.cc"}) {
    std::stringstream text;
    text << std::ifstream(std::string(TEST_SOURCES) + name).rdbuf();
    sources += text.str();
  }
  REQUIRE(!sources.empty());
  for (const SystemCall& row : system_call_table()) {
    if (row.klass == CallClass::refused || row.klass == CallClass::space) continue;
    bool writes = false;
    for (const Arg& arg : row.args)
      writes = writes ||
               (arg.kind != ArgKind::value && arg.kind != ArgKind::fd && arg.kind != ArgKind::path &&
                arg.kind != ArgKind::in && arg.kind != ArgKind::iovec_in && arg.kind != ArgKind::message_in);
    if (!writes || untried.count(row.name) != 0) continue;
    INFO(row.name);
    CHECK(sources.find("(SYS_" + std::string(row.name) + ",") != std::string::npos);
  }
}
