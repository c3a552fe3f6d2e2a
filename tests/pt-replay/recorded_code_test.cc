// The code of a recording at each event, against a page-by-page model; and logs that lie.
#include "pt-replay/recorded_code.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <random>

#include "base/error.h"
#include "recording/writer.h"

namespace aftercheck {
namespace {

namespace fs = std::filesystem;
using Catch::Matchers::Contains;
using recording::Event;
using recording::EventKind;
using recording::SpaceOp;
using recording::SpaceOpKind;

constexpr uint64_t kPage = 4096, kBase = 0x200000000000;

// A recording that is written by hand.
class Recording {
 public:
  Recording() {
    char name[] = "/tmp/recorded-code-XXXXXX";
    REQUIRE(mkdtemp(name) != nullptr);
    path = name;
    store_ = std::make_unique<recording::Store>(path, true);
    writer_ = std::make_unique<recording::Writer>(path);
  }
  ~Recording() { fs::remove_all(path); }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  recording::Digest128 add(const std::vector<uint8_t>& bytes) {
    const UniqueFd fd(memfd_create("blob", MFD_CLOEXEC));
    REQUIRE(write(fd.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
    return store_->add(fd.get(), 0, bytes.size()).name;
  }
  void append(const Event& event) { writer_->append(event); }
  void finish() { writer_->finish(); }

  fs::path path;

 private:
  std::unique_ptr<recording::Store> store_;
  std::unique_ptr<recording::Writer> writer_;
};

SpaceOp op(SpaceOpKind kind, uint64_t page, uint64_t pages) {
  SpaceOp result;
  result.kind = kind;
  result.address = kBase + page * kPage;
  result.length = pages * kPage;
  return result;
}

SpaceOp map(const recording::Digest128& blob, uint64_t page, uint64_t pages, uint64_t from_page,
            uint32_t prot = PROT_READ | PROT_EXEC) {
  SpaceOp result = op(SpaceOpKind::map_blob, page, pages);
  result.prot = prot;
  result.blob = blob;
  result.blob_offset = from_page * kPage;
  result.name = "/usr/lib/some.so";
  return result;
}

Event event(std::vector<SpaceOp> ops, EventKind kind = EventKind::syscall) {
  Event result;
  result.kind = kind;
  if (kind == EventKind::syscall) result.operands.assign(7, 0);
  result.space_ops = std::move(ops);
  return result;
}

// Page n of a file starts with n and its file's number.
std::vector<uint8_t> file(uint8_t number, size_t pages) {
  std::vector<uint8_t> bytes(pages * kPage, number);
  for (size_t i = 0; i < pages; ++i) bytes[i * kPage] = static_cast<uint8_t>(i);
  return bytes;
}

int byte_at(const RecordedCode& code, uint64_t page, uint64_t offset = 0) {
  const auto bytes = code.image().at(kBase + page * kPage + offset);
  return bytes.empty() ? -1 : bytes[0];
}

}  // namespace

TEST_CASE("code is that of the event that was answered last, with its continuations") {
  Recording r;
  const auto a = r.add(file(100, 8)), b = r.add(file(200, 2));
  r.append(event({map(a, 0, 8, 0)}, EventKind::start));
  r.append(event({map(b, 20, 2, 0)}, EventKind::continuation));
  r.append(event({map(b, 2, 2, 0)}));
  r.append(event({op(SpaceOpKind::unmap, 0, 1)}));
  r.append(event({op(SpaceOpKind::clear, 0, 0), map(b, 40, 2, 0)}));
  r.finish();

  RecordedCode code(r.path);
  CHECK(byte_at(code, 0) == -1);
  CHECK_FALSE(code.answered(0));
  CHECK(byte_at(code, 3) == 3);
  CHECK(byte_at(code, 3, 1) == 100);
  CHECK(byte_at(code, 21) == 1);
  CHECK(code.symbols().find(kBase + 1).object->short_name() == "some.so");
  CHECK_FALSE(code.answered(2));
  CHECK(byte_at(code, 3) == 1);
  CHECK(byte_at(code, 3, 1) == 200);
  CHECK(byte_at(code, 4) == 4);
  CHECK(byte_at(code, 0) == 0);
  CHECK_FALSE(code.answered(2));
  CHECK(code.answered(100));
  CHECK(byte_at(code, 4) == -1);
  CHECK(byte_at(code, 41) == 1);
  CHECK(code.symbols().find(kBase + 1).object == nullptr);
  CHECK(code.next_event() == 5);
}

TEST_CASE("code of all events: what was mapped at any, the last where they differ") {
  Recording r;
  const auto a = r.add(file(100, 8)), b = r.add(file(200, 2));
  r.append(event({map(a, 0, 8, 0)}, EventKind::start));
  r.append(event({map(b, 20, 2, 0)}));
  r.append(event({op(SpaceOpKind::unmap, 0, 8)}));
  r.append(event({op(SpaceOpKind::clear, 0, 0), map(b, 40, 2, 0), map(a, 0, 8, 0)}));
  r.finish();
  RecordedCode code(r.path);
  CHECK(code.all_events());
  CHECK(byte_at(code, 3) == 3);
  CHECK(byte_at(code, 21) == 1);
  CHECK(byte_at(code, 41) == 1);
  CHECK(code.symbols().find(kBase + 20 * kPage).object != nullptr);

  Recording other;
  const auto c = other.add(file(100, 8)), d = other.add(file(200, 2));
  other.append(event({map(c, 0, 8, 0)}, EventKind::start));
  other.append(event({op(SpaceOpKind::unmap, 0, 8)}));
  other.append(event({map(d, 7, 2, 0)}));
  other.finish();
  RecordedCode replaced(other.path);
  CHECK_FALSE(replaced.all_events());
  CHECK(byte_at(replaced, 6, 1) == 100);
  CHECK(byte_at(replaced, 7, 1) == 200);
}

TEST_CASE("what the host writes into code is there, until it is discarded") {
  Recording r;
  const auto a = r.add(file(100, 4));
  const std::vector<std::byte> bytes(10, std::byte{7});
  Event written = event({});
  written.writes.push_back({kBase + kPage - 5, bytes});
  r.append(event({map(a, 0, 4, 0)}, EventKind::start));
  r.append(written);
  r.append(event({op(SpaceOpKind::discard, 0, 4)}));
  r.finish();
  RecordedCode code(r.path);
  code.answered(1);
  CHECK(byte_at(code, 0, kPage - 6) == 100);
  CHECK(byte_at(code, 0, kPage - 5) == 7);
  CHECK(byte_at(code, 1, 4) == 7);
  CHECK(byte_at(code, 1, 5) == 100);
  code.answered(2);
  CHECK(byte_at(code, 0, kPage - 5) == 100);
  CHECK(byte_at(code, 1) == 1);
}

TEST_CASE("any order of mapping, moving and taking away gives what a page-by-page model has") {
  struct Page {
    int file, number;
    bool executable;
  };
  std::mt19937_64 random(7);
  for (int round = 0; round < 60; ++round) {
    Recording r;
    const recording::Digest128 blobs[] = {r.add(file(1, 12)), r.add(file(2, 5))};
    const uint64_t sizes[] = {12, 5};
    std::vector<std::map<uint64_t, Page>> models;
    std::map<uint64_t, Page> model;
    for (int i = 0; i < 40; ++i) {
      const uint64_t at = random() % 24, pages = 1 + random() % 8, to = 30 + random() % 24;
      SpaceOp change;
      switch (random() % 7) {
        case 0:
          change = op(SpaceOpKind::unmap, at, pages);
          for (uint64_t p = at; p < at + pages; ++p) model.erase(p);
          break;
        case 1:
          change = op(SpaceOpKind::map_anonymous, at, pages);
          for (uint64_t p = at; p < at + pages; ++p) model.erase(p);
          break;
        case 2: {
          const uint32_t prot = random() % 2 != 0 ? PROT_READ : PROT_READ | PROT_EXEC;
          change = op(SpaceOpKind::protect, at, pages);
          change.prot = prot;
          for (uint64_t p = at; p < at + pages; ++p)
            if (model.contains(p)) model[p].executable = (prot & PROT_EXEC) != 0;
          break;
        }
        case 3: {
          change = op(SpaceOpKind::remap, at, pages);
          change.new_address = kBase + to * kPage;
          change.new_length = pages * kPage;
          std::map<uint64_t, Page> moved;
          for (uint64_t p = at; p < at + pages; ++p)
            if (const auto page = model.extract(p)) moved[to + (p - at)] = page.mapped();
          for (uint64_t p = to; p < to + pages; ++p) model.erase(p);
          model.merge(moved);
          break;
        }
        default: {
          const uint64_t which = random() % 2, first = random() % sizes[which];
          const bool executable = random() % 3 != 0;
          change = map(blobs[which], at, pages, first, executable ? PROT_READ | PROT_EXEC : PROT_READ);
          for (uint64_t p = at; p < at + pages; ++p)
            model[p] = {static_cast<int>(which), static_cast<int>(first + p - at), executable};
          break;
        }
      }
      r.append(event({change}, i == 0 ? EventKind::start : EventKind::syscall));
      models.push_back(model);
    }
    r.finish();
    RecordedCode code(r.path);
    for (size_t i = 0; i < models.size(); i += 1 + random() % 3) {
      code.answered(i);
      for (uint64_t p = 0; p < 64; ++p) {
        const auto page = models[i].find(p);
        const bool shown = page != models[i].end() && page->second.executable &&
                           static_cast<uint64_t>(page->second.number) < sizes[page->second.file];
        INFO("round " << round << ", event " << i << ", page " << p);
        CHECK(byte_at(code, p) == (shown ? page->second.number : -1));
        if (shown) CHECK(byte_at(code, p, 1) == page->second.file + 1);
      }
    }
  }
}

TEST_CASE("logs that lie are refused, or give less code, and do no harm") {
  const auto code_of = [](const std::function<void(Recording&)>& fill) {
    Recording r;
    fill(r);
    r.finish();
    RecordedCode code(r.path);
    code.answered(~uint64_t{0});
  };
  CHECK_THROWS_WITH(code_of([](Recording& r) {
                      SpaceOp bad = map(r.add(file(1, 1)), 0, 1, 0);
                      bad.address = ~uint64_t{0} - 10;
                      r.append(event({bad}, EventKind::start));
                    }),
                    Contains("passes the end of the address space"));
  CHECK_THROWS_WITH(code_of([](Recording& r) {
                      r.append(event({map(recording::Digest128{1, 2, 3}, 0, 1, 0)}, EventKind::start));
                    }),
                    Contains("01020300"));
  CHECK_NOTHROW(code_of([](Recording& r) {
    // Beyond the end of the blob, and of no length.
    const auto blob = r.add(file(1, 1));
    r.append(event({map(blob, 0, 1000, 500), map(blob, 3, 0, 0)}, EventKind::start));
    SpaceOp odd = op(SpaceOpKind::remap, 0, 1000);
    odd.new_address = kBase + 5;
    odd.new_length = 7;
    r.append(event({odd, op(SpaceOpKind::protect, 0, 0), op(SpaceOpKind::discard, 0, 1 << 20)}));
  }));
}

}  // namespace aftercheck
