// An exception that leaves a thread ends the process, with others beside it.
// flags: -pthread -std=c++20
// expect: signal ABRT
// native: output
#include <cstdio>
#include <stdexcept>
#include <thread>

int main() {
  std::thread beside([] {
    for (;;) std::this_thread::yield();
  });
  std::thread([] { throw std::runtime_error("nobody catches it"); }).join();
  beside.join();
}
