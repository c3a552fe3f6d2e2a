#include "libipt_judge.h"

#include <fmt/format.h>
#include <intel-pt.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "base/error.h"

namespace aftercheck::test {

LibiptImage::LibiptImage() : cache_(pt_iscache_alloc(nullptr)), image_(pt_image_alloc(nullptr)) {
  // Without the limit libipt maps sections again and again.
  pt_iscache_set_limit(cache_, uint64_t{1} << 32);
}

LibiptImage::~LibiptImage() {
  pt_image_free(image_);
  pt_iscache_free(cache_);
}

void LibiptImage::add(uint64_t address, std::span<const uint8_t> bytes) {
  const UniqueFd& file = files_.emplace_back(memfd_create("code", MFD_CLOEXEC));
  if (write(file.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
    fail(ErrorKind::io, "no memory for code: {}", errno_text(errno));
  const std::string path = fmt::format("/proc/self/fd/{}", file.get());
  const int section = pt_iscache_add_file(cache_, path.c_str(), 0, bytes.size(), address);
  if (section < 0 || pt_image_add_cached(image_, cache_, section, nullptr) < 0)
    fail(ErrorKind::internal, "libipt does not take code at {:#x}", address);
}

std::string LibiptImage::decode(std::span<const uint8_t> trace, const Visit& visit) const {
  pt_config config;
  pt_config_init(&config);
  config.begin = const_cast<uint8_t*>(trace.data());
  config.end = config.begin + trace.size();
  config.flags.variant.block.end_on_call = 1;
  config.flags.variant.block.end_on_jump = 1;
  const std::unique_ptr<pt_block_decoder, void (*)(pt_block_decoder*)> decoder(pt_blk_alloc_decoder(&config),
                                                                               pt_blk_free_decoder);
  pt_blk_set_image(decoder.get(), image_);
  int status = pt_blk_sync_forward(decoder.get());
  const auto problem = [&](uint64_t ip) {
    uint64_t offset = 0;
    pt_blk_get_offset(decoder.get(), &offset);
    return fmt::format("libipt at offset {} of {}, ip {:#x}: {}", offset, trace.size(), ip,
                       pt_errstr(pt_errcode(status)));
  };
  while (status >= 0) {
    while (status >= 0 && (status & pts_event_pending) != 0) {
      pt_event event;
      status = pt_blk_event(decoder.get(), &event, sizeof event);
      if (status >= 0 && event.type == ptev_overflow) return "libipt: an overflow";
    }
    if (status < 0) return status == -pte_eos ? "" : problem(0);
    if ((status & pts_eos) != 0) return {};
    pt_block block;
    std::memset(&block, 0, sizeof block);
    status = pt_blk_next(decoder.get(), &block, sizeof block);
    if (block.ninsn > 0) visit(block.ip, block.end_ip, block.ninsn);
    if (status < 0) return status == -pte_eos ? "" : problem(block.ip);
  }
  return status == -pte_eos ? "" : problem(0);
}

}  // namespace aftercheck::test
