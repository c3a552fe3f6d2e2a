// A made-up program with real machine code, and a processor that executes it into an Encoder.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "libipt_flow.h"
#include "pt-trace/encoder.h"
#include "pt_data.h"

namespace aftercheck::pt::test {

class Program {
 public:
  static constexpr uint64_t base = 0x400000;

  // `blocks` pieces of code that jump and call among each other.
  Program(Random& random, size_t blocks, ExecMode mode = ExecMode::bits64);

  const std::vector<uint8_t>& code() const { return code_; }
  ExecMode mode() const { return mode_; }
  CodeImage image() const;
  // With the code in a temporary file, as libipt wants it; the file lives as long as the program.
  RealTrace as_trace(std::vector<uint8_t> bytes) const;
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  struct Execution {
    std::vector<uint64_t> ips;  // of every instruction executed
    std::vector<uint8_t> trace;
  };
  // Executes about `branches` branches. `options` are changed and the host interferes as `noise` says (0:
  // never, else once in so many branches). `choices` decides outcomes, `host` the noise. `in_runs`: the
  // encoder is told many branches at a time.
  Execution execute(Random& choices, Random& host, size_t branches, const EncoderOptions& options,
                    unsigned noise, bool in_runs = false) const;

 private:
  enum class Kind { plain, conditional, jump, call, indirect_jump, indirect_call, ret, system_call };
  struct Instruction {
    Kind kind;
    uint8_t size;
    uint64_t target;
  };
  uint64_t random_block(Random& random) const { return starts_[random.below(starts_.size())]; }

  ExecMode mode_;
  std::vector<uint8_t> code_;
  std::map<uint64_t, Instruction> instructions_;
  std::vector<uint64_t> starts_;
  std::string file_;
};

}  // namespace aftercheck::pt::test
