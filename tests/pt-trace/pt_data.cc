#include "pt_data.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/error.h"

namespace aftercheck::pt::test {

std::optional<std::string> data_folder() {
  const char* variable = std::getenv("AFTERCHECK_PT_DATA");
  const std::string path = variable != nullptr ? variable : AFTERCHECK_PT_DATA_DEFAULT;
  if (std::filesystem::is_directory(path)) return path;
  std::printf("SKIPPED: no real PT traces at %s; set AFTERCHECK_PT_DATA to the pt-data folder\n",
              path.c_str());
  return std::nullopt;
}

std::vector<uint8_t> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(ErrorKind::io, "{}: can't open", path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace aftercheck::pt::test
