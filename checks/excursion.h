// Excursions: checks of VAsserts, run on a throw-away copy of a guest that stands still meanwhile.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checks/excursion_memory.h"
#include "machine/breakpoints.h"
#include "machine/vcpu.h"

namespace aftercheck {

enum class Verdict : uint8_t {
  passed,
  failed,
  touches_world,  // made a system call that a check may not make
  fault,          // a memory fault or another exception
  endless,        // ran into the limit
  unsupported,    // needs an instruction that what runs checks lacks
};
const char* name(Verdict verdict);

// One check that was run. For a check inside another one, its own.
struct CheckVisit {
  uint64_t site = 0;    // address of the NOP
  bool nested = false;  // reached from within another check
  Verdict verdict = Verdict::passed;
  std::string detail;                 // of the verdict, for people; empty for passed and failed
  std::vector<std::string> failures;  // messages, maybe empty ones
  std::vector<std::string> logs;
  std::string output;    // to descriptors 1 and 2
  uint64_t dropped = 0;  // bytes of failures, logs and output beyond what is kept
  Registers entered{};   // at the site
  Registers ended{};     // where the check could not go on; only if it was not completed
};

struct ExcursionOptions {
  // Instructions that an excursion may execute, in bytes of code / 4.
  uint64_t limit = kDefaultLimit;
  static constexpr uint64_t kDefaultLimit = 1'000'000'000;
  // Checks run as translated code, where the host and the CPU model let them; else on the soft vCPU, where
  // they can't reach this process.
  bool translated = true;
  // Name of a system call's number. Null: "system call 42".
  std::function<std::string(uint64_t number)> system_call_name;
};

// Who wants to know.
class ExcursionSites {
 public:
  virtual ~ExcursionSites() = default;
  // A check has come to a breakpoint: where the check of the site there starts; nullopt: go on, it is none
  // or isn't wanted.
  virtual std::optional<uint64_t> nested_check(uint64_t address) = 0;
  // A check is over. Inner ones come first. Called while the guest's memory is as the check left it.
  virtual void left(const CheckVisit& visit) = 0;
};

// Runs checks on a machine of their own, whatever the replay runs on. The guest's memory is as it was after
// each excursion; its mappings and its vCPU are never touched.
class Excursions {
 public:
  // All of it must outlive this. The guest's breakpoints are those that stop it at sites.
  Excursions(AddressSpace& space, const CpuModel& cpu, Breakpoints& breakpoints, ExcursionOptions options,
             ExcursionSites& sites);
  ~Excursions();

  ExcursionMemory& memory() { return *memory_; }
  // Where modules say which vector registers their checks have to keep (vassert_format.h). Of a guest with
  // more than the soft vCPU has, these say none of that while a check runs: it changes its own copy only.
  void set_vector_words(std::vector<uint64_t> addresses) { vector_words_ = std::move(addresses); }

  // This process is a child that goes on with the guest: ghost memory is as the parent's was. Throws as the
  // constructor.
  void forked();

  // `guest` stands at `site`. `time_ns` is what clocks show.
  void run(Vcpu& guest, uint64_t site, uint64_t check, uint64_t time_ns);

  struct Counts {
    uint64_t excursions = 0;
    uint64_t written = 0;       // of them: wrote memory
    uint64_t opened_pages = 0;  // faults of first stores that they had
  };
  const Counts& counts() const { return counts_; }
  void reset_counts() { counts_ = {}; }

 private:
  struct SystemCalls;
  friend struct SystemCalls;

  const ExcursionOptions options_;
  ExcursionSites& sites_;
  Breakpoints& breakpoints_;
  AddressSpace& space_;
  const CpuModel cpu_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<Vcpu> vcpu_;
  const std::unique_ptr<ExcursionMemory> memory_;
  std::vector<uint64_t> vector_words_;
  std::vector<CheckVisit> visits_;  // the check under way; before it the one that it is nested in, and so on
  Counts counts_;
  uint64_t time_ns_ = 0, random_ = 0;

  static std::unique_ptr<Machine> machine_for(const ExcursionOptions& options, AddressSpace& space,
                                              const CpuModel& cpu);
  void enter(uint64_t site, uint64_t check, uint64_t code_bytes);
  void leave();
  void give_up(Verdict verdict, const std::string& detail);
  // They answer what has stopped the check, or end it.
  void after(const Exit& exit);
  void at_breakpoint();
  void at_fault(const Exit& exit);
  void at_trapped(const TrappedInstruction& instruction);
  void at_system_call();
  void vassert_call();
  void keep(std::vector<std::string>& list, uint64_t address, uint64_t length);
  bool keep_output(uint64_t address, uint64_t length);
  uint64_t random_word();
};

}  // namespace aftercheck
