// Which source lines a trace executed, how often, as lcov's tracefile format (geninfo(1)).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "pt-trace/flow_decoder.h"
#include "symbols/symbols.h"
#include "tools/flow_calls.h"

namespace aftercheck::tools {

// Memory grows with the code executed. Not thread-safe.
class FlowCoverage {
 public:
  // A block that has not been seen: what its instructions are, as mappings are now.
  void learn(pt::BlockId block, const pt::FlowDecoder& decoder, const symbols::Symbols& symbols);
  // Adds the blocks of a decoder that comes to its end: their numbers mean nothing to the next one.
  void add(const std::vector<uint64_t>& executions);

  // Lines of all files that have executed code and line tables, with the executions of the line's most often
  // executed instruction; 0 for lines that were not reached. Gives how many lines were reached, of how many.
  struct Lines {
    uint64_t reached = 0, all = 0;
  };
  Lines write(OutputFile& file) const;

 private:
  struct Address {
    symbols::Object* object;
    uint64_t address;
    bool operator<(const Address& other) const {
      return object != other.object ? object < other.object : address < other.address;
    }
  };
  std::map<Address, uint64_t> executions_;
  std::vector<std::vector<uint64_t*>> blocks_;  // counters of each block's instructions
};

}  // namespace aftercheck::tools
