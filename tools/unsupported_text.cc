#include "tools/unsupported_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "tools/console.h"

namespace aftercheck::tools {

std::string describe_answered(const std::vector<recording::AnsweredCall>& calls) {
  constexpr size_t kMost = 8;
  std::string text;
  for (size_t i = 0; i < std::min(calls.size(), kMost); ++i)
    text += fmt::format("{}{}: {}, {} time{}", i == 0 ? "" : "; ", calls[i].call, calls[i].answer,
                        human_count(calls[i].times), calls[i].times == 1 ? "" : "s");
  if (calls.size() > kMost) text += fmt::format("; and {} more", human_count(calls.size() - kMost));
  return printable(text);
}

std::vector<std::string> unsupported_warnings(const recording::Meta& meta) {
  std::vector<std::string> warnings;
  if (!meta.answered_calls.empty())
    warnings.push_back(
        "calls that can't be recorded were answered without being done, so the program may have "
        "gone another way than natively: " +
        describe_answered(meta.answered_calls));
  if (!meta.stopped_at.empty())
    warnings.push_back("the program did not end by itself: it was ended when it called " +
                       printable(meta.stopped_at) + ", which can't be recorded");
  return warnings;
}

void add_unsupported(const recording::Meta& meta, Json& json) {
  json["stopped_at"] = meta.stopped_at.empty() ? Json(nullptr) : Json(meta.stopped_at);
  json["answered_calls"] = Json::array();
  for (const recording::AnsweredCall& call : meta.answered_calls)
    json["answered_calls"].push_back({{"call", call.call}, {"answer", call.answer}, {"times", call.times}});
}

}  // namespace aftercheck::tools
