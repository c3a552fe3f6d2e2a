#include "code-scan/eh_frame.h"

#include <algorithm>
#include <map>
#include <span>
#include <string_view>

namespace aftercheck {
namespace {

// Pointer encodings, LSB Core 5.0, 10.5.1. Bits 0-3: format; 4-6: what it is relative to; 7: indirect.
constexpr uint8_t kOmit = 0xff;
constexpr uint8_t kAbsolute = 0x00, kPcRelative = 0x10, kDataRelative = 0x30;
constexpr uint64_t kSmallestFde = 12;     // length, CIE pointer and two 2-byte addresses
constexpr uint8_t kTableEncoding = 0x3b;  // data-relative, signed 4 bytes: the only search table linkers make

// Bounds-checked reading; after a read past the end `ok` is false and all reads give 0.
class Cursor {
 public:
  Cursor(std::span<const uint8_t> bytes, uint64_t vaddr, uint64_t position = 0)
      : bytes_(bytes), vaddr_(vaddr), position_(position), ok_(position <= bytes.size()) {}

  bool ok() const { return ok_; }
  uint64_t position() const { return position_; }
  uint64_t vaddr() const { return vaddr_ + position_; }

  template <typename T>
  T get() {
    T value{};
    if (!ok_ || bytes_.size() - position_ < sizeof(T)) {
      ok_ = false;
      return value;
    }
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  uint64_t uleb() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const auto byte = get<uint8_t>();
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    ok_ = false;
    return 0;
  }

  std::string_view text() {
    if (!ok_) return {};
    const auto* start = reinterpret_cast<const char*>(bytes_.data() + position_);
    const size_t length = strnlen(start, bytes_.size() - position_);
    skip(length + 1);
    return {start, length};
  }

  void skip(uint64_t count) {
    if (!ok_ || bytes_.size() - position_ < count) {
      ok_ = false;
    } else {
      position_ += count;
    }
  }

  // A value of this format, without its base.
  uint64_t value(uint8_t encoding) {
    switch (encoding & 0x0f) {
      case 0x00:
      case 0x04:
      case 0x0c:
        return get<uint64_t>();
      case 0x01:
        return uleb();
      case 0x02:
        return get<uint16_t>();
      case 0x03:
        return get<uint32_t>();
      case 0x0a:
        return static_cast<uint64_t>(get<int16_t>());
      case 0x0b:
        return static_cast<uint64_t>(get<int32_t>());
      default:
        ok_ = false;
        return 0;
    }
  }

  // A direct pointer; indirect ones are not used for code, so they count as damage.
  uint64_t pointer(uint8_t encoding, uint64_t data_base = 0) {
    const uint64_t here = vaddr();
    const uint64_t raw = value(encoding);
    switch (encoding & 0xf0) {
      case kAbsolute:
        return raw;
      case kPcRelative:
        return here + raw;
      case kDataRelative:
        return data_base + raw;
      default:
        ok_ = false;
        return 0;
    }
  }

 private:
  std::span<const uint8_t> bytes_;
  uint64_t vaddr_;
  uint64_t position_;
  bool ok_;
};

struct Cie {
  bool valid = false;
  bool augmented = false;  // FDEs have an augmentation area
  uint8_t code_encoding = kAbsolute;
  uint8_t lsda_encoding = kOmit;
};

class EhFrame {
 public:
  EhFrame(std::vector<uint8_t> bytes, uint64_t vaddr) : bytes_(std::move(bytes)), vaddr_(vaddr) {}

  uint64_t size() const { return bytes_.size(); }

  // One record after the other, until the terminator or the end.
  void walk(std::vector<FrameRange>& out) {
    for (uint64_t at = 0; at < bytes_.size();) {
      Record record = read_record(at);
      if (record.end == 0) return;
      add(at, out);
      at = record.end;
    }
  }

  // The FDE at an offset; a CIE or damage adds nothing.
  void add(uint64_t at, std::vector<FrameRange>& out) {
    const Record record = read_record(at);
    if (record.end == 0 || record.id == 0 || record.id > record.id_position) return;
    const Cie& cie = find_cie(record.id_position - record.id);
    if (!cie.valid) return;
    Cursor body(std::span<const uint8_t>(bytes_).first(record.end), vaddr_, record.id_position + 4);
    FrameRange range;
    range.start = body.pointer(cie.code_encoding);
    range.end = range.start + body.value(cie.code_encoding);
    if (!body.ok() || range.start >= range.end) return;
    if (cie.augmented) {
      const uint64_t length = body.uleb();
      if (length > 0 && cie.lsda_encoding != kOmit) range.has_lsda = body.value(cie.lsda_encoding) != 0;
      if (!body.ok()) range.has_lsda = false;
    }
    out.push_back(range);
  }

 private:
  struct Record {
    uint64_t end = 0;  // 0: terminator or damage
    uint64_t id_position = 0;
    uint32_t id = 0;  // 0: a CIE; else the distance back from id_position to the CIE
  };

  Record read_record(uint64_t at) const {
    Cursor cursor(bytes_, vaddr_, at);
    uint64_t length = cursor.get<uint32_t>();
    if (length == 0xffffffff) length = cursor.get<uint64_t>();
    Record record;
    record.id_position = cursor.position();
    record.id = cursor.get<uint32_t>();
    if (!cursor.ok() || length < 4 || length > bytes_.size() - record.id_position) return {};
    record.end = record.id_position + length;
    return record;
  }

  const Cie& find_cie(uint64_t at) {
    const auto [it, is_new] = cies_.try_emplace(at);
    if (is_new) it->second = parse_cie(at);
    return it->second;
  }

  Cie parse_cie(uint64_t at) const {
    const Record record = read_record(at);
    if (record.end == 0 || record.id != 0) return {};
    Cursor body(std::span<const uint8_t>(bytes_).first(record.end), vaddr_, record.id_position + 4);
    const auto version = body.get<uint8_t>();
    const std::string_view augmentation = body.text();
    body.uleb();  // code alignment
    body.uleb();  // data alignment: signed, but of the same length
    if (version == 1) {
      body.skip(1);  // return address column
    } else {
      body.uleb();
    }
    Cie cie;
    if (!augmentation.empty()) {
      if (augmentation[0] != 'z') return {};
      cie.augmented = true;
      body.uleb();
      for (const char letter : augmentation.substr(1)) {
        if (letter == 'R') {
          cie.code_encoding = body.get<uint8_t>();
        } else if (letter == 'L') {
          cie.lsda_encoding = body.get<uint8_t>();
        } else if (letter == 'P') {
          const auto encoding = body.get<uint8_t>();
          body.value(encoding);
        } else if (letter != 'S' && letter != 'B') {
          break;  // unknown: what came before is still right
        }
      }
    }
    cie.valid = body.ok() && (version == 1 || version == 3);
    return cie;
  }

  std::vector<uint8_t> bytes_;
  uint64_t vaddr_;
  std::map<uint64_t, Cie> cies_;
};

const Elf64_Shdr* find_section(const ElfFile& file, std::string_view name) {
  for (const Elf64_Shdr& section : file.sections())
    if (name == file.section_name(section)) return &section;
  return nullptr;
}

}  // namespace

std::vector<FrameRange> frame_ranges(const ElfFile& file) {
  std::vector<FrameRange> ranges;
  const Elf64_Shdr* section = find_section(file, ".eh_frame");
  for (const Elf64_Phdr& segment : file.segments()) {
    if (segment.p_type != PT_GNU_EH_FRAME) continue;
    const auto bytes = file.read_at(segment.p_vaddr, segment.p_memsz);
    Cursor header(bytes, segment.p_vaddr);
    const auto version = header.get<uint8_t>();
    const auto frame_encoding = header.get<uint8_t>();
    const auto count_encoding = header.get<uint8_t>();
    const auto table_encoding = header.get<uint8_t>();
    const uint64_t frame_vaddr = header.pointer(frame_encoding, segment.p_vaddr);
    if (version != 1 || !header.ok()) continue;
    // The program header has no size for .eh_frame; without sections it may go on to the end of its segment.
    const bool sized = section != nullptr && section->sh_addr == frame_vaddr;
    EhFrame frame(file.read_at(frame_vaddr, sized ? section->sh_size : ElfFile::kMaxRead), frame_vaddr);
    if (table_encoding != kTableEncoding || count_encoding == kOmit) {
      frame.walk(ranges);
      return ranges;
    }
    // A table that names one FDE many times shouldn't take more memory than the records themselves.
    const uint64_t most = frame.size() / kSmallestFde;
    for (uint64_t left = std::min(header.value(count_encoding), most); left > 0; --left) {
      header.skip(4);  // the function's start, which the FDE has too
      const uint64_t fde = header.pointer(table_encoding, segment.p_vaddr);
      if (!header.ok()) break;
      frame.add(fde - frame_vaddr, ranges);
    }
    return ranges;
  }
  if (section != nullptr)
    EhFrame(file.read(section->sh_offset, section->sh_size), section->sh_addr).walk(ranges);
  return ranges;
}

}  // namespace aftercheck
