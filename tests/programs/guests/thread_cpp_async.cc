// C++'s tasks: async, futures with values and exceptions, promises, packaged tasks, stop tokens.
// flags: -pthread -std=c++20
// native: output
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <future>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <stop_token>
#include <thread>
#include <vector>

namespace {
long sum_of(const std::vector<int>& numbers, size_t from, size_t to) {
  if (to - from <= 500)
    return std::accumulate(numbers.begin() + static_cast<long>(from), numbers.begin() + static_cast<long>(to),
                           0L);
  auto half = std::async(std::launch::async, sum_of, std::cref(numbers), from, (from + to) / 2);
  return sum_of(numbers, (from + to) / 2, to) + half.get();
}
}  // namespace

int main() {
  std::vector<int> numbers(8000);
  std::iota(numbers.begin(), numbers.end(), 1);
  std::printf("%ld\n", sum_of(numbers, 0, numbers.size()));

  auto failing = std::async(std::launch::async, []() -> int { throw std::out_of_range("far away"); });
  try {
    failing.get();
  } catch (const std::out_of_range& error) {
    std::printf("%s\n", error.what());
  }
  auto lazy = std::async(std::launch::deferred, [] { return std::this_thread::get_id(); });
  std::printf("%d\n", lazy.get() == std::this_thread::get_id());

  std::promise<int> first, second;
  auto shared = first.get_future().share();
  std::vector<std::future<int>> results;
  for (int i = 0; i < 3; ++i)
    results.push_back(std::async(std::launch::async, [shared, i] { return shared.get() * i; }));
  first.set_value(14);
  for (auto& result : results) std::printf("%d ", result.get());
  auto never = second.get_future();
  std::printf("%d\n", never.wait_for(std::chrono::milliseconds(3)) == std::future_status::timeout);

  std::packaged_task<int(int)> task([](int value) { return value + 1; });
  auto done = task.get_future();
  std::thread(std::move(task), 41).join();
  std::printf("%d\n", done.get());

  std::mutex mutex;
  std::condition_variable_any changed;
  std::atomic<int> stopped = 0;
  {
    const std::jthread waiting([&](const std::stop_token& stop) {
      std::unique_lock hold(mutex);
      changed.wait(hold, stop, [] { return false; });
      stopped += stop.stop_requested();
    });
    const std::jthread spinning([&](const std::stop_token& stop) {
      while (!stop.stop_requested()) std::this_thread::yield();
      ++stopped;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  std::printf("%d stopped\n", stopped.load());
}
