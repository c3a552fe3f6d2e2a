// libipt's block decoder over a piece of trace and the code that was executed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"

struct pt_image;
struct pt_image_section_cache;

namespace aftercheck::test {

// Code at its addresses.
class LibiptImage {
 public:
  LibiptImage();
  ~LibiptImage();
  LibiptImage(const LibiptImage&) = delete;
  LibiptImage& operator=(const LibiptImage&) = delete;
  void add(uint64_t address, std::span<const uint8_t> bytes);

  // Blocks of straight code: first and last instruction. Returns errors with their offsets; empty when the
  // whole trace was decoded.
  using Visit = std::function<void(uint64_t ip, uint64_t end_ip, unsigned instructions)>;
  std::string decode(std::span<const uint8_t> trace, const Visit& visit) const;

 private:
  // Without names, reached through /proc. One each, because libipt refuses files that have changed.
  std::vector<UniqueFd> files_;
  pt_image_section_cache* cache_;
  pt_image* image_;
};

}  // namespace aftercheck::test
