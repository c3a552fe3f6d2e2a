// Takes part in a replay on a machine that tells branches and compares the branches of every segment with the
// recording's PT trace: by the digests of both branch streams, and where they differ by following both
// through the code.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "replay-engine/participant.h"

namespace aftercheck {

class PtCheck : public Participant {
 public:
  struct Options {
    std::filesystem::path directory;
    uint32_t thread = 0;
    // False: on a backend that does not tell its control flow nothing is compared. True: that is an error.
    bool required = false;
    // The replay goes through other processes' logs first: nothing is compared until begin().
    bool waits = false;
  };
  struct Result {
    bool active = false;      // the backend tells its control flow
    uint64_t compared = 0;    // segments with the digests of the recording
    uint64_t branches = 0;    // in them
    uint64_t unverified = 0;  // segments about which the recording's trace says nothing, or not all
    std::string reason;       // the first of them: why
  };

  // Throws Error io, bad_input when the trace can't be read.
  explicit PtCheck(const Options& options);
  ~PtCheck() override;

  const Result& result() const;

  // Where Options::waits: what is replayed from here on is what the trace is of. Throws as attach().
  void begin();

  // Throws Error(usage) where the vCPU tells no control flow and that is required.
  void attach(Replay& replay) override;
  // Throws Divergence naming the first branch that differs; Error(bad_input) for a damaged trace.
  void reached(const recording::Event& event, uint64_t number) override;
  void applied(const recording::Event& event, uint64_t number) override;
  void forked() override;
  std::string explain(const recording::Event& event, uint64_t number) override;
  void detach() noexcept override;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace aftercheck
