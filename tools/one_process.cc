#include "tools/one_process.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "recording/reader.h"
#include "tools/output.h"

namespace aftercheck::tools {

void choose_process(std::optional<uint32_t>& chosen, uint32_t number, const std::string& by) {
  if (chosen.value_or(number) != number)
    fail(ErrorKind::usage, "{} is of process {}, not of process {}", by, number, *chosen);
  chosen = number;
}

void choose_by_folder(std::optional<uint32_t>& chosen, std::filesystem::path& directory) {
  const recording::Meta meta = recording::read_meta(directory);
  if (!meta.parent) return;
  choose_process(chosen, meta.process, directory.string());
  directory = std::filesystem::absolute(directory / "." / ".." / "..");
}

bool has_checkpoint(const recording::Process& process, uint64_t event) {
  return Checkpoints(process.directory).before(event) != nullptr;
}

void enter(Replay& replay, const std::vector<recording::Process>& processes, const std::vector<size_t>& way) {
  for (size_t i = 1; i < way.size(); ++i) {
    const recording::Process& process = processes[way[i]];
    if (replay.advance({.exit = process.meta.parent->event}).why != Stop::Why::exit)
      fail(ErrorKind::bad_input, "{}: it begins at event {} of process {}, whose log ends before",
           process.directory.string(), process.meta.parent->event, process.meta.parent->process);
    replay.enter(process.directory);
  }
}

bool shares_memory(const std::vector<recording::Process>& processes, const std::vector<size_t>& way) {
  return std::ranges::any_of(
      way, [&](size_t i) { return processes[i].meta.capabilities.contains(recording::kSharesMemory); });
}

std::string process_name(const recording::Process& process) {
  // The program without its directory: however deep that is, the program and its first arguments are shown.
  std::string command;
  for (const std::string& word : process.meta.command)
    command += command.empty() ? std::filesystem::path(word).filename().string() : " " + word;
  constexpr size_t kLongest = 60;
  if (command.size() > kLongest) command = command.substr(0, kLongest) + "...";
  return printable(fmt::format("process {} (pid {}, {})", process.number, process.meta.process_id, command));
}

}  // namespace aftercheck::tools
