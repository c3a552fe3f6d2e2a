// What is mapped where, over time.
#include "symbols/symbols.h"

#include <catch2/catch.hpp>

namespace aftercheck::symbols {
namespace {

// As the kernel and ld.so map a shared library at `base`.
void load(Symbols& symbols, const std::shared_ptr<Object>& object, uint64_t base) {
  for (const Object::Segment& segment : object->segments()) {
    const uint64_t start = segment.address & ~uint64_t{0xfff};
    const uint64_t end = (segment.address + segment.file_size + 0xfff) & ~uint64_t{0xfff};
    symbols.map(base + start, end - start, object, segment.offset & ~uint64_t{0xfff});
  }
}

struct Loaded {
  std::shared_ptr<Object> object = Object::open(SYMBOLS_SAMPLE);
  uint64_t outer = object->functions_named("sample::outer").at(0)->address;
  Symbols symbols;
};

}  // namespace

TEST_CASE("an address is found wherever the file is loaded") {
  Loaded l;
  for (const uint64_t base : {uint64_t{0x7f0000000000}, uint64_t{0x10000}}) {
    load(l.symbols, l.object, base);
    const Location at = l.symbols.find(base + l.outer + 3);
    REQUIRE(at.function != nullptr);
    CHECK(at.function->name == "sample::outer(int)");
    CHECK(at.offset == 3);
    CHECK(at.object_address == l.outer + 3);
    CHECK(l.symbols.text(base + l.outer + 3) == "sample::outer(int)+0x3 (" + l.object->short_name() + ")");
    CHECK(l.symbols.text(base + l.outer) == "sample::outer(int) (" + l.object->short_name() + ")");
    CHECK(l.symbols.line(base + l.outer).file != nullptr);
    CHECK(l.symbols.frames(base + l.outer).back().function == "sample::outer(int)");
  }
  CHECK(l.symbols.addresses_of("sample::outer") ==
        std::vector<uint64_t>{0x10000 + l.outer, 0x7f0000000000 + l.outer});
}

TEST_CASE("where no function is known, the file and its address are told") {
  Loaded l;
  load(l.symbols, l.object, 0x400000);
  CHECK(l.symbols.text(0x400000) == l.object->short_name() + "+0x0");
  CHECK(l.symbols.text(0x300000) == "");
  CHECK(l.symbols.find(0x300000).object == nullptr);
  CHECK(l.symbols.frames(0x300000).empty());
}

TEST_CASE("mappings are replaced, cut, moved and taken away as the kernel does it") {
  Loaded l;
  Symbols& symbols = l.symbols;
  const uint64_t size = 0x100000, base = 0x10000000;
  const auto other = Object::open(SYMBOLS_SAMPLE_SOURCE);
  symbols.map(base, size, l.object, 0);
  const auto object_at = [&](uint64_t address) { return symbols.find(address).object; };

  symbols.map(base + 0x4000, 0x1000, other, 0);
  CHECK(object_at(base + 0x3fff) == l.object.get());
  CHECK(object_at(base + 0x4000) == other.get());
  CHECK(object_at(base + 0x5000) == l.object.get());
  // Behind the hole offsets go on as before.
  CHECK(symbols.find(base + 0x5000 + 1).offset == 0x5001);

  symbols.unmap(base + 0x8000, 0x2000);
  CHECK(object_at(base + 0x7fff) != nullptr);
  CHECK(object_at(base + 0x8000) == nullptr);
  CHECK(object_at(base + 0xa000) != nullptr);

  symbols.remap(base, size, 0x90000000, 0x6000);
  CHECK(object_at(base) == nullptr);
  CHECK(object_at(0x90000000) == l.object.get());
  CHECK(object_at(0x90004000) == other.get());
  CHECK(object_at(0x90005fff) == l.object.get());
  CHECK(object_at(0x90006000) == nullptr);

  symbols.clear();
  CHECK(object_at(0x90000000) == nullptr);
}

TEST_CASE("ranges at the end of the address space do not wrap") {
  Loaded l;
  const uint64_t last = ~uint64_t{0};
  l.symbols.map(last - 0xfff, 0x100000, l.object, 0);
  CHECK(l.symbols.find(last).object == l.object.get());
  CHECK(l.symbols.find(0).object == nullptr);
  l.symbols.unmap(last, 0x10);
  CHECK(l.symbols.find(last).object == nullptr);
  CHECK(l.symbols.find(last - 1).object == l.object.get());
  l.symbols.remap(last - 0xfff, last, 0x1000, 0x1000);
  CHECK(l.symbols.find(0x1000).object == l.object.get());
}

}  // namespace aftercheck::symbols
