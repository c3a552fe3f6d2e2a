// The processes of a recording. Each has a folder like a recording's of its own: the first is in DIR itself,
// the others in DIR/processes/N.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "recording/meta.h"

namespace aftercheck::recording {

struct Process {
  uint32_t number = 0;
  std::filesystem::path directory;
  Meta meta;
  // Of those that this one made, in the order in which it made them: places in the list.
  std::vector<size_t> children;
};

// All that have a readable meta and a parent that has one, by number; the first process is the first. Throws
// Error as read_meta() for the first one.
std::vector<Process> read_processes(const std::filesystem::path& directory);

// The way from the first process to `wanted`, both included, as places in the list. Throws Error(usage) where
// there is no process with this number.
std::vector<size_t> way_to(const std::vector<Process>& processes, uint32_t wanted);

// Where the log of one process is. Throws as both above.
std::filesystem::path directory_of(const std::filesystem::path& recording, uint32_t number);

}  // namespace aftercheck::recording
