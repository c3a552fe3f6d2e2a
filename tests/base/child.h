// Code run in a child of the test, with its standard error read: for what ends a process, or writes where a
// guest may not.
#pragma once

#include <functional>
#include <string>

namespace aftercheck::test {

struct Ended {
  int status = -1;  // exit status, or -1
  int signal = 0;   // that killed it, or 0
  std::string err;  // what it wrote to standard error
};

// Runs `code` in a child, which ends with status 0 where `code` returns.
Ended in_child(const std::function<void()>& code);

}  // namespace aftercheck::test
