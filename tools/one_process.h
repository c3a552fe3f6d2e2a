// One process of a recording, as options name it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "recording/processes.h"
#include "replay-engine/replay.h"

namespace aftercheck::tools {

// Process `number` is wanted, by what `by` names in errors. Throws Error(usage) where that is not the one
// that was wanted before.
void choose_process(std::optional<uint32_t>& chosen, uint32_t number, const std::string& by);
// The same where `directory` is that of a child's log; it becomes that of the whole recording. Throws as
// recording::read_meta().
void choose_by_folder(std::optional<uint32_t>& chosen, std::filesystem::path& directory);

// Is there a checkpoint of this process's own that is not behind `event`? It needs no replay of its parent's.
bool has_checkpoint(const recording::Process& process, uint64_t event);

// From before the first event of the first process to the start of the last one on the way (places in the
// list, as way_to() gives them). Throws as Replay::advance() and enter(), and Error(bad_input) where one of
// the logs ends before.
void enter(Replay& replay, const std::vector<recording::Process>& processes, const std::vector<size_t>& way);

// Does a process on the way share memory with others? Then the last one can be replayed beside them only.
bool shares_memory(const std::vector<recording::Process>& processes, const std::vector<size_t>& way);

// "process 3 (pid 1234, make -j2)": the program without its directory, a long command cut short.
std::string process_name(const recording::Process& process);

}  // namespace aftercheck::tools
