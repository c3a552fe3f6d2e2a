// System calls without a vCPU: registers are filled in by hand, the guest's memory is watched for changes
// that nobody noted.
#pragma once

#include <sys/mman.h>
#include <sys/syscall.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <string>
#include <vector>

#include "kvm-recorder/system_call.h"
#include "kvm-recorder/system_call_table.h"
#include "process_fixture.h"
#include "system-calls/system_call_names.h"

namespace aftercheck::test {

class SystemCalls : public ProcessFixture {
 public:
  SystemCalls() {
    process.message = [this](const std::string& line) { messages.push_back(line); };
    REQUIRE(memory.map_anonymous(answer, {kBase, kBase + kSize}, PROT_READ | PROT_WRITE, false) == 0);
    begin();
  }

  // Guest memory, filled with a pattern, at an odd distance from what was allocated before; never freed.
  uint64_t room(uint64_t size) {
    const uint64_t address = kBase + used_;
    used_ += (size + 63) / 16 * 16;
    REQUIRE(used_ <= kSize);
    return address;
  }
  uint64_t put(const void* data, uint64_t size) {
    const uint64_t address = room(size);
    std::memcpy(reinterpret_cast<void*>(address), data, size);
    return address;
  }
  template <typename T>
  uint64_t put(const T& object) {
    return put(&object, sizeof object);
  }
  uint64_t text(const std::string& string) { return put(string.c_str(), string.size() + 1); }
  template <typename T>
  T get(uint64_t address) const {
    T object;
    std::memcpy(&object, reinterpret_cast<const void*>(address), sizeof object);
    return object;
  }
  std::string string_at(uint64_t address, size_t size) const {
    return std::string(reinterpret_cast<const char*>(address), size);
  }

  // Makes the call; every byte of the guest's memory that it changed must have been noted.
  template <typename... Args>
  long call(long number, Args... args) {
    const uint64_t list[6] = {static_cast<uint64_t>(args)...};
    return watched(number, list);
  }

  std::vector<std::string> messages;
  uint64_t noted_bytes = 0;  // by the last call
  std::vector<recording::Output> outputs;
  std::vector<recording::SpaceOp> space_ops;
  CallOutcome outcome;
  Registers registers;

  static constexpr uint64_t kBase = kMainWindow.start + (64ULL << 20);
  static constexpr uint64_t kSize = 1 << 20;

 private:
  uint64_t used_ = 0;
  uint8_t pattern_ = 0x5a;
  std::vector<uint8_t> before_;

  void begin() {
    std::memset(reinterpret_cast<void*>(kBase), pattern_, kSize);
    recording::Event event;
    answer.move_to(event);
  }

  long watched(long number, const uint64_t (&args)[6]) {
    registers = {};
    registers.rax = static_cast<uint64_t>(number);
    registers.rdi = args[0], registers.rsi = args[1], registers.rdx = args[2];
    registers.r10 = args[3], registers.r8 = args[4], registers.r9 = args[5];
    const auto* bytes = reinterpret_cast<const uint8_t*>(kBase);
    before_.assign(bytes, bytes + kSize);
    outcome = make_system_call(task, registers);
    recording::Event event;
    answer.move_to(event);
    compare(number, event);
    outputs = event.outputs;
    space_ops = event.space_ops;
    return outcome.value;
  }

  // The answer, applied to memory as it was, must give memory as it is.
  void compare(long number, const recording::Event& event) {
    noted_bytes = 0;
    for (const recording::MemoryWrite& write : event.writes) {
      noted_bytes += write.bytes.size();
      for (uint64_t i = 0; i < write.bytes.size(); i++)
        if (write.address + i >= kBase && write.address + i < kBase + kSize)
          before_[write.address + i - kBase] = static_cast<uint8_t>(write.bytes[i]);
    }
    if (!event.space_ops.empty()) return;
    const auto* bytes = reinterpret_cast<const uint8_t*>(kBase);
    uint64_t unnoted = 0, first = 0;
    for (uint64_t i = 0; i < kSize; i++) {
      if (bytes[i] == before_[i]) continue;
      if (unnoted++ == 0) first = i;
    }
    INFO(system_call_name(static_cast<uint64_t>(number))
         << " = " << outcome.value << ": first byte at offset " << first << " of the guest's memory");
    CHECK(unnoted == 0);
  }
};

}  // namespace aftercheck::test
