// Call stacks of a replayed guest.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checks/check_report.h"
#include "machine/address_space.h"
#include "machine/registers.h"
#include "pt-replay/recorded_code.h"
#include "recording/event.h"
#include "recording/store.h"
#include "replay-engine/replay.h"

namespace aftercheck {

// Unwinds by the call frame information of the recording's own copies of what was mapped (libdwfl), and names
// frames by their symbols. Stacks are best effort: what a file does not tell is not there.
class Backtraces {
 public:
  // `replay` must outlive this.
  explicit Backtraces(Replay& replay);
  ~Backtraces();

  // Keeps track of what is mapped, also where the replay goes on with another process.
  void applied(const recording::Event& event, uint64_t number);
  // Innermost frame first. `event` is the last one applied.
  std::vector<CheckFrame> at(const Registers& registers, uint64_t event);
  // Demangled, "" where unknown.
  std::string function_at(uint64_t address, uint64_t event);

 private:
  class Unwinder;

  Replay& replay_;
  const AddressSpace& space_;
  recording::Store store_;
  uint32_t process_;                                // whose log code_ reads
  std::optional<RecordedCode::Start> start_;        // where that log does not say all that is mapped
  std::map<uint64_t, recording::Digest128> files_;  // by the address at which their first byte was mapped
  std::unique_ptr<Unwinder> unwinder_;              // of what is mapped now; null: to be made
  std::unique_ptr<RecordedCode> code_;              // made when first needed

  const symbols::Symbols& symbols(uint64_t event);
  void append(std::vector<CheckFrame>& stack, uint64_t address, bool after_call,
              const symbols::Symbols& names);
};

}  // namespace aftercheck
