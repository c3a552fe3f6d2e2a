// The thunks keep every register and the red zone: the compiler counts on it.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <cstring>

#include "vassert.h"

extern "C" {
extern const vassert_entry vassert_test_record;
int vassert_test_registers(const void* before, void* after, int ymm);
}
// A record without strings of its own: all three offsets lead to the zero byte of `function`.
const vassert_entry vassert_test_record = {0, 0, 8, 4, 0, 1, VASSERT_KIND_ASSERT, VASSERT_VERSION};

namespace {

struct registers {
  unsigned char general[15 * 8];
  unsigned char vectors[16 * 32];
};

TEST_CASE("A check that reports a failure keeps general and vector registers and the red zone") {
  vassert_set_policy(VASSERT_REPORT);
  REQUIRE(vassert_enable_eager() > 0);
  int null = dup(STDERR_FILENO);
  REQUIRE(std::freopen("/dev/null", "w", stderr));
  bool avx = __builtin_cpu_supports("avx");
  registers before, after;
  for (size_t i = 0; i < sizeof before; i++)
    reinterpret_cast<unsigned char*>(&before)[i] = static_cast<unsigned char>(i * 7 + 1);
  std::memset(&after, 0, sizeof after);
  auto failures = vassert_failure_count();
  int red_zone_kept = vassert_test_registers(&before, &after, avx);
  dup2(null, STDERR_FILENO);
  close(null);
  CHECK(red_zone_kept == 1);
  CHECK(vassert_failure_count() == failures + 1);
  CHECK(std::memcmp(before.general, after.general, sizeof before.general) == 0);
  for (int i = 0; i < 16; i++) {
    INFO("vector register " << i);
    CHECK(std::memcmp(before.vectors + 32 * i, after.vectors + 32 * i, avx ? 32 : 16) == 0);
  }
}

}  // namespace
