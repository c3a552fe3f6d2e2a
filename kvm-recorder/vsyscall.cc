#include "kvm-recorder/vsyscall.h"

#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <ctime>
#include <fstream>
#include <string>

#include "kvm-recorder/system_calls.h"

namespace aftercheck {
namespace {

// arch/x86/include/uapi/asm/vsyscall.h.
constexpr uint64_t kGettimeofday = 0xffff'ffff'ff60'0000, kTime = kGettimeofday + 0x400,
                   kGetcpu = kGettimeofday + 0x800;

bool host_has_page() {
  static const bool has = [] {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);)
      if (line.ends_with("[vsyscall]")) return true;
    return false;
  }();
  return has;
}

template <typename T>
bool store(GuestTask& task, uint64_t address, const T& object) {
  return address == 0 || task.answer.write_object(address, object);
}

}  // namespace

std::optional<CallOutcome> answer_vsyscall(const Exit& fault, GuestTask& task, Registers& registers) {
  const uint64_t called = registers.rip;
  if (fault.access != Access::fetch || (called != kGettimeofday && called != kTime && called != kGetcpu))
    return std::nullopt;
  uint64_t caller = 0;
  if (!host_has_page() || !task.process.memory.read_object(registers.rsp, caller)) return std::nullopt;
  const auto leave = [&] {
    registers.rip = caller;
    registers.rsp += sizeof caller;
    return CallOutcome{CallOutcome::Kind::registers};
  };
  const uint64_t number = called == kGettimeofday ? SYS_gettimeofday
                          : called == kTime       ? SYS_time
                                                  : SYS_getcpu;
  if (task.seccomp.mode() != SECCOMP_MODE_DISABLED)
    if (const std::optional<CallOutcome> stopped = stopped_by_filter(task, registers, number))
      return stopped->kind == CallOutcome::Kind::registers ? leave() : *stopped;
  uint64_t result = 0;
  if (called == kGettimeofday) {
    timeval now{};
    struct timezone zone {};
    syscall(SYS_gettimeofday, &now, &zone);
    if (!store(task, registers.rdi, now) || !store(task, registers.rsi, zone)) return std::nullopt;
  } else if (called == kTime) {
    const time_t now = std::time(nullptr);
    if (!store(task, registers.rdi, now)) return std::nullopt;
    result = static_cast<uint64_t>(now);
  } else {
    unsigned cpu = 0, node = 0;
    syscall(SYS_getcpu, &cpu, &node, nullptr);
    if (!store(task, registers.rdi, cpu) || !store(task, registers.rsi, node)) return std::nullopt;
  }
  registers.rax = result;
  return leave();
}

}  // namespace aftercheck
