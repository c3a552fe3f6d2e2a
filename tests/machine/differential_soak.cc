// What scripts/differential-soak runs. In a child process, whose end is pinned to the program that it
// executed.
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string_view>

#include "base/error.h"
#include "tests/machine/random_comparison.h"

namespace aftercheck {
namespace {

struct Shared {
  std::atomic<uint64_t> program;
};

class Progress final : public ComparisonProgress {
 public:
  Progress(Shared& shared, uint64_t wanted) : shared_(shared), wanted_(wanted) {}
  bool at(const ComparisonResult& so_far, uint64_t next_program) override {
    shared_.program = next_program;
    const auto now = std::chrono::steady_clock::now();
    using namespace std::chrono_literals;
    if (now - told_ < 10s) return true;
    told_ = now;
    fmt::print("{} of {} instructions, {} exits; next: --first {}\n", so_far.instructions, wanted_,
               so_far.exits, next_program);
    std::fflush(stdout);
    return true;
  }

 private:
  Shared& shared_;
  uint64_t wanted_;
  std::chrono::steady_clock::time_point told_ = std::chrono::steady_clock::now();
};

uint64_t number(const char* text) {
  char* end = nullptr;
  const uint64_t value = std::strtoull(text, &end, 0);
  if (end == text || *end != '\0') fail(ErrorKind::usage, "{} is no number", text);
  return value;
}

CpuModelKind model(const char* text) {
  const auto kind = cpu_model_named(text);
  if (!kind || *kind == CpuModelKind::host) fail(ErrorKind::usage, "--cpu is portable or v3, not {}", text);
  return *kind;
}

ComparisonOptions parse(int argc, char** argv) {
  ComparisonOptions options;
  options.seed = std::random_device{}();
  options.instructions = 10'000'000;
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    if (option == "--counts-in-memory") {
      options.counts = BranchCounts::in_memory;
      continue;
    }
    if (option == "--cpu" && i + 1 != argc) {
      options.model = model(argv[++i]);
      continue;
    }
    uint64_t* const value = option == "--seed"           ? &options.seed
                            : option == "--first"        ? &options.first
                            : option == "--instructions" ? &options.instructions
                            : option == "--steps-every"  ? &options.steps_every
                            : option == "--places-every" ? &options.places_every
                                                         : nullptr;
    if (value == nullptr || i + 1 == argc)
      fail(ErrorKind::usage, "unknown option {}, or it lacks its value", option);
    *value = number(argv[++i]);
  }
  return options;
}

int run(const ComparisonOptions& options, Shared& shared) {
  Progress progress(shared, options.instructions);
  const ComparisonResult result = compare_programs(options, &progress);
  const double each =
      result.stepped == 0 ? 0 : static_cast<double>(result.executed) / static_cast<double>(result.stepped);
  fmt::print(
      "seed {}: {} programs of {} instructions, {} exits, {} branches; {} programs by single steps as well, "
      "{} instructions "
      "executed ({:.0f} each); {} refused, {} endless\n",
      options.seed, result.programs, result.instructions, result.exits, result.branches, result.stepped,
      result.executed, each, result.refused, result.endless);
  if (result.with_places != 0)
    fmt::print(
        "{} programs by way of {} places; of {} steps the soft vCPU took {} too; {} of its ways told "
        "undefined flags\n",
        result.with_places, result.places, result.steps, result.shared_steps, result.apart);
  if (result.difference.empty()) return EXIT_SUCCESS;
  fmt::print("DIFFERENCE: {}", result.difference);
  return EXIT_FAILURE;
}

int main_of(int argc, char** argv) {
  const ComparisonOptions options = parse(argc, argv);
  void* const memory =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail(ErrorKind::host_lacks, "no memory");
  auto* const shared = new (memory) Shared{};
  fmt::print("seed {}\n", options.seed);
  std::fflush(stdout);
  const pid_t child = fork();
  if (child < 0) fail(ErrorKind::host_lacks, "no process: {}", std::strerror(errno));
  if (child == 0) {
    int status = 2;
    try {
      status = run(options, *shared);
    } catch (const std::exception& error) {
      fmt::print(stderr, "at program {}: {}\n", shared->program.load(), error.what());
    }
    std::fflush(stdout);
    _exit(status);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child) return 2;
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  fmt::print(stderr, "the process was ended by signal {} in program {}: --seed {} --first {}\n",
             WTERMSIG(status), shared->program.load(), options.seed, shared->program.load());
  return EXIT_FAILURE;
}

}  // namespace
}  // namespace aftercheck

int main(int argc, char** argv) {
  try {
    return aftercheck::main_of(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 2;
  }
}
