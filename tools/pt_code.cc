#include "tools/pt_code.h"

#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "base/error.h"

namespace aftercheck::tools {
namespace {

constexpr uint64_t kPageSize = 4096;

// A number as C writes it: decimal, or hexadecimal behind 0x.
uint64_t number(const std::string& text, const std::string& whole) {
  uint64_t value = 0;
  const bool hex = text.starts_with("0x") || text.starts_with("0X");
  const char* const first = text.data() + (hex ? 2 : 0);
  const char* const last = text.data() + text.size();
  const auto result = std::from_chars(first, last, value, hex ? 16 : 10);
  if (result.ec != std::errc() || result.ptr != last || first == last)
    fail(ErrorKind::usage, "{}: `{}` is no number; numbers are decimal, or hexadecimal behind 0x", whole,
         text);
  return value;
}

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts(1);
  for (const char c : text)
    if (c == at)
      parts.emplace_back();
    else
      parts.back() += c;
  return parts;
}

uint64_t file_size(const std::string& path) {
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) fail(ErrorKind::io, "{}: {}", path, error.message());
  return size;
}

}  // namespace

void add_pt_code_options(CLI::App& app, PtCodeOptions& options) {
  app.add_option("--image", options.images,
                 "Code of a raw trace: an ELF file at its own addresses, or a file or part of it at ADDRESS")
      ->type_name("FILE[@ADDRESS[:OFFSET:SIZE]]")
      ->allow_extra_args(false);
  app.add_option("--pages", options.pages,
                 "Code of a raw trace: 4096-byte pages in PREFIX.dump at the 64-bit addresses in PREFIX.addr")
      ->type_name("PREFIX")
      ->allow_extra_args(false);
  app.add_option("--cpu", options.cpu, "The processor that made a raw trace, for its errata: 6/94")
      ->type_name("FAMILY/MODEL");
  app.add_option("--bits", options.bits, "Width of the code until the trace says")
      ->type_name("16|32|64")
      ->check(CLI::IsMember({16, 32, 64}).description(""));
  app.add_flag("--noretcomp", options.no_return_compression,
               "A raw trace was made without return compression: decodes faster");
  app.add_option("--pid", options.pid, "Of perf.data: the process whose mappings count")->type_name("N");
}

PtCode::PtCode(const PtCodeOptions& options, const PtSource& source, size_t stream)
    : flow_options_(source.flow_options(stream)) {
  if (source.is_recording()) {
    if (!options.images.empty() || !options.pages.empty())
      fail(ErrorKind::usage, "--image and --pages are for raw traces: a recording has its code");
    recorded_ = std::make_unique<RecordedCode>(source.name());
    recorded_->answered(0);  // the start, which has no mark: it comes before all AUX data
    return;
  }
  if (source.perf_data() != nullptr) add_perf_mappings(*source.perf_data(), stream, options.pid);
  for (const std::string& image : options.images) add_image(image);
  for (const std::string& prefix : options.pages) add_pages(prefix);
  if (!options.cpu.empty()) {
    const auto parts = split(options.cpu, '/');
    if (parts.size() < 2) fail(ErrorKind::usage, "--cpu {}: write FAMILY/MODEL, as in 6/94", options.cpu);
    flow_options_.errata = pt::errata_of(static_cast<unsigned>(number(parts[0], "--cpu " + options.cpu)),
                                         static_cast<unsigned>(number(parts[1], "--cpu " + options.cpu)));
  }
  if (options.no_return_compression) flow_options_.return_compression = false;
  flow_options_.mode = options.bits == 64   ? pt::ExecMode::bits64
                       : options.bits == 32 ? pt::ExecMode::bits32
                                            : pt::ExecMode::bits16;
}

void PtCode::add(const std::shared_ptr<symbols::Object>& object, uint64_t address, const std::string& path,
                 uint64_t offset, uint64_t size) {
  image_.map_file(address, path, offset, size);
  symbols_.map(address, size, object, offset);
}

void PtCode::add_image(const std::string& text) {
  const std::string whole = "--image " + text;
  const size_t at = text.rfind('@');
  if (at == std::string::npos) return add_elf(text);
  const std::string path = text.substr(0, at);
  const auto parts = split(text.substr(at + 1), ':');
  if (parts.size() != 1 && parts.size() != 3)
    fail(ErrorKind::usage, "{}: write FILE@ADDRESS or FILE@ADDRESS:OFFSET:SIZE", whole);
  const uint64_t address = number(parts[0], whole);
  const uint64_t offset = parts.size() == 3 ? number(parts[1], whole) : 0;
  const uint64_t size = parts.size() == 3 ? number(parts[2], whole) : file_size(path);
  add(symbols::Object::open(path), address, path, offset, size);
}

// As the kernel loads a program that isn't position-independent.
void PtCode::add_elf(const std::string& path) {
  const auto object = symbols::Object::open(path);
  if (object->segments().empty())
    fail(ErrorKind::bad_input, "{}: is no ELF file with program headers; write --image {}@ADDRESS", path,
         path);
  for (const symbols::Object::Segment& segment : object->segments())
    if (segment.file_size > 0) add(object, segment.address, path, segment.offset, segment.file_size);
}

void PtCode::add_pages(const std::string& prefix) {
  std::ifstream file(prefix + ".addr", std::ios::binary);
  if (!file) fail(ErrorKind::io, "{}.addr: can't be opened", prefix);
  const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const std::string dump = prefix + ".dump";
  const auto object = symbols::Object::open(dump);
  const uint64_t available = file_size(dump);
  struct PageRun {
    uint64_t address, offset, size;
  };
  std::vector<PageRun> runs;  // neighbours joined
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    uint64_t address = 0;
    std::memcpy(&address, bytes.data() + i, sizeof address);
    address &= ~(kPageSize - 1);
    const uint64_t offset = i / 8 * kPageSize;
    if (offset + kPageSize > available)
      fail(ErrorKind::bad_input, "{}: has {} bytes, but {}.addr has {} addresses of pages", dump, available,
           prefix, bytes.size() / 8);
    if (!runs.empty() && runs.back().address + runs.back().size == address)
      runs.back().size += kPageSize;
    else
      runs.push_back({address, offset, kPageSize});
  }
  for (const PageRun& run : runs) add(object, run.address, dump, run.offset, run.size);
}

void PtCode::add_perf_mappings(const pt::PerfData& perf, size_t stream, int32_t pid) {
  std::set<int32_t> pids;
  for (const pt::PerfMapping& mapping : perf.mappings()) {
    if (mapping.pid <= 0 || !mapping.executable) continue;
    pids.insert(mapping.pid);
    const int32_t tid = perf.streams()[stream].tid;
    if (pid == 0 && tid > 0 && (mapping.tid == tid || mapping.pid == tid)) pid = mapping.pid;
  }
  if (pid == 0 && pids.size() > 1)
    warnings_.push_back(
        fmt::format("{} processes have code in this trace, and their addresses may be the same; choose "
                    "one with --pid",
                    pids.size()));
  std::map<std::string, std::shared_ptr<symbols::Object>> objects;
  for (const pt::PerfMapping& mapping : perf.mappings()) {
    if (!mapping.executable || mapping.pid <= 0 || (pid != 0 && mapping.pid != pid)) continue;
    if (!mapping.path.starts_with("/") || mapping.path.starts_with("//")) continue;
    const auto [known, fresh] = objects.try_emplace(mapping.path);
    try {
      if (fresh) known->second = symbols::Object::open(mapping.path);
      if (known->second != nullptr)
        add(known->second, mapping.address, mapping.path, mapping.file_offset, mapping.size);
    } catch (const Error& error) {
      warnings_.push_back(fmt::format("code is missing: {}", error.what()));
      known->second = nullptr;
    }
  }
}

}  // namespace aftercheck::tools
