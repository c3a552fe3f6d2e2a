#include "tools/flow_coverage.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace aftercheck::tools {
namespace {

// What is written of one source file.
struct SourceFile {
  std::map<uint32_t, uint64_t> lines;
  struct Function {
    uint32_t line;
    uint64_t calls;
  };
  std::map<std::string, Function> functions;
};

}  // namespace

void FlowCoverage::learn(pt::BlockId block, const pt::FlowDecoder& decoder, const symbols::Symbols& symbols) {
  if (block >= blocks_.size()) blocks_.resize(block + 1);
  auto& counters = blocks_[block];
  counters.clear();
  decoder.for_each_instruction(block, [&](uint64_t ip, uint8_t) {
    const symbols::Location at = symbols.find(ip);
    if (at.object == nullptr || at.object_address == 0) return;
    counters.push_back(&executions_[{at.object, at.object_address}]);
  });
}

void FlowCoverage::add(const std::vector<uint64_t>& executions) {
  for (size_t block = 0; block < std::min(executions.size(), blocks_.size()); ++block)
    for (uint64_t* const counter : blocks_[block]) *counter += executions[block];
  blocks_.clear();
}

FlowCoverage::Lines FlowCoverage::write(OutputFile& file) const {
  std::map<std::string, SourceFile> files;
  std::set<symbols::Object*> objects;
  for (const auto& [at, count] : executions_) {
    objects.insert(at.object);
    const symbols::SourceLine line = at.object->line_at(at.address);
    if (line.file == nullptr) continue;
    uint64_t& executed = files[*line.file].lines[line.line];
    executed = std::max(executed, count);
    const symbols::Function* const function = at.object->function_at(at.address);
    if (function != nullptr && function->address == at.address)
      files[*line.file].functions[function->name] = {line.line, count};
  }
  for (symbols::Object* const object : objects)
    object->for_each_line([&](uint64_t address, const symbols::SourceLine& line) {
      SourceFile& source = files[*line.file];
      source.lines.try_emplace(line.line, 0);
      const symbols::Function* const function = object->function_at(address);
      if (function != nullptr && function->address == address)
        source.functions.try_emplace(function->name, SourceFile::Function{line.line, 0});
    });
  Lines total;
  file.write("TN:\n");
  for (const auto& [path, source] : files) {
    file.write("SF:" + path + "\n");
    uint64_t functions = 0, lines = 0;
    for (const auto& [name, function] : source.functions)
      file.write(fmt::format("FN:{},{}\n", function.line, name));
    for (const auto& [name, function] : source.functions) {
      file.write(fmt::format("FNDA:{},{}\n", function.calls, name));
      functions += function.calls != 0;
    }
    file.write(fmt::format("FNF:{}\nFNH:{}\n", source.functions.size(), functions));
    for (const auto& [line, count] : source.lines) {
      file.write(fmt::format("DA:{},{}\n", line, count));
      lines += count != 0;
    }
    file.write(fmt::format("LF:{}\nLH:{}\nend_of_record\n", source.lines.size(), lines));
    total.reached += lines;
    total.all += source.lines.size();
  }
  return total;
}

}  // namespace aftercheck::tools
