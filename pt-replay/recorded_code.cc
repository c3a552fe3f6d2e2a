#include "pt-replay/recorded_code.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#include "base/error.h"

namespace aftercheck {

using recording::Event;
using recording::EventKind;
using recording::SpaceOp;
using recording::SpaceOpKind;

// A file of the store, mapped; the store's files are never written again.
struct RecordedCode::Blob {
  std::span<const uint8_t> bytes;
  std::shared_ptr<symbols::Object> object;

  Blob() = default;
  Blob(const Blob&) = delete;
  Blob& operator=(const Blob&) = delete;
  ~Blob() {
    if (!bytes.empty()) munmap(const_cast<uint8_t*>(bytes.data()), bytes.size());
  }
};

RecordedCode::RecordedCode(const std::filesystem::path& directory, const symbols::ObjectOptions& options)
    : options_(options), reader_(directory), store_(directory, false) {
  pending_ = reader_.next();
}

RecordedCode::RecordedCode(const std::filesystem::path& directory, const Start& start,
                           const symbols::ObjectOptions& options)
    : options_(options),
      reader_(directory, start.next, start.event + 1),
      store_(directory, false),
      next_(start.event + 1) {
  for (const SpaceOp& op : start.mappings) apply(op);
  pending_ = reader_.next();
}

RecordedCode::~RecordedCode() = default;

bool RecordedCode::answered(uint64_t event) {
  replaced_ = false;
  while (pending_ != nullptr) {
    const bool goes_on = pending_->kind == EventKind::continuation;
    if (next_ > event && !goes_on) break;
    apply(*pending_);
    pending_ = reader_.next();
    ++next_;
  }
  return replaced_;
}

void RecordedCode::apply(const Event& event) {
  for (const SpaceOp& op : event.space_ops) apply(op);
  for (const recording::MemoryWrite& written : event.writes) write(written);
  // Patched instructions were as long as what replaced them, and neither branches: the flow is the same.
}

void RecordedCode::apply(const SpaceOp& op) {
  if (op.address + op.length < op.address || op.new_address + op.new_length < op.new_address)
    fail(ErrorKind::bad_input, "event {}: a mapping at {:#x} of {} bytes passes the end of the address space",
         next_, op.address, op.length);
  if (op.kind == SpaceOpKind::map_blob && op.length == 0) return;
  switch (op.kind) {
    case SpaceOpKind::map_blob: {
      cut_out(op.address, op.length);
      const Area area{op.length, op.blob, op.blob_offset, (op.prot & PROT_EXEC) != 0,
                      std::make_shared<const std::string>(op.name)};
      areas_[op.address] = area;
      show(op.address, area);
      break;
    }
    case SpaceOpKind::map_anonymous:
    case SpaceOpKind::unmap:
      cut_out(op.address, op.length);
      break;
    case SpaceOpKind::remap: {
      const auto moved = cut_out(op.address, op.length);
      cut_out(op.new_address, op.new_length);
      for (const auto& [start, area] : moved) {
        const uint64_t inside = start - op.address;
        if (inside >= op.new_length) break;
        Area part = area;
        // A mapping that grows shows more of its file.
        const bool whole = moved.size() == 1 && inside == 0 && area.size == op.length;
        part.size = whole ? op.new_length : std::min(area.size, op.new_length - inside);
        areas_[op.new_address + inside] = part;
        show(op.new_address + inside, part);
      }
      break;
    }
    case SpaceOpKind::protect:
    case SpaceOpKind::discard:
      // A discarded page has the file's bytes again; one that may be executed now had them all the time.
      for (auto& [start, area] : cut_out(op.address, op.length)) {
        if (op.kind == SpaceOpKind::protect) area.executable = (op.prot & PROT_EXEC) != 0;
        areas_[start] = area;
        show(start, area);
      }
      break;
    case SpaceOpKind::clear:
      areas_.clear();
      image_.unmap(0, std::numeric_limits<uint64_t>::max());
      symbols_.clear();
      replaced_ = true;
      break;
  }
}

// Takes the range out of all areas; gives what was in it.
std::map<uint64_t, RecordedCode::Area> RecordedCode::cut_out(uint64_t address, uint64_t size) {
  std::map<uint64_t, Area> taken;
  if (size == 0) return taken;
  const uint64_t end = address + size;
  auto it = areas_.upper_bound(address);
  if (it != areas_.begin()) --it;
  while (it != areas_.end() && it->first < end) {
    const uint64_t start = it->first, stop = start + it->second.size;
    if (stop <= address) {
      ++it;
      continue;
    }
    const Area old = it->second;
    it = areas_.erase(it);
    const uint64_t first = std::max(start, address), last = std::min(stop, end);
    const auto part = [&old, start](uint64_t from, uint64_t to) {
      return Area{to - from, old.blob, old.offset + (from - start), old.executable, old.path};
    };
    if (start < first) areas_[start] = part(start, first);
    if (last < stop) areas_[last] = part(last, stop);
    taken[first] = part(first, last);
  }
  if (!taken.empty()) {
    image_.unmap(address, size);
    symbols_.unmap(address, size);
  }
  return taken;
}

void RecordedCode::show(uint64_t address, const Area& area) {
  if (!area.executable) return;
  const std::shared_ptr<Blob>& file = blob(area);
  if (area.offset < file->bytes.size())
    image_.map(address,
               file->bytes.subspan(area.offset, std::min(area.size, file->bytes.size() - area.offset)), file);
  symbols_.map(address, area.size, file->object, area.offset);
}

// Bytes that the host wrote into code. Elsewhere they are data, which nobody asks for here.
void RecordedCode::write(const recording::MemoryWrite& write) {
  const uint64_t end = write.address + write.bytes.size();
  auto it = areas_.upper_bound(write.address);
  if (it != areas_.begin()) --it;
  for (; it != areas_.end() && it->first < end; ++it) {
    if (!it->second.executable) continue;
    const uint64_t first = std::max(it->first, write.address);
    const uint64_t last = std::min(it->first + it->second.size, end);
    if (first >= last) continue;
    const auto* from = reinterpret_cast<const uint8_t*>(write.bytes.data()) + (first - write.address);
    image_.map(first, std::make_shared<const std::vector<uint8_t>>(from, from + (last - first)));
  }
}

const std::shared_ptr<RecordedCode::Blob>& RecordedCode::blob(const Area& area) {
  std::shared_ptr<Blob>& known = blobs_[area.blob];
  if (known != nullptr) return known;
  recording::Store::Blob file = store_.open(area.blob);
  auto fresh = std::make_shared<Blob>();
  if (file.size > 0) {
    void* const mapped = mmap(nullptr, file.size, PROT_READ, MAP_PRIVATE, file.fd.get(), 0);
    if (mapped == MAP_FAILED)
      fail(ErrorKind::io, "store/{}: mmap: {}", recording::to_hex(area.blob), errno_text(errno));
    fresh->bytes = {static_cast<const uint8_t*>(mapped), file.size};
  }
  fresh->object = symbols::Object::open(std::move(file.fd), *area.path, options_);
  known = std::move(fresh);
  return known;
}

}  // namespace aftercheck
