// Templates, exceptions inside checks and around sites, the standard library in checks.
#include <cstdio>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "vassert.h"

template <typename T>
class Stack {
 public:
  void push(T value) {
    items_.push_back(value);
    VASSERT(items_.size() <= 3);
  }
  bool sorted() const {
    for (size_t i = 1; i < items_.size(); ++i)
      if (items_[i] < items_[i - 1]) throw std::runtime_error("unsorted");
    return true;
  }
  void verify() { VASSERT(sorted()); }

 private:
  std::vector<T> items_;
};

static int guarded(int n) {
  try {
    if (n % 2 != 0) throw n;
    VASSERT_MSG(n != 4, "even %d", n);
    return n;
  } catch (int caught) {
    VASSERT_BLOCK {
      std::map<std::string, int> words;
      for (int i = 0; i < 100; ++i) words["word " + std::to_string(i)] = i;
      try {
        if (words.at("missing") == 0) std::puts("never");
      } catch (const std::out_of_range&) {
        VASSERT_LOG("caught %d among %zu", caught, words.size());
      }
    }
    return -caught;
  }
}

int main() {
  Stack<int> numbers;
  Stack<std::string> words;
  for (int i = 0; i < 4; ++i) numbers.push(4 - i);
  for (const char* word : {"a", "b", "c"}) words.push(word);
  numbers.verify();
  words.verify();
  int sum = 0;
  for (int i = 0; i < 6; ++i) sum += guarded(i);
  std::printf("%d\n", sum);
}
