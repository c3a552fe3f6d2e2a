#include "recording/processes.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <string>
#include <system_error>

#include "base/error.h"

namespace aftercheck::recording {
namespace {

namespace fs = std::filesystem;

std::optional<uint32_t> number_in(const std::string& name) {
  uint32_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc() || end != name.data() + name.size() || number == 0) return std::nullopt;
  return number;
}

}  // namespace

std::vector<Process> read_processes(const fs::path& directory) {
  std::vector<Process> all;
  all.push_back({0, directory, read_meta(directory), {}});
  std::error_code error;
  for (auto entry = fs::directory_iterator(directory / "processes", error);
       !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const std::optional<uint32_t> number = number_in(entry->path().filename().string());
    if (!number) continue;
    try {
      Process process{*number, entry->path(), read_meta(entry->path()), {}};
      if (process.meta.process == *number && process.meta.parent) all.push_back(std::move(process));
    } catch (const Error& problem) {
      // Whoever was killed while it began has left nothing to replay.
      if (problem.kind() != ErrorKind::bad_input && problem.kind() != ErrorKind::io) throw;
    }
  }
  std::ranges::sort(all, {}, &Process::number);
  // A parent is older than its child, so that none is its own ancestor.
  std::map<uint32_t, size_t> places;
  std::vector<Process> kept;
  for (Process& process : all) {
    if (process.number != 0) {
      const auto parent = places.find(process.meta.parent->process);
      if (parent == places.end()) continue;
      kept[parent->second].children.push_back(kept.size());
    }
    places.emplace(process.number, kept.size());
    kept.push_back(std::move(process));
  }
  for (Process& process : kept)
    std::ranges::stable_sort(process.children, {},
                             [&](size_t child) { return kept[child].meta.parent->event; });
  return kept;
}

std::vector<size_t> way_to(const std::vector<Process>& processes, uint32_t wanted) {
  std::vector<size_t> way;
  const auto find = [&](uint32_t number) {
    const auto found = std::ranges::find(processes, number, &Process::number);
    if (found == processes.end())
      fail(ErrorKind::usage, "{}: the recording has no process {}", processes.front().directory.string(),
           number);
    return static_cast<size_t>(found - processes.begin());
  };
  for (size_t place = find(wanted);; place = find(processes[place].meta.parent->process)) {
    way.insert(way.begin(), place);
    if (processes[place].number == 0) return way;
  }
}

fs::path directory_of(const fs::path& recording, uint32_t number) {
  if (number == 0) return recording;
  const std::vector<Process> processes = read_processes(recording);
  return processes[way_to(processes, number).back()].directory;
}

}  // namespace aftercheck::recording
