// Calls that can't be recorded and change what the program does: what becomes of them, and what is to be
// known of them afterwards. A program that is told ENOSYS and goes on may do something else than it would
// natively (sort nothing, wait for ever, kill what it takes for its children), so nobody may miss that it was
// told so.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "recording/meta.h"

namespace aftercheck {

// Of the guest's process; used by the thread that makes the call.
class UnsupportedCalls {
 public:
  bool answer_them = false;  // record --on-unsupported=continue
  bool allow_kill_all =
      false;  // record --allow kill-all: kill(-1) reaches every process that the kernel lets it

  // A call was answered with the error `answer` ("ENOSYS") without being done.
  void note(const std::string& call, const std::string& answer);
  const std::vector<recording::AnsweredCall>& answered() const { return answered_; }
  // True once after a call was noted that had not been before.
  bool take_news() { return std::exchange(news_, false); }

  // The recording ends at this call.
  void stop(const std::string& call, const std::string& advice, const std::string& answer);
  const std::string& stopped_at() const { return stopped_at_; }  // empty: it goes on
  // The same for people: a sentence with the way out.
  const std::string& why() const { return why_; }

 private:
  // More different ones than that (a program can make up ioctl requests) are counted together.
  static constexpr size_t kMostNames = 200;
  std::vector<recording::AnsweredCall> answered_;
  std::string stopped_at_, why_;
  bool news_ = false;
};

}  // namespace aftercheck
