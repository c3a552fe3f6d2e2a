#include "tools/check_arguments.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "base/error.h"
#include "system-calls/system_call_names.h"
#include "tools/one_process.h"

namespace aftercheck::tools {
namespace {

// A pattern without a slash is for the last part of the path.
bool matches_file(const std::string& pattern, const std::string& file) {
  const std::string last = file.substr(file.find_last_of('/') + 1);
  const bool whole = pattern.find('/') != std::string::npos;
  return fnmatch(pattern.c_str(), (whole ? file : last).c_str(), 0) == 0;
}

bool ends_with_path(const std::string& file, const std::string& part) {
  if (file.size() < part.size() || file.compare(file.size() - part.size(), part.size(), part) != 0)
    return false;
  return file.size() == part.size() || part[0] == '/' || file[file.size() - part.size() - 1] == '/';
}

bool matches_site(const std::string& site, const SiteText& text) {
  const size_t colon = site.find_last_of(':');
  return ends_with_path(text.file, site.substr(0, colon)) &&
         site.substr(colon + 1) == std::to_string(text.line);
}

template <typename Matches>
bool any(const std::vector<std::string>& patterns, Matches matches) {
  return patterns.empty() || std::any_of(patterns.begin(), patterns.end(), matches);
}

bool wanted(const CheckArguments& arguments, const SiteText& text) {
  return any(arguments.files, [&](const auto& pattern) { return matches_file(pattern, text.file); }) &&
         any(arguments.functions,
             [&](const auto& pattern) { return fnmatch(pattern.c_str(), text.function.c_str(), 0) == 0; }) &&
         any(arguments.sites, [&](const auto& site) { return matches_site(site, text); });
}

std::optional<uint64_t> number(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "5", "5-9", "5-" or "-9".
std::optional<std::array<uint64_t, 2>> span_of(const std::string& text, uint64_t least) {
  const size_t dash = text.find('-');
  if (dash == std::string::npos) {
    const auto only = number(text);
    return only && *only >= least ? std::optional(std::array{*only, *only}) : std::nullopt;
  }
  const std::string from = text.substr(0, dash), to = text.substr(dash + 1);
  const auto first = from.empty() ? std::optional(least) : number(from),
             last = to.empty() ? std::optional(UINT64_MAX) : number(to);
  if (!first || !last || *first > *last || *first < least || (from.empty() && to.empty()))
    return std::nullopt;
  return std::array{*first, *last};
}

void take_hits(const std::string& text, HitSelection& hits) {
  if (text.empty()) return;
  const size_t space = text.find_first_of(" =:");
  const std::string word = text.substr(0, space);
  const uint64_t count =
      space == std::string::npos ? 0 : number(std::string_view(text).substr(space + 1)).value_or(0);
  if (word == "first" && count > 0) {
    hits.last = count;
  } else if (word == "every" && count > 0) {
    hits.every = count;
  } else if (const auto span = span_of(text, 1)) {
    hits.first = (*span)[0];
    hits.last = (*span)[1];
  } else {
    fail(ErrorKind::usage, "--hits {}: say N, N-M, \"first N\" or \"every N\", from 1 on", text);
  }
}

}  // namespace

void take_processes(CheckArguments& arguments) {
  std::optional<recording::Position> at;
  if (!arguments.at.empty()) {
    at = recording::parse_position(arguments.at);
    choose_process(arguments.process, at->process, "position " + arguments.at);
  }
  choose_by_folder(arguments.process, arguments.replay.directory);
  arguments.processes = recording::read_processes(arguments.replay.directory);
  arguments.way = recording::way_to(arguments.processes, arguments.process.value_or(0));
  arguments.check.process = arguments.process;
  if (at) check_belongs(*at, arguments.wanted_process().meta);
  if (!arguments.all_processes()) return;
  if (!arguments.events.empty())
    fail(ErrorKind::usage, "--events are those of one process: say which with --process");
  if (arguments.jobs > 1)
    fail(ErrorKind::usage,
         "--jobs shares out one process, and all of these are replayed at once already: say which with "
         "--process, or leave it out");
}

void take(CheckArguments& arguments) {
  take_hits(arguments.hits, arguments.check.hits);
  if (!arguments.events.empty()) {
    const auto span = span_of(arguments.events, 0);
    if (!span) fail(ErrorKind::usage, "--events {}: say A, A-B, A- or -B", arguments.events);
    arguments.check.first_event = (*span)[0];
    arguments.check.last_event = (*span)[1];
  }
  if (!arguments.at.empty()) {
    const recording::Position position = recording::parse_position(arguments.at);
    const auto* arrival = std::get_if<recording::Arrival>(&position.instant);
    if (arrival == nullptr)
      fail(ErrorKind::usage, "--at {}: say the position of a hit, eEVENT+0xADDRESS#N", arguments.at);
    arguments.check.at = *arrival;
    arguments.check.at_thread = position.thread;
    arguments.check.first_event = arguments.check.last_event = position.event;
  }
  for (const std::string& site : arguments.sites) {
    const size_t colon = site.find_last_of(':');
    if (colon == std::string::npos || colon == 0 || !number(std::string_view(site).substr(colon + 1)))
      fail(ErrorKind::usage, "--site {}: say FILE:LINE", site);
  }
  if (arguments.jobs > 1 && (!arguments.hits.empty() || !arguments.at.empty()))
    fail(ErrorKind::usage,
         "--hits and --at count from the start of the events, and jobs start in between: leave one of them");
  arguments.check.wanted = [&arguments](const SiteText& text) { return wanted(arguments, text); };
  arguments.check.excursion.limit = arguments.limit_millions * 1'000'000;
  arguments.check.excursion.system_call_name = system_call_name;
  arguments.replay.system_call_name = system_call_name;
}

std::vector<std::string> useless_patterns(const CheckArguments& arguments,
                                          const std::vector<SiteText>& found) {
  std::vector<std::string> useless;
  const auto look = [&](const char* option, const std::vector<std::string>& patterns, const auto& matches) {
    for (const std::string& pattern : patterns)
      if (std::none_of(found.begin(), found.end(),
                       [&](const SiteText& text) { return matches(pattern, text); }))
        useless.push_back(fmt::format("{} {}: no VAssert is there", option, pattern));
  };
  look("--file", arguments.files,
       [](const auto& pattern, const SiteText& text) { return matches_file(pattern, text.file); });
  look("--function", arguments.functions, [](const auto& pattern, const SiteText& text) {
    return fnmatch(pattern.c_str(), text.function.c_str(), 0) == 0;
  });
  look("--site", arguments.sites,
       [](const auto& site, const SiteText& text) { return matches_site(site, text); });
  return useless;
}

}  // namespace aftercheck::tools
