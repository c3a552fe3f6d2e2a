// The file of one checkpoint.
#include <capnp/message.h>
#include <capnp/serialize.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <system_error>

#include "base/error.h"
#include "checkpoint.capnp.h"
#include "checkpoint/checkpoint.h"
#include "machine/address_space.h"
#include "recording/chunk_file.h"
#include "recording/chunk_message.h"

namespace aftercheck {
namespace {

namespace fs = std::filesystem;
namespace schema = checkpoint_log;
using recording::ChunkFileReader;
using recording::ChunkFileWriter;
using recording::ChunkHeader;
using recording::SpaceOp;
using recording::SpaceOpKind;

constexpr uint64_t kMagic = 0x5450434b43544641;  // "AFTCKCPT" in the file
constexpr uint32_t kVersion = 1;
// A guest with a hundred thousand mappings and a million scattered pages stays below.
constexpr uint64_t kMaxPayload = 256 << 20;
constexpr uint64_t kMaxSummary = 4096;
constexpr recording::ChunkKind kChunks =
    recording::chunk_kind<ChunkHeader>(kMagic, kVersion, kMaxPayload, "checkpoint version",
                                       ": not a checkpoint of Aftercheck (wrong magic at offset 0)");

constexpr uint64_t kMaxFileLength = uint64_t{1} << 43;

// --- writing ---

void write_chunk(ChunkFileWriter& file, capnp::MessageBuilder& message) {
  ChunkHeader header;
  header.magic = kMagic;
  header.version = kVersion;
  recording::write_message(file, header, message);
}

template <size_t N>
capnp::Data::Reader as_data(const std::array<uint8_t, N>& bytes) {
  return {bytes.data(), bytes.size()};
}

void build(schema::Summary::Builder out, const CheckpointSummary& in) {
  out.setEvent(in.event);
  out.setTimeNs(in.time_ns);
  out.setWorkNs(in.work_ns);
  out.setChunkOffset(in.next.chunk_offset);
  out.setChunkSequence(in.next.chunk_sequence);
  out.setChunkFirstEvent(in.next.chunk_first_event);
  out.setPages(in.pages);
  out.setNewPages(in.new_pages);
}

void build(schema::Thread::Builder out, const CheckpointThread& in) {
  out.setNumber(in.number);
  const RegisterWords words = to_words(in.registers);
  out.setRegisters(kj::arrayPtr(words.data(), words.size()));
  const std::vector<std::byte> fpu = in.fpu.bytes();
  out.setFpu({reinterpret_cast<const capnp::byte*>(fpu.data()), fpu.size()});
  out.setDigest(in.digest);
}

void build(schema::Mapping::Builder out, const SpaceOp& in) {
  out.setAddress(in.address);
  out.setLength(in.length);
  out.setProt(in.prot);
  out.setShared(in.shared);
  out.setName({reinterpret_cast<const capnp::byte*>(in.name.data()), in.name.size()});
  if (in.kind != SpaceOpKind::map_blob) return;
  out.setFile(true);
  const bool numbered = in.shared || in.new_address != 0;
  out.setNumber(numbered ? in.new_address : 0);
  out.setOffset(numbered ? in.new_length : in.blob_offset);
  if (!numbered) out.setBlob(as_data(in.blob));
}

void build(schema::Patch::Builder out, const recording::CodePatch& in) {
  out.setAddress(in.address);
  out.setKind(in.kind);
  out.setLength(in.length);
  out.setOperand(in.operand);
  out.setOperandBits(in.operand_bits);
  out.setOriginal(as_data(in.original));
}

void build(schema::File::Builder out, const CheckpointFile& in) {
  out.setNumber(in.number);
  out.setLength(in.length);
  out.setSized(in.sized);
}

void build(schema::Frame::Builder out, const PageFrame& in) {
  out.setPack(in.pack);
  out.setOffset(in.offset);
  out.setLength(in.length);
  out.setPages(in.pages);
  out.setDigest(as_data(in.digest));
}

void build(schema::Run::Builder out, const PageRun& in) {
  out.setFile(in.file);
  out.setAddress(in.address);
  out.setFrame(in.frame);
  out.setFirstPage(in.first_page);
  out.setPages(in.pages);
}

template <typename Builder, typename List>
void build_list(Builder out, const List& in) {
  for (unsigned i = 0; i < out.size(); ++i) build(out[i], in[i]);
}

void build(schema::Body::Builder out, const Checkpoint& in) {
  const auto count = [](const auto& list) { return static_cast<unsigned>(list.size()); };
  build_list(out.initThreads(count(in.threads)), in.threads);
  build_list(out.initMappings(count(in.mappings)), in.mappings);
  build_list(out.initPatches(count(in.patches)), in.patches);
  build_list(out.initFiles(count(in.files)), in.files);
  auto packs = out.initPacks(count(in.packs));
  for (unsigned i = 0; i < packs.size(); ++i) packs.set(i, as_data(in.packs[i]));
  build_list(out.initFrames(count(in.frames)), in.frames);
  build_list(out.initRuns(count(in.runs)), in.runs);
}

// --- reading ---

// Reads the payloads of one file.
class FileReader {
 public:
  explicit FileReader(const fs::path& path) : file_(path.string(), kChunks) {}

  // The next chunk's payload, of at most so many bytes.
  std::span<const uint64_t> next(const char* what, uint64_t most) {
    ChunkHeader header;
    const bool there = file_.load_header(header);
    if (there &&
        (header.raw_length == 0 || header.raw_length > most || header.raw_length % sizeof(uint64_t) != 0))
      file_.damaged("its {} claims {} bytes; at most {} are allowed", what, header.raw_length, most);
    if (!there || !file_.load_payload(header.raw_length))
      fail(ErrorKind::bad_input, "{}: its {} is missing: the file is incomplete", file_.path(), what);
    return file_.words();
  }

  template <typename... Args>
  [[noreturn]] void damaged(fmt::format_string<Args...> format, Args&&... args) const {
    file_.damaged("{}", fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  ChunkFileReader file_;
};

class Message {
 public:
  explicit Message(std::span<const uint64_t> payload)
      : reader_(kj::arrayPtr(reinterpret_cast<const capnp::word*>(payload.data()), payload.size()),
                options(payload)) {}
  template <typename Root>
  typename Root::Reader root() {
    return reader_.getRoot<Root>();
  }

 private:
  // Everything is read once, so this suffices for every honest message. (Each get of a list counts as reading
  // it.)
  static capnp::ReaderOptions options(std::span<const uint64_t> payload) {
    capnp::ReaderOptions options;
    options.traversalLimitInWords = payload.size() + 1024;
    options.nestingLimit = 8;
    return options;
  }
  capnp::FlatArrayMessageReader reader_;
};

// Takes a body apart; what does not fit together is damage, whatever its checksum says.
class BodyDecoder {
 public:
  BodyDecoder(const FileReader& file, Checkpoint& checkpoint) : file_(file), out_(checkpoint) {}

  void decode(schema::Body::Reader in) {
    const auto threads = in.getThreads();
    if (threads.size() == 0 || threads.size() > kMaxCheckpointThreads)
      file_.damaged("it has {} threads", threads.size());
    for (const auto thread : threads) out_.threads.push_back(take(thread));
    for (const auto mapping : in.getMappings()) out_.mappings.push_back(take(mapping));
    for (const auto patch : in.getPatches()) out_.patches.push_back(take(patch));
    for (const auto file : in.getFiles()) out_.files.push_back(take(file));
    for (const auto pack : in.getPacks()) out_.packs.push_back(exactly<16>(pack, "a pack's name"));
    for (const auto frame : in.getFrames()) out_.frames.push_back(take(frame));
    for (const auto run : in.getRuns()) out_.runs.push_back(take(run));
  }

 private:
  const FileReader& file_;
  Checkpoint& out_;

  template <size_t N>
  std::array<uint8_t, N> exactly(capnp::Data::Reader data, const char* what) const {
    std::array<uint8_t, N> bytes{};
    if (data.size() != N) file_.damaged("{} has {} bytes instead of {}", what, data.size(), N);
    std::copy(data.begin(), data.end(), bytes.begin());
    return bytes;
  }

  CheckpointThread take(schema::Thread::Reader in) const {
    CheckpointThread thread;
    thread.number = in.getNumber();
    if (!out_.threads.empty() && thread.number <= out_.threads.back().number)
      file_.damaged("thread {} is out of order", thread.number);
    RegisterWords words{};
    const auto registers = in.getRegisters();
    if (registers.size() != words.size())
      file_.damaged("thread {} has {} registers", thread.number, registers.size());
    for (unsigned i = 0; i < words.size(); ++i) words[i] = registers[i];
    thread.registers = from_words(words);
    const capnp::Data::Reader bytes = in.getFpu();
    const std::optional<FpuState> fpu =
        FpuState::of_bytes(std::as_bytes(std::span(bytes.begin(), bytes.size())));
    if (!fpu) file_.damaged("an FPU state has {} bytes instead of 512 or 768", bytes.size());
    thread.fpu = *fpu;
    thread.digest = in.getDigest();
    return thread;
  }

  SpaceOp take(schema::Mapping::Reader in) const {
    SpaceOp op;
    op.address = in.getAddress();
    op.length = in.getLength();
    op.prot = in.getProt();
    op.shared = in.getShared();
    op.name.assign(reinterpret_cast<const char*>(in.getName().begin()), in.getName().size());
    const uint64_t before =
        out_.mappings.empty() ? 0 : out_.mappings.back().address + out_.mappings.back().length;
    if (op.length == 0 || op.address % kPageSize != 0 || op.length % kPageSize != 0 ||
        !may_be_guest(op.address, op.length) || op.address < before)
      file_.damaged("a mapping of {} bytes at {:#x} can't be", op.length, op.address);
    if (!in.getFile()) return op;
    op.kind = SpaceOpKind::map_blob;
    if (op.shared || in.getNumber() != 0) {
      op.new_address = in.getNumber();
      op.new_length = in.getOffset();
      if (op.new_address == 0)
        file_.damaged("the mapping at {:#x} is of a shared file without a number", op.address);
    } else {
      op.blob = exactly<16>(in.getBlob(), "a blob's name");
      op.blob_offset = in.getOffset();
    }
    return op;
  }

  recording::CodePatch take(schema::Patch::Reader in) const {
    return {.address = in.getAddress(),
            .kind = in.getKind(),
            .length = in.getLength(),
            .operand = in.getOperand(),
            .operand_bits = in.getOperandBits(),
            .original = exactly<15>(in.getOriginal(), "a patched instruction")};
  }

  CheckpointFile take(schema::File::Reader in) const {
    const CheckpointFile file{in.getNumber(), in.getLength(), in.getSized()};
    const uint64_t before = out_.files.empty() ? 0 : out_.files.back().number;
    if (file.number <= before || file.length > kMaxFileLength || file.length % kPageSize != 0)
      file_.damaged("shared file {} of {} bytes can't be", file.number, file.length);
    return file;
  }

  PageFrame take(schema::Frame::Reader in) const {
    PageFrame frame{in.getPack(), in.getOffset(), in.getLength(), in.getPages(),
                    exactly<16>(in.getDigest(), "a frame's digest")};
    constexpr uint32_t kLongest = 2 * kFramePages * kPageSize;  // zstd makes nothing that much longer
    if (frame.pack >= out_.packs.size() || frame.pages == 0 || frame.pages > kFramePages ||
        frame.length == 0 || frame.length > kLongest)
      file_.damaged("frame {} can't be: {} bytes in pack {}, {} pages", out_.frames.size(), frame.length,
                    frame.pack, frame.pages);
    return frame;
  }

  PageRun take(schema::Run::Reader in) const {
    const PageRun run{in.getFile(), in.getAddress(), in.getFrame(), in.getFirstPage(), in.getPages()};
    const uint64_t size = uint64_t{run.pages} * kPageSize;
    const bool in_frame = run.frame < out_.frames.size() && run.pages != 0 &&
                          run.first_page < out_.frames[run.frame].pages &&
                          run.pages <= out_.frames[run.frame].pages - run.first_page;
    const bool in_order = out_.runs.empty() || run.frame >= out_.runs.back().frame;
    if (!in_frame || !in_order || run.address % kPageSize != 0 || !has_place(run, size))
      file_.damaged("{} pages at {:#x} can't be", run.pages, run.address);
    return run;
  }

  bool has_place(const PageRun& run, uint64_t size) const {
    if (run.file == 0) return may_be_guest(run.address, size);
    const auto file =
        std::lower_bound(out_.files.begin(), out_.files.end(), run.file,
                         [](const CheckpointFile& f, uint64_t number) { return f.number < number; });
    return file != out_.files.end() && file->number == run.file && run.address <= file->length &&
           size <= file->length - run.address;
  }
};

void read_summary(FileReader& file, const Checkpoints::Known& known, CheckpointSummary& summary) {
  Message message(file.next("summary", kMaxSummary));
  const auto in = message.root<schema::Summary>();
  summary.event = in.getEvent();
  summary.time_ns = in.getTimeNs();
  summary.work_ns = in.getWorkNs();
  summary.next = {in.getChunkOffset(), in.getChunkSequence(), in.getChunkFirstEvent()};
  summary.pages = in.getPages();
  summary.new_pages = in.getNewPages();
  if (summary.event != known.event)
    file.damaged("it is the checkpoint at event {}, not at event {}", summary.event, known.event);
}

template <typename Read>
auto guarded(const Checkpoints::Known& known, Read read) {
  try {
    return read();
  } catch (const kj::Exception& error) {
    fail(ErrorKind::bad_input, "{}: damaged Cap'n Proto message: {}", known.file.string(),
         error.getDescription().cStr());
  }
}

// The number in a checkpoint's file name; nothing for other files.
std::optional<uint64_t> event_of(const std::string& name) {
  uint64_t event = 0;
  if (name.empty() || name.front() != 'e') return std::nullopt;
  const auto [end, error] = std::from_chars(name.data() + 1, name.data() + name.size(), event);
  if (error != std::errc() || Checkpoints::file_name(event) != name) return std::nullopt;
  return event;
}

}  // namespace

std::string Checkpoints::file_name(uint64_t event) { return fmt::format("e{:012}", event); }

Checkpoints::Checkpoints(const fs::path& directory) {
  std::error_code error;
  for (auto it = fs::directory_iterator(folder(directory), error); !error && it != fs::directory_iterator();
       it.increment(error))
    if (const auto event = event_of(it->path().filename().string())) all_.push_back({*event, it->path()});
  if (error && error != std::errc::no_such_file_or_directory)
    fail(ErrorKind::io, "{}: {}", folder(directory).string(), error.message());
  std::sort(all_.begin(), all_.end(), [](const Known& a, const Known& b) { return a.event < b.event; });
}

const Checkpoints::Known* Checkpoints::before(uint64_t event) const {
  const auto after =
      std::upper_bound(all_.begin(), all_.end(), event,
                       [](uint64_t wanted, const Known& known) { return wanted < known.event; });
  return after == all_.begin() ? nullptr : &*std::prev(after);
}

CheckpointSummary Checkpoints::summary(const Known& known) {
  return guarded(known, [&] {
    FileReader file(known.file);
    CheckpointSummary summary;
    read_summary(file, known, summary);
    return summary;
  });
}

Checkpoint Checkpoints::load(const Known& known) {
  return guarded(known, [&] {
    FileReader file(known.file);
    Checkpoint checkpoint;
    read_summary(file, known, checkpoint);
    Message message(file.next("body", kMaxPayload));
    BodyDecoder(file, checkpoint).decode(message.root<schema::Body>());
    return checkpoint;
  });
}

void write_checkpoint(const fs::path& directory, const Checkpoint& checkpoint) {
  const fs::path folder = Checkpoints::folder(directory);
  std::error_code error;
  fs::create_directory(folder, error);
  if (error) fail(ErrorKind::io, "{}: can't be created: {}", folder.string(), error.message());
  const fs::path file = folder / Checkpoints::file_name(checkpoint.event);
  const std::string temporary = fmt::format("{}.new-{}", file.string(), getpid());
  fs::remove(temporary, error);
  try {
    {
      ChunkFileWriter writer(temporary, kChunks, {.level = 1});
      capnp::MallocMessageBuilder summary;
      build(summary.initRoot<schema::Summary>(), checkpoint);
      write_chunk(writer, summary);
      capnp::MallocMessageBuilder body;
      build(body.initRoot<schema::Body>(), checkpoint);
      write_chunk(writer, body);
      writer.sync();
    }
    if (rename(temporary.c_str(), file.c_str()) != 0)
      fail(ErrorKind::io, "{}: {}", file.string(), errno_text(errno));
  } catch (...) {
    unlink(temporary.c_str());
    throw;
  }
}

}  // namespace aftercheck
