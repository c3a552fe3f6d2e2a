// Recordings with changed events and right checksums: what a forger, or a recorder with a bug, would write.
#pragma once

#include <filesystem>
#include <functional>
#include <vector>

#include "recording/event.h"
#include "recording/reader.h"
#include "recording/writer.h"

namespace aftercheck::test {

// Gives what is to stand in the place of the event with this number: nothing, itself, or several. Its spans,
// and those of what it gives, live until the next call.
using Rewrite = std::function<std::vector<recording::Event>(const recording::Event& event, uint64_t number)>;

// A copy of the recording `from` at `to`, which must not exist, but for its events.
inline void rewrite(const std::filesystem::path& from, const std::filesystem::path& to,
                    const Rewrite& change) {
  std::filesystem::create_directory(to);
  std::filesystem::copy(from / "meta", to / "meta");
  std::filesystem::copy(from / "store", to / "store", std::filesystem::copy_options::recursive);
  recording::Reader reader(from);
  recording::Writer writer(to);
  while (const recording::Event* event = reader.next())
    for (const recording::Event& one : change(*event, reader.number())) writer.append(one);
  writer.finish();
}

}  // namespace aftercheck::test
