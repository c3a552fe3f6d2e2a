// sites.c as C++, with templates, exceptions, destructors and containers.
#include "sites.c"

#include <stdexcept>
#include <string>
#include <vector>

template <class T>
struct box {
  T value;
  T get() const {
    VASSERT(value != T{});
    return value;
  }
};

template <class A, class B>
struct pair_of {
  A a;
  B b;
  static constexpr bool valid = sizeof(A) <= sizeof(B);
};

inline std::size_t between_destructors(const std::string& text) {
  VASSERT(!text.empty());
  std::string copy = text + "!";
  VASSERT(copy.size() == text.size() + 1);
  std::vector<int> numbers(copy.size());
  VASSERT_BLOCK {
    std::vector<int> mine(numbers);
    mine.push_back(1);
    VASSERT_MSG(mine.size() == copy.size(), "%zu and %zu", mine.size(), copy.size());
  }
  VASSERT((pair_of<char, int>::valid));
  VASSERT(pair_of<char, int>::valid);
  return numbers.size();
}

static bool throws(int x) {
  if (x == 2) throw std::runtime_error("no");
  return true;
}

static int caught(int x) {
  try {
    VASSERT(throws(x));
    VASSERT_BLOCK {
      try {
        throws(x);
      } catch (const std::exception& e) {
        VASSERT_LOG("block caught %s", e.what());
      }
    }
    throws(x);
  } catch (const std::runtime_error&) {
    VASSERT(x != 2);
    return 1;
  }
  return 0;
}

using ghost_vector = std::vector<int, vassert::ghost_allocator<int>>;
static VASSERT_GHOST ghost_vector* history;

static void remember(int x) {
  VASSERT_BLOCK {
    if (!history) history = new (vassert_ghost_malloc(sizeof(ghost_vector))) ghost_vector;
    history->push_back(x);
    if (history->size() == 4) VASSERT_LOG("history ends with %d", history->back());
  }
}

static int left_by_exception(int x) {
  try {
    VASSERT_BLOCK { throws(x); }
  } catch (const std::runtime_error&) {
    return 1;  // where checks are eager and report
  }
  return 0;
}

int more() {
  box<int> zero{0};
  box<double> one{1.0};
  auto [left, right] = std::pair<int, int>(1, 2);
  VASSERT(left + right == 4);
  const int forbidden = right;
  auto lambda = [&](int by) {
    VASSERT(by != forbidden);
    return by;
  };
  int total = zero.get() + static_cast<int>(one.get()) + lambda(left) + lambda(right);
  total += static_cast<int>(between_destructors("abc")) + caught(1) + caught(2);
  for (int i = 0; i < 4; i++) remember(i);
  left_by_exception(2);
  return total - 9;
}
