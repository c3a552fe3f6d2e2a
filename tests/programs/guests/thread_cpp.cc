// C++'s threads: results, exceptions that cross from one to another, locks of several mutexes, call_once,
// condition variables with any lock, thread_local with destructors.
// flags: -pthread -std=c++20
// native: output
#include <array>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {
void check(bool condition, int line) {
  if (condition) return;
  std::printf("FAILED: line %d\n", line);
  std::fflush(stdout);
  std::_Exit(1);
}
#define CHECK(condition) check(condition, __LINE__)

int alive = 0, ended = 0;
std::mutex count;
struct Counted {
  Counted() {
    const std::lock_guard hold(count);
    ++alive;
  }
  ~Counted() {
    const std::lock_guard hold(count);
    ++ended;
  }
  int value = 3;
};
thread_local Counted counted;

struct Account {
  std::mutex mutex;
  long money = 1000;
};

void transfers() {
  std::array<Account, 3> accounts;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&accounts, t] {
      for (int i = 0; i < 300; ++i) {
        Account &from = accounts[static_cast<size_t>(i + t) % 3],
                &to = accounts[static_cast<size_t>(i + t + 1 + i % 2) % 3];
        const std::scoped_lock hold(from.mutex, to.mutex);
        from.money -= t, to.money += t;
        counted.value += t;
      }
      CHECK(counted.value == 3 + 300 * t);
    });
  for (auto& thread : threads) thread.join();
  std::printf("%ld %ld %ld\n", accounts[0].money, accounts[1].money, accounts[2].money);
  CHECK(accounts[0].money + accounts[1].money + accounts[2].money == 3000);
  CHECK(alive == 4 && ended == 4);
}

void exceptions() {
  std::exception_ptr caught;
  std::thread([&caught] {
    try {
      throw std::runtime_error("from a thread");
    } catch (...) {
      caught = std::current_exception();
    }
  }).join();
  try {
    std::rethrow_exception(caught);
  } catch (const std::runtime_error& error) {
    std::printf("%s\n", error.what());
  }
  // Several at once, each its own.
  std::vector<std::thread> threads;
  std::array<int, 4> sums{};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&sums, t] {
      for (int i = 0; i < 50; ++i) try {
          throw t * i;
        } catch (int value) {
          sums[static_cast<size_t>(t)] += value;
        }
    });
  for (auto& thread : threads) thread.join();
  std::printf("%d %d %d %d\n", sums[0], sums[1], sums[2], sums[3]);
}

void once_and_shared() {
  std::once_flag flag;
  int calls = 0;
  std::shared_mutex mutex;
  std::condition_variable_any changed;
  int value = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      std::call_once(flag, [&calls] { ++calls; });
      for (int i = 0; i < 20; ++i) {
        std::unique_lock hold(mutex);
        changed.wait(hold, [&] { return value % 4 == t; });
        ++value;
        changed.notify_all();
      }
    });
  for (auto& thread : threads) thread.join();
  const std::shared_lock hold(mutex);
  std::printf("%d once, %d turns\n", calls, value);
}
}  // namespace

int main() {
  transfers();
  exceptions();
  once_and_shared();
}
