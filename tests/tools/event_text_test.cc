#include "tools/event_text.h"

#include <catch2/catch.hpp>

#include "machine/registers.h"

namespace aftercheck::tools {

TEST_CASE("system calls have their names and no more arguments than they take") {
  auto described = [](uint64_t number) {
    recording::Event event;
    event.kind = recording::EventKind::syscall;
    event.operands = {number, 3, 0x7654321, 2, 0, 0, 0};
    return describe(event);
  };
  CHECK(described(0) == "read(3, 0x7654321, 2)");
  CHECK(described(3) == "close(3)");
  CHECK(described(39) == "getpid()");
  CHECK(described(257) == "openat(3, 0x7654321, 2, 0)");
  CHECK(described(400) == "system call 400(3, 0x7654321, 2, 0, 0, 0)");
}

TEST_CASE("results of system calls are told as strace tells them") {
  auto result = [](uint64_t call, uint64_t rax) {
    recording::Event event;
    event.kind = recording::EventKind::syscall;
    event.operands = {call, 3, 0, 0, 0, 0, 0};
    if (rax != call) event.registers.push_back({register_number(&Registers::rax), rax});
    return describe_result(event);
  };
  CHECK(result(1, 6) == "6");
  CHECK(result(0, 0) == "0");     // read at the end of a file: RAX stays as it was
  CHECK(result(39, 39) == "39");  // the same
  CHECK(result(9, 0x200000000000) == "0x200000000000");
  CHECK(result(0, static_cast<uint64_t>(-2)) == "-1 ENOENT (No such file or directory)");
  CHECK(result(0, static_cast<uint64_t>(-512)) == "? (error 512)");
  CHECK(result(231, 231) == "?");
}

TEST_CASE("an asynchronous stop is told with its count of branches, if there is one") {
  recording::Event event;
  event.kind = recording::EventKind::asynchronous;
  event.rip = 0x401000;
  CHECK(describe(event) == "stopped at 0x401000");
  event.branches = 12345;
  CHECK(describe(event) == "stopped at 0x401000 after 12345 branches");
}

TEST_CASE("damaged events are described, not trusted") {
  recording::Event event;
  for (uint8_t kind = 0; kind < 32; ++kind) {
    event.kind = static_cast<recording::EventKind>(kind);
    event.operands = {};
    CHECK(!describe(event).empty());
    event.operands = {UINT64_MAX, UINT64_MAX};
    CHECK(!describe(event).empty());
    CHECK(name(event.kind) != nullptr);
  }
  CHECK(signal_name(11) == "SIGSEGV");
  CHECK(signal_name(40) == "signal 40");
  CHECK(signal_name(UINT64_MAX) == "signal 18446744073709551615");
}

}  // namespace aftercheck::tools
