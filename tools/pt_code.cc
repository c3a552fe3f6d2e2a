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

// Where a file of perf.data is now: below `symfs` with its whole path, as perf has it, or in `symfs` itself.
std::string moved(const std::string& path, const std::string& symfs) {
  if (symfs.empty()) return path;
  const std::string below = symfs + path;
  std::error_code error;
  const std::string flat = symfs + "/" + std::filesystem::path(path).filename().string();
  return !std::filesystem::exists(below, error) && std::filesystem::exists(flat, error) ? flat : below;
}

uint64_t file_size(const std::string& path) {
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) fail(ErrorKind::io, "{}: {}", path, error.message());
  return size;
}

}  // namespace

void add_pt_cpu_option(CLI::App& app, std::string& cpu) {
  app.add_option("--cpu", cpu, "The processor that made the trace, for its errata: 6/94")
      ->type_name("FAMILY/MODEL");
}

pt::Errata pt_errata(const std::string& cpu, const PtSource& source, size_t stream) {
  if (cpu.empty()) return source.flow_options(stream).errata;
  const auto parts = split(cpu, '/');
  if (parts.size() < 2) fail(ErrorKind::usage, "--cpu {}: write FAMILY/MODEL, as in 6/94", cpu);
  return pt::errata_of(static_cast<unsigned>(number(parts[0], "--cpu " + cpu)),
                       static_cast<unsigned>(number(parts[1], "--cpu " + cpu)));
}

void add_pt_code_options(CLI::App& app, PtCodeOptions& options) {
  app.add_option("--image", options.images,
                 "Code of a raw trace: an ELF file at its own addresses, or a file or part of it at ADDRESS")
      ->type_name("FILE[@ADDRESS[:OFFSET:SIZE]]")
      ->allow_extra_args(false);
  app.add_option("--pages", options.pages,
                 "Code of a raw trace: 4096-byte pages in PREFIX.dump at the 64-bit addresses in PREFIX.addr")
      ->type_name("PREFIX")
      ->allow_extra_args(false);
  add_pt_cpu_option(app, options.cpu);
  app.add_option(
         "--filter", options.filters,
         "The addresses that a raw trace was limited to: where some processors do not say how they were left")
      ->type_name("FIRST-LAST")
      ->allow_extra_args(false);
  app.add_option("--bits", options.bits, "Width of the code until the trace says")
      ->type_name("16|32|64")
      ->check(CLI::IsMember({16, 32, 64}).description(""));
  app.add_flag("--noretcomp", options.no_return_compression,
               "A raw trace was made without return compression: decodes faster");
  app.add_option("--pid", options.pid, "Of perf.data: the process whose mappings count")->type_name("N");
  app.add_option("--symfs", options.symfs,
                 "Of perf.data: look for its files below DIR, by their whole paths or their names alone")
      ->type_name("DIR");
}

PtCode::PtCode(const PtCodeOptions& options, const PtSource& source, size_t stream)
    : flow_options_(source.flow_options(stream)) {
  flow_options_.errata = pt_errata(options.cpu, source, stream);
  if (source.is_recording()) {
    if (!options.images.empty() || !options.pages.empty() || !options.symfs.empty())
      fail(ErrorKind::usage, "--image, --pages and --symfs are for other traces: a recording has its code");
    recorded_ = std::make_unique<RecordedCode>(source.name());
    if (source.has_marks(stream))
      recorded_->answered(0);  // the start, which has no mark: it comes before all AUX data
    else if (!recorded_->all_events())
      warnings_.push_back(
          "other code came to the same addresses while the program ran, and a processor's trace does not say "
          "when: "
          "what ran there before is taken for what came last; a trace made by `aftercheck pt synth --force` "
          "says it");
    return;
  }
  if (source.perf_data() != nullptr) add_perf_mappings(*source.perf_data(), stream, options);
  if (source.perf_data() == nullptr && !options.symfs.empty())
    fail(ErrorKind::usage, "--symfs is for perf.data, which names the files of its code");
  for (const std::string& image : options.images) add_image(image);
  for (const std::string& prefix : options.pages) add_pages(prefix);
  for (const std::string& filter : options.filters) {
    const auto parts = split(filter, '-');
    const std::string whole = "--filter " + filter;
    if (parts.size() != 2) fail(ErrorKind::usage, "{}: write FIRST-LAST, as in 0x401000-0x401fff", whole);
    flow_options_.filter.push_back({number(parts[0], whole), number(parts[1], whole)});
  }
  if (options.no_return_compression) flow_options_.return_compression = false;
  flow_options_.mode = options.bits == 64   ? pt::ExecMode::bits64
                       : options.bits == 32 ? pt::ExecMode::bits32
                                            : pt::ExecMode::bits16;
}

// Filters as perf hands them to the kernel (tools/perf/util/auxtrace.c: "filter
// 0x1000/0x200@/usr/bin/program", by commas; addresses in files are offsets). None where one of them can't be
// placed: a filter that is known in part is worse than none.
void PtCode::add_perf_filters(const std::string& text, const std::vector<pt::PerfMapping>& mappings,
                              int32_t pid) {
  std::vector<pt::AddressRange> ranges;
  for (const std::string& item : split(text, ',')) {
    const std::string_view word = "filter ";
    if (!item.starts_with(word)) continue;
    const size_t at = item.find('@');
    const auto parts = split(item.substr(word.size(), at == std::string::npos ? at : at - word.size()), '/');
    uint64_t offset = 0, size = 0;
    const auto hex = [](const std::string& digits, uint64_t& value) {
      const char* const first = digits.data() + (digits.starts_with("0x") ? 2 : 0);
      return std::from_chars(first, digits.data() + digits.size(), value, 16).ec == std::errc();
    };
    if (parts.size() != 2 || !hex(parts[0], offset) || !hex(parts[1], size) || size == 0) return;
    if (at == std::string::npos) {
      ranges.push_back({offset, offset + size - 1});
      continue;
    }
    const size_t before = ranges.size();
    for (const pt::PerfMapping& mapping : mappings) {
      if (!mapping.executable || mapping.path != item.substr(at + 1) || (pid != 0 && mapping.pid != pid))
        continue;
      if (offset < mapping.file_offset || offset - mapping.file_offset >= mapping.size) continue;
      const uint64_t first = mapping.address + (offset - mapping.file_offset);
      ranges.push_back({first, first + size - 1});
    }
    if (ranges.size() == before) return;
  }
  flow_options_.filter.insert(flow_options_.filter.end(), ranges.begin(), ranges.end());
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

void PtCode::add_perf_mappings(const pt::PerfData& perf, size_t stream, const PtCodeOptions& options) {
  int32_t pid = options.pid;
  std::set<int32_t> pids;
  for (const pt::PerfMapping& mapping : perf.mappings()) {
    if (mapping.pid <= 0 || !mapping.executable) continue;
    pids.insert(mapping.pid);
    const int32_t tid = perf.streams()[stream].tid;
    if (pid == 0 && tid > 0 && (mapping.tid == tid || mapping.pid == tid)) pid = mapping.pid;
  }
  if (options.filters.empty()) add_perf_filters(perf.itrace().filter, perf.mappings(), pid);
  if (pid == 0 && pids.size() > 1)
    warnings_.push_back(
        fmt::format("{} processes have code in this trace, and their addresses may be the same; choose "
                    "one with --pid",
                    pids.size()));
  std::map<std::string, std::shared_ptr<symbols::Object>> objects;
  for (const pt::PerfMapping& mapping : perf.mappings()) {
    if (!mapping.executable || mapping.pid <= 0 || (pid != 0 && mapping.pid != pid)) continue;
    if (!mapping.path.starts_with("/") || mapping.path.starts_with("//")) continue;
    const std::string path = moved(mapping.path, options.symfs);
    const auto [known, fresh] = objects.try_emplace(path);
    try {
      if (fresh) known->second = symbols::Object::open(path);
      if (known->second != nullptr)
        add(known->second, mapping.address, path, mapping.file_offset, mapping.size);
    } catch (const Error& error) {
      warnings_.push_back(fmt::format("code is missing: {}", error.what()));
      known->second = nullptr;
    }
  }
}

}  // namespace aftercheck::tools
