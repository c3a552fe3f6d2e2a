// Work that may hang or crash, in a child process of its own.
#pragma once

#include <chrono>
#include <functional>
#include <string>

namespace aftercheck {

struct ChildAnswer {
  std::string text;     // all that the child wrote, also when it did not come to its end
  bool in_time = true;  // else it was killed
  int wait_status = 0;  // as waitpid(2) tells it
};

// Forks; the child calls work(out), which writes its answer to descriptor `out`, and ends: with status 0, or
// 1 where `work` throws. Returns when the child has ended, or kills it after `limit`. The child has this
// thread only. Throws Error(io) where there can be no child.
ChildAnswer answer_of_child(std::chrono::milliseconds limit, const std::function<void(int out)>& work);

}  // namespace aftercheck
