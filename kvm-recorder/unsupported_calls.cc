#include "kvm-recorder/unsupported_calls.h"

#include <fmt/format.h>

#include <algorithm>

namespace aftercheck {

void UnsupportedCalls::note(const std::string& call, const std::string& answer) {
  const auto find = [&](const std::string& name) {
    return std::ranges::find_if(answered_, [&](const recording::AnsweredCall& entry) {
      return entry.call == name && entry.answer == answer;
    });
  };
  auto entry = find(call);
  if (entry == answered_.end()) {
    const std::string name = answered_.size() < kMostNames ? call : "other calls";
    entry = find(name);
    if (entry == answered_.end()) {
      entry = answered_.insert(answered_.end(), {name, answer, 0});
      news_ = true;
    }
  }
  ++entry->times;
}

void UnsupportedCalls::stop(const std::string& call, const std::string& advice, const std::string& answer) {
  stopped_at_ = call;
  why_ = fmt::format(
      "the program called {}, which can't be recorded, and would go on wrongly without it: it was ended "
      "here. "
      "{}{} --on-unsupported=continue, which answers {} and goes on",
      call, advice.empty() ? "Record it with" : advice, advice.empty() ? "" : ", or record it with", answer);
}

}  // namespace aftercheck
