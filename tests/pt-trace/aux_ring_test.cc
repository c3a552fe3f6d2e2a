#include "pt-trace/aux_ring.h"

#include <array>
#include <catch2/catch.hpp>
#include <cstring>
#include <optional>
#include <random>
#include <thread>

#include "stand_in_kernel.h"

namespace aftercheck::pt {
namespace {

using test::StandInKernel;

// Keeps what it is given; losses with the place where they came.
struct Kept : AuxSink {
  std::vector<uint8_t> bytes;
  struct Loss {
    size_t at;
    uint8_t flags;
    bool operator==(const Loss&) const = default;
  };
  std::vector<Loss> losses;
  void data(std::span<const uint8_t> more) override { bytes.insert(bytes.end(), more.begin(), more.end()); }
  void loss(uint8_t flags, uint64_t) override { losses.push_back({bytes.size(), flags}); }
};

std::vector<uint8_t> counting(size_t from, size_t size) {
  std::vector<uint8_t> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<uint8_t>((from + i) * 2654435761U >> 13);
  return bytes;
}

constexpr size_t kPage = 4096;

TEST_CASE("AUX ring: what is put in comes out, around the end of both rings") {
  AuxMemory memory(kPage, kPage);
  AuxProducer producer(memory.rings());
  AuxReader reader(memory.rings());
  Kept kept;
  std::mt19937 random(1);
  while (kept.bytes.size() < 40 * kPage) {
    for (unsigned i = random() % 4; i > 0; --i) {
      const auto wanted = counting(producer.written(), random() % 3000);
      const uint64_t before = producer.written();
      REQUIRE(producer.put(wanted) == std::min<size_t>(wanted.size(), kPage - (before - kept.bytes.size())));
    }
    reader.drain(kept);
    REQUIRE(kept.bytes.size() == producer.written());
  }
  CHECK(kept.bytes == counting(0, kept.bytes.size()));
  CHECK(kept.losses.empty());
}

TEST_CASE("AUX ring: reader and producer on two threads, the reader slow") {
  AuxMemory memory(kPage, 2 * kPage);
  constexpr size_t kTotal = 1 << 20;
  std::jthread producing([&] {
    AuxProducer producer(memory.rings());
    const auto all = counting(0, kTotal);
    while (producer.written() < kTotal) {
      const size_t at = producer.written();
      if (producer.put(std::span(all).subspan(at, std::min<size_t>(777, kTotal - at))) == 0)
        std::this_thread::yield();
    }
  });
  AuxReader reader(memory.rings());
  Kept kept;
  for (unsigned turn = 0; kept.bytes.size() < kTotal; ++turn) {
    if (turn % 16 == 0) std::this_thread::sleep_for(std::chrono::microseconds(50));
    reader.drain(kept);
  }
  CHECK(kept.bytes == counting(0, kTotal));
  CHECK(kept.losses.empty());
}

struct Traced {
  StandInKernel kernel;
  std::optional<PerfCapture> capture;
  std::optional<AuxReader> reader;
  Kept kept;
  Traced() {
    PtPmu pmu;
    pmu.format["noretcomp"] = {0, 11, 11};
    CaptureOptions options;
    options.data_bytes = options.least_data_bytes = 4 * kPage;
    options.aux_bytes = options.least_aux_bytes = 2 * kPage;
    capture.emplace(kernel, pmu, options);
    reader.emplace(capture->rings());
    capture->enable();
  }
  AuxReader::Drained drain() { return reader->drain(kept); }
};

TEST_CASE("capture: a full area loses what comes until the event is enabled again") {
  Traced t;
  t.kernel.produce(counting(0, 3 * kPage));
  CHECK_FALSE(t.kernel.enabled);
  t.kernel.produce(counting(7, 100));  // nobody traces this
  CHECK(t.drain().stopped);
  CHECK(t.kept.bytes == counting(0, 2 * kPage));
  CHECK(t.kept.losses == std::vector<Kept::Loss>{{2 * kPage, aux_loss::kTruncated}});
  t.capture->enable();
  t.kernel.produce(counting(9, 100));
  CHECK_FALSE(t.drain().stopped);
  CHECK(t.kept.bytes.size() == 2 * kPage + 100);
  CHECK(t.kept.losses.size() == 1);
}

TEST_CASE("capture: flags and lost records stand where they happened") {
  Traced t;
  t.kernel.produce(counting(0, 10));
  t.kernel.produce(counting(10, 20), PERF_AUX_FLAG_PARTIAL);
  t.kernel.produce(counting(30, 5), PERF_AUX_FLAG_COLLISION);
  t.kernel.produce(counting(35, 5));
  t.drain();
  CHECK(t.kept.bytes == counting(0, 40));
  CHECK(t.kept.losses == std::vector<Kept::Loss>{{30, aux_loss::kPartial}, {35, aux_loss::kCollision}});
  t.kernel.lose_records(3);
  t.drain();
  CHECK(t.kept.losses.size() == 3);
  CHECK(t.kept.losses.back() == Kept::Loss{40, aux_loss::kLost});
}

TEST_CASE("AUX ring: heads and records that make no sense are losses") {
  AuxMemory memory(kPage, kPage);
  AuxProducer producer(memory.rings());
  AuxReader reader(memory.rings());
  Kept kept;
  REQUIRE(producer.put(counting(0, 100)) == 100);
  reader.drain(kept);
  perf_event_mmap_page& control = *memory.rings().control;

  SECTION("the reader was overtaken") {
    control.aux_head = 100 + kPage + 1;
    reader.drain(kept);
    CHECK(kept.losses == std::vector<Kept::Loss>{{100, aux_loss::kLost}});
    CHECK(control.aux_tail == control.aux_head);
  }
  SECTION("the head went back") {
    control.aux_head = 40;
    reader.drain(kept);
    CHECK(kept.losses.size() == 1);
  }
  SECTION("a record of no size") {
    const std::span<uint8_t> data = memory.rings().data;
    std::fill(data.begin(), data.end(), uint8_t{0});
    control.data_head = control.data_tail + 64;
    reader.drain(kept);
    CHECK(kept.losses.size() == 1);
    CHECK(control.data_tail == control.data_head);
  }
  SECTION("a data head far away") {
    control.data_head += 10 * kPage;
    reader.drain(kept);
    CHECK(kept.losses.size() == 1);
  }
  SECTION("a record about bytes that never come") {
    perf_event_header header{PERF_RECORD_AUX, 0, 32};
    const std::array<uint64_t, 3> body = {uint64_t{1} << 40, 100, 0};
    const size_t at = control.data_head;
    std::memcpy(memory.rings().data.data() + at, &header, sizeof header);
    std::memcpy(memory.rings().data.data() + at + sizeof header, body.data(), sizeof body);
    control.data_head += 32;
    reader.drain(kept);
    CHECK(kept.losses.size() == 1);
  }
  CHECK(kept.bytes == counting(0, 100));
}

TEST_CASE("AUX ring: what the sink refuses comes again") {
  AuxMemory memory(kPage, kPage);
  AuxProducer producer(memory.rings());
  AuxReader reader(memory.rings());
  struct Refusing : Kept {
    bool refuse = true;
    void data(std::span<const uint8_t> more) override {
      if (refuse) throw std::runtime_error("full");
      Kept::data(more);
    }
  } sink;
  REQUIRE(producer.put(counting(0, 50)) == 50);
  CHECK_THROWS(reader.drain(sink));
  sink.refuse = false;
  reader.drain(sink);
  CHECK(sink.bytes == counting(0, 50));
}

}  // namespace
}  // namespace aftercheck::pt
