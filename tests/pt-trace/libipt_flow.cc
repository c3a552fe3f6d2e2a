#include "libipt_flow.h"

#include <elf.h>

#include <cstdio>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "pt_data.h"

namespace aftercheck::pt::test {
namespace {

void require(bool good, const char* what) {
  if (!good) fail(ErrorKind::internal, "{}", what);
}

constexpr uint64_t page_size = 4096;

// Pages in image.dump at the addresses in image.addr, neighbours joined.
std::vector<CodeFile> page_cache(const std::string& folder) {
  const auto raw = read_file(folder + "/image.addr");
  std::vector<CodeFile> code;
  for (size_t i = 0; i + 8 <= raw.size(); i += 8) {
    uint64_t address;
    std::memcpy(&address, raw.data() + i, 8);
    address &= ~(page_size - 1);
    const uint64_t offset = i / 8 * page_size;
    if (!code.empty() && code.back().address + code.back().size == address)
      code.back().size += page_size;
    else
      code.push_back({folder + "/image.dump", offset, page_size, address});
  }
  return code;
}

std::vector<CodeFile> elf_segments(const std::string& path) {
  const auto bytes = read_file(path);
  Elf32_Ehdr header;
  std::memcpy(&header, bytes.data(), sizeof header);
  std::vector<CodeFile> code;
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    Elf32_Phdr segment;
    std::memcpy(&segment, bytes.data() + header.e_phoff + i * sizeof segment, sizeof segment);
    if (segment.p_type == PT_LOAD)
      code.push_back({path, segment.p_offset, segment.p_filesz, segment.p_vaddr});
  }
  return code;
}

}  // namespace

CodeImage RealTrace::image() const {
  CodeImage image;
  for (const CodeFile& file : code) image.map_file(file.address, file.path, file.offset, file.size);
  return image;
}

RealTrace load_real_trace(const std::string& folder, const std::string& name) {
  const std::string path = folder + "/" + name;
  RealTrace trace;
  trace.name = name;
  trace.bytes = read_file(path + "/trace.pt");
  trace.cpu = {pcv_intel, 6, 94, 3};
  if (name == "dynamorio_v2" || name == "dynamorio_v5") {
    trace.cpu = {pcv_intel, 6, 85, 7};
    trace.return_compression = true;
    if (name == "dynamorio_v5") {
      trace.code = elf_segments(path + "/hello");
    } else {
      const auto text = read_file(path + "/mmap.txt");
      unsigned long long from = 0, size = 0, address = 0;  // offset, size and address of the text segment
      require(std::sscanf(std::string(text.begin(), text.end()).c_str(), "hello:%llx-%llx:%llx", &from, &size,
                          &address) == 3,
              "mmap.txt is not file:from-to:address");
      trace.code = {{path + "/hello", from, size - from, address}};
    }
  } else {
    trace.code = page_cache(path);
  }
  return trace;
}

FlowOptions options_for(const RealTrace& trace) {
  FlowOptions options;
  options.return_compression = trace.return_compression;
  options.errata = errata_of(trace.cpu.family, trace.cpu.model);
  options.filter = trace.filter;
  return options;
}

std::vector<uint64_t> expected_ips(const std::string& path) {
  // gzip is part of every Debian; a dependency for one test file would be too much.
  FILE* pipe = ::popen(("gzip -dc '" + path + "'").c_str(), "r");
  require(pipe != nullptr, "can't run gzip");
  std::vector<uint64_t> ips;
  unsigned long long ip = 0;
  while (std::fscanf(pipe, "%llx", &ip) == 1) ips.push_back(ip);
  require(::pclose(pipe) == 0, "gzip failed");
  return ips;
}

LibiptDecoder::LibiptDecoder(const RealTrace& trace)
    : cpu_(trace.cpu),
      filter_(trace.filter),
      cache_(pt_iscache_alloc(nullptr)),
      image_(pt_image_alloc(nullptr)) {
  // Without the limit libipt maps sections again and again and looks slower than it is.
  pt_iscache_set_limit(cache_, uint64_t{1} << 30);
  for (const CodeFile& file : trace.code) {
    const int section = pt_iscache_add_file(cache_, file.path.c_str(), file.offset, file.size, file.address);
    require(section > 0, "pt_iscache_add_file failed");
    require(pt_image_add_cached(image_, cache_, section, nullptr) >= 0, "pt_image_add_cached failed");
  }
}

LibiptDecoder::~LibiptDecoder() {
  pt_image_free(image_);
  pt_iscache_free(cache_);
}

pt_config LibiptDecoder::config(std::span<const uint8_t> bytes) const {
  pt_config config;
  pt_config_init(&config);
  config.cpu = cpu_;
  pt_cpu_errata(&config.errata, &config.cpu);
  config.begin = const_cast<uint8_t*>(bytes.data());
  config.end = config.begin + bytes.size();
  if (!filter_.empty()) {
    config.addr_filter.config.ctl.addr0_cfg = 1;  // IA32_RTIT_CTL.ADDR0_CFG: a filter
    config.addr_filter.addr0_a = filter_[0].first;
    config.addr_filter.addr0_b = filter_[0].last;
  }
  return config;
}

std::vector<int> LibiptDecoder::blocks(std::span<const uint8_t> bytes,
                                       const std::function<void(const pt_block&)>& visit) {
  const pt_config settings = config(bytes);
  std::unique_ptr<pt_block_decoder, void (*)(pt_block_decoder*)> decoder(pt_blk_alloc_decoder(&settings),
                                                                         pt_blk_free_decoder);
  pt_blk_set_image(decoder.get(), image_);
  std::vector<int> errors;
  while (true) {
    int status = pt_blk_sync_forward(decoder.get());
    if (status < 0) {
      if (status != -pte_eos) errors.push_back(status);
      return errors;
    }
    while (true) {
      while ((status & pts_event_pending) != 0) {
        pt_event event;
        status = pt_blk_event(decoder.get(), &event, sizeof event);
        if (status < 0) break;
      }
      if (status < 0 || (status & pts_eos) != 0) break;
      pt_block block;
      std::memset(&block, 0, sizeof block);
      status = pt_blk_next(decoder.get(), &block, sizeof block);
      if (block.ninsn > 0) visit(block);
      if (status < 0) break;
    }
    if (status >= 0 || status == -pte_eos) return errors;
    errors.push_back(status);
  }
}

uint64_t LibiptDecoder::count_blocks(std::span<const uint8_t> bytes) {
  uint64_t count = 0;
  blocks(bytes, [&](const pt_block&) { ++count; });
  return count;
}

}  // namespace aftercheck::pt::test
