// One ELF file, as far as people want to read of it: functions and source lines by address. A file that is no
// ELF file, or a damaged one, has none.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"

namespace aftercheck::symbols {

// Addresses in here are those of the file's own program headers ("vaddr"), before it is loaded anywhere.
struct Function {
  uint64_t address = 0;
  uint64_t size = 0;
  std::string name;  // demangled; "printf@plt" for an entry of the procedure linkage table
};

// A line of source. `file` lives as long as the object; null where nothing is known.
struct SourceLine {
  const std::string* file = nullptr;
  uint32_t line = 0;
};

// One function that was running at an address: several where it was inlined into another.
struct Frame {
  std::string function;  // "" where unknown
  SourceLine source;
  bool inlined = false;  // into the next frame
};

struct ObjectOptions {
  // Read DWARF: lines and inlined frames. libdw does this, which is less proof against hostile files than
  // the rest.
  bool lines = true;
  // Where separate debug files are looked for, as DIR/.build-id/xx/yyyy.debug; "" for nowhere.
  std::string debug_directory = "/usr/lib/debug";
};

// Not thread-safe. Reads what it needs when it is asked for it, and keeps it.
class Object {
 public:
  // `name` is for people ("/usr/bin/ls"). Throws Error(io) only when the descriptor can't be read at all.
  static std::shared_ptr<Object> open(UniqueFd fd, const std::string& name,
                                      const ObjectOptions& options = {});
  // Throws Error(io) when there is no such file.
  static std::shared_ptr<Object> open(const std::string& path, const ObjectOptions& options = {});
  ~Object();
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  const std::string& name() const;
  // The name behind the last slash.
  const std::string& short_name() const;
  // In hexadecimal; "" where the file has none.
  const std::string& build_id() const;
  bool is_elf() const;

  // A loadable segment.
  struct Segment {
    uint64_t offset = 0, file_size = 0, address = 0, memory_size = 0;
    bool executable = false;
  };
  const std::vector<Segment>& segments() const;
  // The address that the byte at this offset of the file is loaded at.
  std::optional<uint64_t> address_of_offset(uint64_t offset) const;

  // The function that has this address in it, or null. Valid as long as the object.
  const Function* function_at(uint64_t address);
  // All functions with this name, demangled, with or without its parameters.
  std::vector<const Function*> functions_named(const std::string& name);
  // The line that the instruction at this address belongs to (that of the innermost frame).
  SourceLine line_at(uint64_t address);
  // Innermost first; empty where nothing is known. The last one is the function itself.
  std::vector<Frame> frames_at(uint64_t address);
  // Every line that has code of its own and the address where that begins, in order of addresses within each
  // compilation unit.
  void for_each_line(const std::function<void(uint64_t address, const SourceLine& line)>& visit);

 private:
  Object();
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace aftercheck::symbols
