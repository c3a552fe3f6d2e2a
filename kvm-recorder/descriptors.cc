#include "kvm-recorder/descriptors.h"

#include "base/fd.h"

namespace aftercheck {

bool Descriptors::allowed(int fd) const { return !is_own_fd(fd); }

uint8_t Descriptors::stream(int fd) const {
  const auto entry = streams_.find(fd);
  return entry == streams_.end() ? 0 : entry->second;
}

void Descriptors::duplicated(int from, int to) {
  if (from == to) return;
  const uint8_t stream_of_from = stream(from);
  if (stream_of_from == 0) {
    streams_.erase(to);
  } else {
    streams_[to] = stream_of_from;
  }
}

void Descriptors::closed(int fd) { streams_.erase(fd); }

void Descriptors::closed_range(unsigned first, unsigned last) {
  for (auto entry = streams_.begin(); entry != streams_.end();) {
    const auto fd = static_cast<unsigned>(entry->first);
    entry = fd >= first && fd <= last ? streams_.erase(entry) : std::next(entry);
  }
}

}  // namespace aftercheck
