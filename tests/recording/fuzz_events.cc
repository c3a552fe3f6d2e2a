// libFuzzer: the first byte chooses whether the rest is a whole `events` file or the payload of a chunk with
// right checksums, which a fuzzer could not guess.

#include <algorithm>
#include <filesystem>
#include <string>

#include "base/error.h"
#include "event_maker.h"
#include "recording/reader.h"
#include "sealed_chunk.h"

using namespace aftercheck::recording;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const testing::TemporaryDirectory directory;
  if (size == 0) return 0;
  std::vector<std::byte> file(size - 1);
  std::transform(data + 1, data + size, file.begin(),
                 [](uint8_t byte) { return static_cast<std::byte>(byte); });
  if ((data[0] & 1) != 0) {
    file.resize((file.size() + 7) / 8 * 8);
    file = testing::seal(file);
  }
  testing::write_file(directory / "events", file);
  try {
    Reader reader(directory.path());
    while (const Event* event = reader.next()) testing::to_text(*event);
    reader.truncated();
  } catch (const aftercheck::Error&) {  // refused, as it should be
  }
  return 0;
}
