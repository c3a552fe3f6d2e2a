// Looked up by the tests, never run. The tests find lines by the words behind `//`.
#include <cstdio>
#include <string>
#include <vector>

namespace sample {

static inline int innermost(int x) {
  std::puts("innermost");  // line: innermost
  return x + 1;
}

__attribute__((always_inline)) inline int middle(int x) {
  const int y = innermost(x);  // line: middle
  return y * 2;
}

__attribute__((noinline)) int outer(int x) {
  std::puts("outer");
  return middle(x) + 3;  // line: outer
}

template <typename T>
__attribute__((noinline)) T total(const std::vector<T>& values) {
  T sum{};
  for (const T& value : values) sum += value;
  return sum;
}

struct Thing {
  virtual ~Thing() = default;
  __attribute__((noinline)) virtual std::string name(int count) const { return std::string(count, 'x'); }
};

int everything(int x) {
  const Thing thing;
  return outer(x) + total(std::vector<int>{x, 2, 3}) + static_cast<int>(thing.name(x).size());
}

}  // namespace sample

// As assembler's routines often are: without sizes.
asm(R"(
    .text
    .type unsized_first, @function
unsized_first:
    nop
    nop
    ret
    .type unsized_second, @function
unsized_second:
    ret
)");

extern "C" int plain_c_function(int x) { return sample::everything(x); }
