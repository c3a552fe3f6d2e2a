// What fuzzing checks, for libFuzzer and for the deterministic mutations of the test run alike: no crash, no
// hang, no memory beyond what the input justifies, and the same result however the input is cut. Each throws
// Error internal when one of these is broken.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace aftercheck::pt::test {

void fuzz_packets(std::span<const uint8_t> input);
// The first 64 KiB at most are trace; the program is built in.
void fuzz_flow(std::span<const uint8_t> input);
void fuzz_perf_data(std::span<const uint8_t> input);

// Valid traces to begin with, many of the program that fuzz_flow knows.
std::vector<std::vector<uint8_t>> fuzz_traces();

}  // namespace aftercheck::pt::test
