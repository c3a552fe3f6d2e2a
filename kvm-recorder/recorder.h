// Records one program from start to end.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "machine/vcpu.h"
#include "recording/meta.h"

namespace aftercheck {

enum class OnLogError : uint8_t {
  stop,  // the guest is stopped when the log can't be written; exit status 2
  run,   // the guest goes on unrecorded; a warning at once and at the end
};

// What becomes of calls that can't be recorded and change what the program does (unsupported_calls.h).
enum class OnUnsupported : uint8_t {
  stop,    // the program and its recording end there; exit status kUnsupportedStatus
  answer,  // an error, as of a kernel that lacks the call; noted in the recording
};

// EX_UNAVAILABLE of sysexits.h: no status of ours has it, and few programs do.
constexpr int kUnsupportedStatus = 69;

// What becomes of the program's child processes.
enum class OnChildren : uint8_t {
  record,  // each is recorded, beside its parent
  native,  // they are not: they run as the program does, but without a log, and what they execute runs
           // natively
  refuse,  // making one is a call that can't be recorded
};

// Whether an Intel PT trace is recorded, and by what.
enum class PtChoice : uint8_t {
  automatic,  // perf on KVM where it works
  off,
  perf,  // the processor, by the kernel's intel_pt PMU
  soft,  // the encoder, of the branches that the machine tells: not on KVM
};

struct RecordResult;

struct RecordOptions {
  std::filesystem::path directory;  // must not exist, or be empty; created
  std::vector<std::string> command;
  std::vector<std::string> environment;  // "NAME=value"
  MachineChoice machine = MachineChoice::automatic;
  CpuModelKind cpu = CpuModelKind::portable;
  PtChoice pt = PtChoice::automatic;
  OnLogError on_log_error = OnLogError::stop;
  // Where blobs go, for several recordings to share; empty: into the recording.
  std::filesystem::path store;
  // Host time between two checkpoints that are kept in the recording, ns; nothing: none.
  std::optional<uint64_t> checkpoint_every_ns;
  OnUnsupported on_unsupported = OnUnsupported::stop;
  OnChildren children = OnChildren::record;
  bool waits = true;            // for children that outlive the program, so that the recording is whole
  bool allow_kill_all = false;  // kill(-1) is made, not answered EPERM
  bool randomize = true;
  // Threads are switched at random, so that rare orders come about: the same seed gives the same choices, but
  // not the same run, since that depends on the world outside, too. Nothing: in turn.
  std::optional<uint64_t> chaos;
  bool write_log = true;  // false: run without recording, to measure what recording costs
  // Lines for people who want to know: refused calls, the machine that was chosen. Called on the guest's
  // thread.
  std::function<void(const std::string&)> message;
  // In the process that records a child of the guest's, when that has ended: is to end it as the guest ended.
  // Null: it exits with the status.
  std::function<void(const RecordResult&)> end_child;
  // Likewise, for what nobody should miss: the log can't be written any more.
  std::function<void(const std::string&)> warning;
};

struct RecordResult {
  uint32_t process = 0;  // which of the recording's this is the result of; 0 is the first
  bool signaled = false;
  int status = 0;  // exit status, or the signal's number
  uint64_t events = 0;
  MachineKind machine = MachineKind::kvm;
  std::string log_error;  // not empty: the recording ends early for this reason
  // Not empty: it ends at a call that can't be recorded; a sentence with the way out. `status` is
  // kUnsupportedStatus then.
  std::string unsupported;
  std::vector<recording::AnsweredCall> answered_calls;  // as in the recording's meta
};

// Runs the guest on the calling thread, with its working directory, standard streams and descriptors. Throws
// Error when it can't start.
RecordResult record(const RecordOptions& options);

}  // namespace aftercheck
