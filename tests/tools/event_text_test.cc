#include "tools/event_text.h"

#include <catch2/catch.hpp>

#include "kvm-recorder/system_call_table.h"

namespace aftercheck::tools {

TEST_CASE("no system call of the table has more arguments than dump prints") {
  for (const SystemCall& call : system_call_table()) {
    INFO(call.name);
    unsigned described = 0;
    for (unsigned i = 0; i < 6; ++i)
      if (call.args[i].kind != ArgKind::value) described = i + 1;
    CHECK(argument_count(call.number) >= described);
    CHECK(argument_count(call.number) <= 6);
  }
  CHECK(argument_count(9) == 6);    // mmap
  CHECK(argument_count(39) == 0);   // getpid
  CHECK(argument_count(334) == 4);  // rseq
  CHECK(argument_count(424) == 4);  // pidfd_send_signal
  CHECK(argument_count(450) == 4);  // set_mempolicy_home_node
  CHECK(argument_count(400) == 6);  // none: everything is shown
  CHECK(argument_count(UINT64_MAX) == 6);
}

TEST_CASE("results of system calls are told as strace tells them") {
  auto result = [](uint64_t call, uint64_t rax) {
    recording::Event event;
    event.kind = recording::EventKind::syscall;
    event.operands = {call, 3, 0, 0, 0, 0, 0};
    if (rax != call) event.registers.push_back({0, rax});
    return describe_result(event);
  };
  CHECK(result(1, 6) == "6");
  CHECK(result(0, 0) == "0");  // read at the end of a file: RAX stays as it was
  CHECK(result(9, 0x200000000000) == "0x200000000000");
  CHECK(result(0, static_cast<uint64_t>(-2)) == "-1 ENOENT (No such file or directory)");
  CHECK(result(0, static_cast<uint64_t>(-512)) == "? (error 512)");
  CHECK(result(231, 231) == "?");
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
