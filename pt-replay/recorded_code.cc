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

bool RecordedCode::all_events() {
  keeps_all_ = true;
  answered(std::numeric_limits<uint64_t>::max());
  return !replaced_code_;
}

void RecordedCode::apply(const Event& event) {
  for (const SpaceOp& op : event.space_ops) apply(op);
  for (const recording::MemoryWrite& written : event.writes) write(written);
  // Patched instructions were as long as what replaced them, and neither branches: the flow is the same.
}

void RecordedCode::apply(const SpaceOp& op) {
  if (!changes_mappings(op.kind)) return;
  if (op.address + op.length < op.address || op.new_address + op.new_length < op.new_address)
    fail(ErrorKind::bad_input, "event {}: a mapping at {:#x} of {} bytes passes the end of the address space",
         next_, op.address, op.length);
  if (op.kind == SpaceOpKind::map_blob && op.length == 0) return;
  switch (op.kind) {
    case SpaceOpKind::map_blob: {
      cut_out(op.address, op.length);
      const Area area{op.length, op.blob, op.blob_offset, (op.prot & PROT_EXEC) != 0,
                      std::make_shared<const std::string>(op.name)};
      areas_.put(op.address, area);
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
        areas_.put(op.new_address + inside, part);
        show(op.new_address + inside, part);
      }
      break;
    }
    case SpaceOpKind::protect:
    case SpaceOpKind::discard:
      // A discarded page has the file's bytes again; one that may be executed now had them all the time.
      for (auto& [start, area] : cut_out(op.address, op.length)) {
        if (op.kind == SpaceOpKind::protect) area.executable = (op.prot & PROT_EXEC) != 0;
        areas_.put(start, area);
        show(start, area);
      }
      break;
    case SpaceOpKind::resize_file:
    case SpaceOpKind::fill_file:
      break;
    case SpaceOpKind::clear:
      areas_.clear();
      replaced_ = true;
      if (keeps_all_) break;
      image_.unmap(0, std::numeric_limits<uint64_t>::max());
      symbols_.clear();
      break;
  }
}

// Takes the range out of all areas; gives what was in it.
IntervalMap<RecordedCode::Area>::Entries RecordedCode::cut_out(uint64_t address, uint64_t size) {
  auto taken = areas_.cut_out(address, size);
  if (!taken.empty() && !keeps_all_) {
    image_.unmap(address, size);
    symbols_.unmap(address, size);
  }
  return taken;
}

void RecordedCode::show(uint64_t address, const Area& area) {
  // Without a blob: a file that changes while it is mapped. Its code is the program's own data.
  if (!area.executable || area.blob == recording::Digest128{}) return;
  const std::shared_ptr<Blob>& file = blob(area);
  if (area.offset < file->bytes.size()) {
    const auto bytes =
        file->bytes.subspan(area.offset, std::min(area.size, file->bytes.size() - area.offset));
    if (keeps_all_ && differs(address, bytes)) replaced_code_ = true;
    image_.map(address, bytes, file);
  }
  symbols_.map(address, area.size, file->object, area.offset);
}

// Other code is there.
bool RecordedCode::differs(uint64_t address, std::span<const uint8_t> bytes) const {
  constexpr size_t page_size = 4096;  // mappings begin and end at pages, but for the ends of files
  while (!bytes.empty()) {
    const auto there = image_.mapped_at(address);
    const size_t size =
        std::min(bytes.size(), there.empty() ? page_size - address % page_size : there.size());
    if (!there.empty() && there.data() != bytes.data() && std::memcmp(there.data(), bytes.data(), size) != 0)
      return true;
    bytes = bytes.subspan(size);
    address += size;
  }
  return false;
}

// Bytes that the host wrote into code. Elsewhere they are data, which nobody asks for here.
void RecordedCode::write(const recording::MemoryWrite& write) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(write.bytes.data());
  areas_.visit(write.address, write.bytes.size(),
               [&](uint64_t, const Area& area, uint64_t first, uint64_t size) {
                 if (!area.executable) return;
                 const uint8_t* from = bytes + (first - write.address);
                 image_.map(first, std::make_shared<const std::vector<uint8_t>>(from, from + size));
               });
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
