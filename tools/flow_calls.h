// What is written from a stack of calls: folded stacks for flame graphs, and Chrome's trace format.
#pragma once

#include <cstdio>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "pt-trace/call_tracker.h"
#include "symbols/symbols.h"

namespace aftercheck::tools {

// Numbers functions by where they are, for a CallTracker; code without symbols is one function per file.
class FunctionNames {
 public:
  pt::FunctionAt at(const symbols::Symbols& symbols, uint64_t address);
  const std::string& name(uint32_t function) const { return names_[function]; }
  size_t size() const { return names_.size(); }

 private:
  std::unordered_map<const void*, uint32_t>
      numbers_;  // by symbols::Function or symbols::Object; null: no file
  std::vector<std::string> names_;
};

// A file that a command writes, buffered. Throws Error(io) naming it.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path);
  void write(const std::string& text);
  void close();

 private:
  struct Close {
    void operator()(FILE* file) const { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<FILE, Close> file_;
};

// Instructions per stack of calls.
class FoldedStacks : public pt::CallObserver {
 public:
  void called(uint32_t function) override;
  void returned() override;
  void replaced(uint32_t function) override;
  void executed(uint64_t instructions) override { nodes_[path_.back()].instructions += instructions; }

  // "main;work;inner 1234" a line, as flamegraph.pl and speedscope read it.
  void write(const FunctionNames& names, const std::string& root, OutputFile& file) const;
  // Some stacks were too deep or too many: their instructions count for the caller that still fitted.
  bool cut() const { return cut_; }

 private:
  // Bounds of memory, far above what real programs need: 64 bytes a node.
  static constexpr size_t kMostNodes = 4 << 20, kDeepest = 2048;
  struct Node {
    uint32_t function = 0, parent = 0;
    uint64_t instructions = 0;
  };
  uint32_t child(uint32_t parent, uint32_t function);

  std::vector<Node> nodes_{1};                       // 0 is the root
  std::unordered_map<uint64_t, uint32_t> children_;  // by parent << 32 | function
  std::vector<uint32_t> path_{0};                    // of nodes; what does not fit repeats the last
  bool cut_ = false;
};

// Function calls as Chrome's trace events (chrome://tracing, ui.perfetto.dev). One instruction is shown as
// one nanosecond.
class ChromeTrace : public pt::CallObserver {
 public:
  ChromeTrace(const std::string& path, const std::string& process, uint64_t most_calls,
              const FunctionNames& names);
  // What follows belongs to this stream, and time begins anew.
  void begin_stream(size_t number, const std::string& name);
  void called(uint32_t function) override;
  void returned() override;
  void replaced(uint32_t function) override;
  void executed(uint64_t instructions) override { now_ += instructions; }
  // Closes what is open; call before the next stream.
  void end_stream();
  void finish();
  // Calls that were not written because there were too many.
  uint64_t left_out() const { return left_out_; }

 private:
  void begin(uint32_t function);
  void end();
  void event(const std::string& text);

  OutputFile file_;
  const FunctionNames& names_;
  const uint64_t most_calls_;
  std::vector<bool> open_;  // was this call written?
  uint64_t now_ = 0, written_ = 0, left_out_ = 0;
  size_t stream_ = 0;
  bool first_ = true;
};

}  // namespace aftercheck::tools
