// Made-up executions, and the many ways a processor may write each of them down.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "pt-trace/encoder.h"
#include "pt_data.h"

namespace aftercheck::pt::test {

struct Step {
  enum Kind { conditional, indirect, asynchronous, system_call, fault, ptwrite } kind = conditional;
  bool taken = false;
  uint64_t address = 0;  // where execution goes on; ptwrite: payload
  uint64_t from = 0;     // asynchronous and fault: the instruction that did not execute
  bool operator==(const Step&) const = default;
};

// `count` steps, mostly conditional branches, then indirect ones, as in real programs.
std::vector<Step> random_execution(Random& random, size_t count);

// Writes the execution. Before every step `vary` may change the options or insert what the guest can't see.
std::vector<uint8_t> encode(const std::vector<Step>& steps, const EncoderOptions& options,
                            const std::function<void(Encoder&, size_t step)>& vary = {});

// Options drawn at random, all of which leave the execution as it is.
EncoderOptions random_options(Random& random);

}  // namespace aftercheck::pt::test
