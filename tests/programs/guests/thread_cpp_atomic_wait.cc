// C++20's waits on atomics, its semaphores, latches and barriers.
// flags: -pthread -std=c++20
// native: output
#include <atomic>
#include <barrier>
#include <cstdio>
#include <latch>
#include <semaphore>
#include <thread>
#include <vector>

namespace {
void hand_over() {
  std::atomic<int> turn = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&turn, t] {
      for (int i = 0; i < 100; ++i) {
        for (int seen; (seen = turn.load()) % 3 != t;) turn.wait(seen);
        ++turn;
        turn.notify_all();
      }
    });
  for (auto& thread : threads) thread.join();
  std::printf("%d turns\n", turn.load());
}

void flags() {
  std::atomic_flag ready, seen;
  std::atomic<long> wide = 0;  // what is no futex word waits on a proxy
  std::thread thread([&] {
    ready.wait(false);
    seen.test_and_set();
    seen.notify_one();
    wide.wait(0);
    wide = wide + 1;
    wide.notify_one();
  });
  ready.test_and_set();
  ready.notify_all();
  seen.wait(false);
  wide = 1L << 40;
  wide.notify_all();
  wide.wait(1L << 40);
  thread.join();
  std::printf("%lx\n", wide.load());
}

void meetings() {
  constexpr int kThreads = 4;
  std::latch latch(kThreads);
  int phases = 0;
  std::barrier barrier(kThreads, [&phases]() noexcept { ++phases; });
  std::counting_semaphore<2> places(2);
  std::atomic<int> inside = 0, most = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&] {
      latch.arrive_and_wait();
      for (int i = 0; i < 20; ++i) {
        places.acquire();
        const int now = ++inside;
        for (int old = most; now > old && !most.compare_exchange_weak(old, now);) continue;
        std::this_thread::yield();
        --inside;
        places.release();
        barrier.arrive_and_wait();
      }
    });
  for (auto& thread : threads) thread.join();
  std::printf("%d phases, %s\n", phases, most <= 2 ? "two at most" : "too many");
}
}  // namespace

int main() {
  hand_over();
  flags();
  meetings();
}
