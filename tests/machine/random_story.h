// What a program has executed and accessed: as an instrument is told it, and as single steps show it.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "machine/instrument.h"
#include "machine/vcpu.h"

namespace aftercheck {

class Story final : public Instrument {
 public:
  Wants wants() const override { return {.blocks = true, .branches = true, .accesses = true}; }
  void executed(std::span<const Executed> all) override;

  // By single steps: around each.
  void before(Vcpu& vcpu, const AddressSpace& space);
  void completed(uint64_t rip);

  // Empty: none.
  friend std::string differences(const Story& told, const Story& stepped, const AddressSpace& space);

 private:
  std::vector<Executed> accesses_, branches_;
  std::set<uint64_t> either_;  // branches to the next instruction: steps don't show whether they are taken
  std::vector<std::pair<uint64_t, uint64_t>> code_;  // stretches that are not continued by the next

  // Of the step under way.
  struct Step {
    uint64_t rip = 0, next = 0;
    std::optional<Executed::Kind> branch;
    std::vector<Executed> accesses;
    bool repeated = false, either = false;
  };
  Step step_;

  void add_code(uint64_t start, uint64_t end);
  void add_access(const Executed& access);
  static bool repeats(uint64_t instruction, const AddressSpace& space);
};

}  // namespace aftercheck
