#include "symbols/object.h"

#include <elfutils/libdwelf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gelf.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "symbols/function_table.h"
#include "symbols/source_lines.h"

namespace aftercheck::symbols {
namespace {

// A file with its libelf handle. libelf reads with pread(2), so that a file which shrinks does no harm.
struct ElfHandle {
  UniqueFd fd;
  Elf* elf = nullptr;

  ElfHandle() = default;
  explicit ElfHandle(UniqueFd file) : fd(std::move(file)) {
    static const unsigned version = elf_version(EV_CURRENT);
    if (version == EV_NONE) return;
    elf = elf_begin(fd.get(), ELF_C_READ, nullptr);
    if (elf != nullptr && elf_kind(elf) != ELF_K_ELF) close();
  }
  ElfHandle(const ElfHandle&) = delete;
  ElfHandle& operator=(const ElfHandle&) = delete;
  ~ElfHandle() { close(); }
  void close() {
    if (elf != nullptr) elf_end(elf);
    elf = nullptr;
  }
};

std::string build_id_of(Elf* elf) {
  const void* bytes = nullptr;
  const ssize_t size = dwelf_elf_gnu_build_id(elf, &bytes);
  std::string text;
  for (ssize_t i = 0; i < size; ++i)
    text += fmt::format("{:02x}", static_cast<const unsigned char*>(bytes)[i]);
  return text;
}

// The file made by `objcopy --only-keep-debug` for this build; null where there is none.
std::unique_ptr<ElfHandle> open_debug_file(const std::string& build_id, const std::string& directory) {
  if (directory.empty() || build_id.size() < 4) return nullptr;
  const std::string path =
      fmt::format("{}/.build-id/{}/{}.debug", directory, build_id.substr(0, 2), build_id.substr(2));
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return nullptr;
  auto handle = std::make_unique<ElfHandle>(std::move(fd));
  if (handle->elf == nullptr || build_id_of(handle->elf) != build_id) return nullptr;
  return handle;
}

}  // namespace

class Object::Impl {
 public:
  Impl(UniqueFd fd, const std::string& name, const ObjectOptions& options)
      : name_(name),
        short_name_(name.substr(name.find_last_of('/') + 1)),
        options_(options),
        file_(std::move(fd)) {
    if (file_.elf == nullptr) return;
    build_id_ = build_id_of(file_.elf);
    read_segments();
  }

  FunctionTable& functions() {
    if (!functions_read_) {
      functions_read_ = true;
      if (file_.elf != nullptr) {
        functions_.add(file_.elf);
        if (ElfHandle* debug = debug_file()) functions_.add(debug->elf);
        functions_.finish();
      }
    }
    return functions_;
  }

  // Null where there are none.
  SourceLines* lines() {
    if (!lines_read_) {
      lines_read_ = true;
      if (file_.elf != nullptr && options_.lines) {
        lines_ = std::make_unique<SourceLines>(file_.elf);
        if (!lines_->any()) {
          lines_.reset();
          if (ElfHandle* debug = debug_file()) lines_ = std::make_unique<SourceLines>(debug->elf);
        }
      }
    }
    return lines_.get();
  }

  std::optional<uint64_t> address_of_offset(uint64_t offset) const {
    const Segment* loose = nullptr;
    for (const Segment& segment : segments_) {
      if (offset >= segment.offset && offset - segment.offset < segment.file_size)
        return offset - segment.offset + segment.address;
      // Mapped pages reach beyond a segment at both ends.
      constexpr uint64_t kPage = 4096;
      const uint64_t first = segment.offset & ~(kPage - 1);
      const uint64_t size = segment.offset - first + segment.file_size;
      if (offset >= first && offset - first < ((size + kPage - 1) & ~(kPage - 1)) &&
          (loose == nullptr || segment.executable))
        loose = &segment;
    }
    if (loose == nullptr) return std::nullopt;
    return offset - loose->offset + loose->address;
  }

  const std::string name_, short_name_;
  std::string build_id_;
  std::vector<Segment> segments_;
  bool is_elf() const { return file_.elf != nullptr; }

 private:
  void read_segments() {
    size_t count = 0;
    if (elf_getphdrnum(file_.elf, &count) != 0) return;
    for (size_t i = 0; i < count; ++i) {
      GElf_Phdr header;
      if (gelf_getphdr(file_.elf, static_cast<int>(i), &header) == nullptr || header.p_type != PT_LOAD)
        continue;
      segments_.push_back(
          {header.p_offset, header.p_filesz, header.p_vaddr, header.p_memsz, (header.p_flags & PF_X) != 0});
    }
  }

  ElfHandle* debug_file() {
    if (!debug_tried_) {
      debug_tried_ = true;
      debug_ = open_debug_file(build_id_, options_.debug_directory);
    }
    return debug_.get();
  }

  const ObjectOptions options_;
  ElfHandle file_;
  std::unique_ptr<ElfHandle> debug_;
  std::unique_ptr<SourceLines> lines_;  // uses the handles above
  FunctionTable functions_;
  bool functions_read_ = false, lines_read_ = false, debug_tried_ = false;
};

Object::Object() = default;
Object::~Object() = default;

std::shared_ptr<Object> Object::open(UniqueFd fd, const std::string& name, const ObjectOptions& options) {
  char byte = 0;
  if (::pread(fd.get(), &byte, 1, 0) < 0) fail(ErrorKind::io, "{}: can't read: {}", name, errno_text(errno));
  std::shared_ptr<Object> object(new Object);
  object->impl_ = std::make_unique<Impl>(std::move(fd), name, options);
  return object;
}

std::shared_ptr<Object> Object::open(const std::string& path, const ObjectOptions& options) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) fail(ErrorKind::io, "{}: can't open: {}", path, errno_text(errno));
  return open(std::move(fd), path, options);
}

const std::string& Object::name() const { return impl_->name_; }
const std::string& Object::short_name() const { return impl_->short_name_; }
const std::string& Object::build_id() const { return impl_->build_id_; }
bool Object::is_elf() const { return impl_->is_elf(); }
const std::vector<Object::Segment>& Object::segments() const { return impl_->segments_; }

std::optional<uint64_t> Object::address_of_offset(uint64_t offset) const {
  return impl_->address_of_offset(offset);
}

const Function* Object::function_at(uint64_t address) { return impl_->functions().at(address); }

std::vector<const Function*> Object::functions_named(const std::string& name) {
  return impl_->functions().named(name);
}

SourceLine Object::line_at(uint64_t address) {
  SourceLines* const lines = impl_->lines();
  return lines != nullptr ? lines->line_at(address) : SourceLine{};
}

std::vector<Frame> Object::frames_at(uint64_t address) {
  SourceLines* const lines = impl_->lines();
  return lines != nullptr ? lines->frames_at(address) : std::vector<Frame>{};
}

void Object::for_each_line(const std::function<void(uint64_t, const SourceLine&)>& visit) {
  if (SourceLines* const lines = impl_->lines()) lines->for_each_line(visit);
}

}  // namespace aftercheck::symbols
