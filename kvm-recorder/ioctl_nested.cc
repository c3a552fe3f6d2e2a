#include "kvm-recorder/ioctl_nested.h"

#include <fmt/format.h>
#include <linux/ethtool.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

namespace aftercheck {
namespace {

long make(const Call& call, void* structure) {
  return host_call(SYS_ioctl, call.args[0], call.args[1], host_pointer(structure));
}

// --- ethtool ---

// Those that only ask, with structures of one size (include/uapi/linux/ethtool.h).
struct Command {
  uint32_t command;
  uint32_t size;
};
constexpr Command kCommands[] = {
    {ETHTOOL_GSET, sizeof(ethtool_cmd)},
    {ETHTOOL_GDRVINFO, sizeof(ethtool_drvinfo)},
    {ETHTOOL_GWOL, sizeof(ethtool_wolinfo)},
    {ETHTOOL_GMSGLVL, sizeof(ethtool_value)},
    {ETHTOOL_GLINK, sizeof(ethtool_value)},
    {ETHTOOL_GCOALESCE, sizeof(ethtool_coalesce)},
    {ETHTOOL_GRINGPARAM, sizeof(ethtool_ringparam)},
    {ETHTOOL_GPAUSEPARAM, sizeof(ethtool_pauseparam)},
    {ETHTOOL_GRXCSUM, sizeof(ethtool_value)},
    {ETHTOOL_GTXCSUM, sizeof(ethtool_value)},
    {ETHTOOL_GSG, sizeof(ethtool_value)},
    {ETHTOOL_GTSO, sizeof(ethtool_value)},
    {ETHTOOL_GUFO, sizeof(ethtool_value)},
    {ETHTOOL_GGSO, sizeof(ethtool_value)},
    {ETHTOOL_GGRO, sizeof(ethtool_value)},
    {ETHTOOL_GFLAGS, sizeof(ethtool_value)},
    {ETHTOOL_GPFLAGS, sizeof(ethtool_value)},
    {ETHTOOL_GCHANNELS, sizeof(ethtool_channels)},
    {ETHTOOL_GET_TS_INFO, sizeof(ethtool_ts_info)},
    {ETHTOOL_GMODULEINFO, sizeof(ethtool_modinfo)},
    {ETHTOOL_GEEE, sizeof(ethtool_eee)},
};

constexpr uint64_t kLongestAddress = 32;                          // MAX_ADDR_LEN
constexpr uint64_t kMostMasks = 3 * INT8_MAX * sizeof(uint32_t);  // behind ethtool_link_settings

// What the kernel may write for it; 0: not one of ours.
uint64_t most_written(uint32_t command) {
  if (command == ETHTOOL_GLINKSETTINGS) return sizeof(ethtool_link_settings) + kMostMasks;
  if (command == ETHTOOL_GPERMADDR) return sizeof(ethtool_perm_addr) + kLongestAddress;
  const auto* row = std::ranges::find(kCommands, command, &Command::command);
  return row == std::end(kCommands) ? 0 : row->size;
}

// How much of the structure the guest gives, and how much of it the kernel has written.
uint64_t read_size(uint32_t command) {
  if (command == ETHTOOL_GLINKSETTINGS) return sizeof(ethtool_link_settings);
  if (command == ETHTOOL_GPERMADDR) return sizeof(ethtool_perm_addr);
  return most_written(command);
}

uint64_t written_size(uint32_t command, const std::byte* structure) {
  if (command == ETHTOOL_GLINKSETTINGS) {
    ethtool_link_settings settings;
    std::memcpy(&settings, structure, sizeof settings);
    const int words = settings.link_mode_masks_nwords;  // negative: so many there would be
    return sizeof settings + 3 * sizeof(uint32_t) * static_cast<uint64_t>(std::max(words, 0));
  }
  if (command == ETHTOOL_GPERMADDR) {
    ethtool_perm_addr address;
    std::memcpy(&address, structure, sizeof address);
    return sizeof address + std::min<uint64_t>(address.size, kLongestAddress);
  }
  return most_written(command);
}

}  // namespace

// net/core/dev_ioctl.c, dev_ifconf().
long get_interfaces(Call& call, uint64_t address) {
  constexpr int kMost = 1 << 20;
  ifconf list{};
  if (!call.process.memory.read_object(address, list)) return -EFAULT;
  const uint64_t buffer = host_pointer(list.ifc_buf);
  std::vector<std::byte> entries(static_cast<size_t>(std::clamp(list.ifc_len, 1, kMost)));
  list.ifc_len = std::min(list.ifc_len, kMost);
  if (buffer != 0) list.ifc_buf = reinterpret_cast<char*>(entries.data());
  if (const long error = make(call, &list); error < 0) return error;
  if (buffer != 0 && list.ifc_len > 0 &&
      !call.answer.write(buffer, entries.data(), static_cast<uint64_t>(list.ifc_len)))
    return -EFAULT;
  return call.answer.write_object(address + offsetof(ifconf, ifc_len), list.ifc_len) ? 0 : -EFAULT;
}

long ask_interface(Call& call, uint64_t address) {
  ifreq request{};
  uint32_t command = 0;
  if (!call.process.memory.read_object(address, request)) return -EFAULT;
  const uint64_t structure = host_pointer(request.ifr_data);
  if (!call.process.memory.read_object(structure, command)) return -EFAULT;
  std::vector<std::byte> copy(most_written(command));
  if (copy.empty()) {
    const std::string name = fmt::format("ioctl SIOCETHTOOL {:#x}", command);
    tell_once(call.process, name,
              fmt::format("the program called {}: not supported, answered EOPNOTSUPP", name));
    return -EOPNOTSUPP;
  }
  if (!call.process.memory.read(structure, copy.data(), read_size(command))) return -EFAULT;
  if (command == ETHTOOL_GPERMADDR) {
    ethtool_perm_addr wanted;
    std::memcpy(&wanted, copy.data(), sizeof wanted);
    wanted.size = std::min<uint32_t>(wanted.size, kLongestAddress);
    std::memcpy(copy.data(), &wanted, sizeof wanted);
  }
  request.ifr_data = reinterpret_cast<char*>(copy.data());
  const long result = make(call, &request);
  if (result < 0) return result;
  return call.answer.write(structure, copy.data(), written_size(command, copy.data())) ? result : -EFAULT;
}

// fs/ioctl.c, ioctl_fiemap(): the head comes back after the filesystem's errors, too, but not after those
// that come before it is asked.
long get_extents(Call& call, uint64_t address) {
  constexpr uint32_t kMost = 1 << 16;
  constexpr uint32_t kMostOfKernel = (UINT32_MAX - sizeof(fiemap)) / sizeof(fiemap_extent);  // else EINVAL
  constexpr uint32_t kUntouched = UINT32_MAX;  // the kernel does not read fm_mapped_extents
  fiemap head{};
  if (!call.process.memory.read(address, &head, sizeof head))
    return host_call(SYS_ioctl, call.args[0], call.args[1], kBadPointer);
  const uint32_t room = head.fm_extent_count, given = std::min(room, kMost);
  head.fm_extent_count = room > kMostOfKernel ? room : given;
  head.fm_mapped_extents = kUntouched;
  std::vector<std::byte> copy(sizeof head + given * sizeof(fiemap_extent));
  std::memcpy(copy.data(), &head, sizeof head);
  const long result = make(call, copy.data());
  std::memcpy(&head, copy.data(), sizeof head);
  if (head.fm_mapped_extents == kUntouched) return result;
  const uint64_t extents = std::min(head.fm_mapped_extents, given) * sizeof(fiemap_extent);
  head.fm_extent_count = room;
  std::memcpy(copy.data(), &head, sizeof head);
  return call.answer.write(address, copy.data(), sizeof head + extents) ? result : -EFAULT;
}

// Contents stay what they are, so nothing else is to be told.
long deduplicate(Call& call, uint64_t address) {
  file_dedupe_range head{};
  if (!call.process.memory.read(address, &head, sizeof head)) return -EFAULT;
  std::vector<std::byte> copy(sizeof head + head.dest_count * sizeof(file_dedupe_range_info));
  if (!call.process.memory.read(address, copy.data(), copy.size())) return -EFAULT;
  const auto set_destination = [&](size_t entry, int64_t fd) {
    std::memcpy(&copy[sizeof head + entry * sizeof(file_dedupe_range_info) +
                      offsetof(file_dedupe_range_info, dest_fd)],
                &fd, sizeof fd);
  };
  std::vector<std::pair<size_t, int64_t>> ours;  // not open to the guest: its entry alone gets EBADF
  for (size_t i = 0; i < head.dest_count; ++i) {
    file_dedupe_range_info info;
    std::memcpy(&info, &copy[sizeof head + i * sizeof info], sizeof info);
    if (call.process.descriptors.allowed(static_cast<int>(info.dest_fd))) continue;
    ours.emplace_back(i, info.dest_fd);
    set_destination(i, -1);
  }
  const long result = make(call, copy.data());
  if (result < 0) return result;
  for (const auto& [entry, fd] : ours) set_destination(entry, fd);
  return call.answer.write(address, copy.data(), copy.size()) ? result : -EFAULT;
}

}  // namespace aftercheck
