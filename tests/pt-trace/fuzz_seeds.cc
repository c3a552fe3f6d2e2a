// fuzz_pt_seeds DIRECTORY: traces for fuzz_pt_packets and fuzz_pt_flow to begin with.
#include <cstdio>
#include <fstream>
#include <string>

#include "fuzz_targets.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: fuzz_pt_seeds DIRECTORY\n");
    return 2;
  }
  int number = 0;
  for (const auto& trace : aftercheck::pt::test::fuzz_traces()) {
    std::ofstream file(std::string(argv[1]) + "/seed-" + std::to_string(number++), std::ios::binary);
    file.write(reinterpret_cast<const char*>(trace.data()), static_cast<std::streamsize>(trace.size()));
    if (!file.flush()) {
      std::fprintf(stderr, "fuzz_pt_seeds: can't write to %s\n", argv[1]);
      return 1;
    }
  }
  return 0;
}
