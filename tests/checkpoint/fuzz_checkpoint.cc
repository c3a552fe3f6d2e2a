// libFuzzer: the first byte chooses whether the rest is a whole file, or the summary or the body of one whose
// checksums are right, which a fuzzer could not guess. What is read leads into a store with one pack.
//
// fuzz_checkpoint --seeds DIRECTORY writes inputs to begin with.
#include <zstd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "base/error.h"
#include "checkpoint_maker.h"
#include "recording/digest.h"
#include "sealed_checkpoint.h"

using namespace aftercheck;
using test::Bytes;

namespace {

void write(const std::filesystem::path& path, const Bytes& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

Bytes read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  Bytes bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

struct Place {
  Place() {
    std::string name = (std::filesystem::temp_directory_path() / "fuzz-checkpoint-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    directory = name;
    store.emplace(directory, true);
    const Bytes pages = test::small_pages();
    Bytes frame(ZSTD_compressBound(pages.size()));
    frame.resize(ZSTD_compress(frame.data(), frame.size(), pages.data(), pages.size(), 1));
    recording::Store::NewBlob pack(*store);
    pack.append(frame);
    write_checkpoint(directory, test::small_checkpoint(
                                    pack.keep(), {0, 0, static_cast<uint32_t>(frame.size()), 3,
                                                  recording::digest128(std::span<const std::byte>(frame))}));
    known = Checkpoints(directory).all().at(0);
    whole = read(known.file);
    payloads = test::payloads_of(whole);
  }
  ~Place() {
    std::error_code error;
    std::filesystem::remove_all(directory, error);
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

  std::filesystem::path directory;
  std::optional<recording::Store> store;
  Checkpoints::Known known;
  Bytes whole;
  std::vector<Bytes> payloads;
};

const Place& place() {
  static const Place the_place;
  return the_place;
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* count, char*** words) {
  if (*count != 3 || std::strcmp((*words)[1], "--seeds") != 0) return 0;
  const std::filesystem::path directory = (*words)[2];
  const Bytes* seeds[] = {&place().whole, &place().payloads[0], &place().payloads[1]};
  for (size_t i = 0; i < 3; ++i) {
    Bytes seed = *seeds[i];
    seed.insert(seed.begin(), static_cast<std::byte>(i));
    write(directory / ("seed-" + std::to_string(i)), seed);
  }
  std::exit(0);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  Bytes input(size - 1);
  if (size > 1) std::memcpy(input.data(), data + 1, size - 1);
  std::vector<Bytes> payloads = place().payloads;
  const unsigned choice = data[0] % 3;
  if (choice != 0) payloads[choice - 1] = input;
  write(place().known.file, choice == 0 ? input : test::file_of(payloads));
  try {
    uint64_t bytes = 0;
    read_pages(Checkpoints::load(place().known), *place().store,
               [&](const PageRun&, std::span<const std::byte> pages) { bytes += pages.size(); });
  } catch (const Error& error) {  // refused, as it should be
    if (error.kind() != ErrorKind::bad_input && error.kind() != ErrorKind::unsupported) std::abort();
  }
  return 0;
}
