// A guest process without a machine: memory, signals and the rest of GuestProcess over a scratch recording.
#pragma once

#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/error.h"
#include "kvm-recorder/descriptors.h"
#include "kvm-recorder/guest_task.h"
#include "kvm-recorder/process_signals.h"
#include "machine/vcpu.h"

namespace aftercheck::test {

class TemporaryDirectory {
 public:
  explicit TemporaryDirectory(const std::filesystem::path& parent = std::filesystem::temp_directory_path()) {
    std::string name = (parent / "aftercheck-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) fail(ErrorKind::io, "mkdtemp: {}", errno_text(errno));
    path_ = name;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::string file(const std::string& name) const { return (path_ / name).string(); }
  // Creates a file; mode 0755 unless told.
  std::string write(const std::string& name, const std::string& text, unsigned mode = 0755) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
    std::filesystem::permissions(path_ / name, std::filesystem::perms{mode});
    return file(name);
  }

 private:
  std::filesystem::path path_;
};

// Counts kicks; runs nothing.
class IdleVcpu : public Vcpu {
 public:
  Exit run() override { return {}; }
  Exit step() override { return {}; }
  Registers& registers() override { return registers_; }
  FpuState fpu() override { return FpuState::initial(); }
  void set_fpu(const FpuState&) override {}
  void kick() noexcept override { ++kicks; }
  void clear_kick() noexcept override {}

  std::atomic<int> kicks{0};

 private:
  Registers registers_;
};

// In memory where possible: the store syncs every blob to its disk, which no test here is about.
inline std::filesystem::path fast_directory() {
  const std::filesystem::path shared = "/dev/shm";
  return std::filesystem::is_directory(shared) ? shared : std::filesystem::temp_directory_path();
}

struct ProcessFixture {
  // Calls have stand-ins for guest memory in these tests, as with a second thread; guests of one thread are
  // recorded without.
  ProcessFixture() { task.buffers.others_run(); }

  TemporaryDirectory directory;
  TemporaryDirectory scratch{fast_directory()};
  AddressSpace space;
  recording::Store store{scratch.path(), true};
  LoggedSpace memory{space, store};
  IdleVcpu vcpu;
  ProcessSignals process_signals;
  Descriptors descriptors;
  CpuModel cpu{CpuModelKind::portable};
  GuestProcess process{.memory = memory, .signals = process_signals, .descriptors = descriptors, .cpu = cpu};
  GuestTask task{process, vcpu, process_signals.inherited_mask()};
  ThreadSignals& signals = task.signals;
  Answer& answer = task.answer;
};

}  // namespace aftercheck::test
