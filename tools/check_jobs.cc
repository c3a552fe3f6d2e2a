#include "tools/check_jobs.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <iterator>
#include <map>
#include <optional>
#include <set>

#include "checkpoint/checkpoint.h"
#include "recording/reader.h"
#include "tools/console.h"
#include "tools/output.h"

namespace aftercheck::tools {
namespace {

// --- between the processes: CBOR, since texts may be any bytes ---

Json pack(const SiteText& text) { return {text.file, text.line, text.kind, text.text}; }

// The function is no part of what tells sites apart.
SiteText unpack_text(const Json& json) { return {json.at(0), json.at(3), {}, json.at(1), json.at(2)}; }

Json pack(const CheckHit& hit) {
  Json stack = Json::array();
  for (const CheckFrame& f : hit.stack)
    stack.push_back({f.address, f.function, f.module, f.file, f.line, f.inlined});
  return {
      hit.number,      hit.event,    hit.in_segment, hit.arrival,          hit.time_ns,
      hit.address,     hit.nested,   hit.program_at, pack(hit.reached_by), static_cast<unsigned>(hit.verdict),
      hit.detail,      hit.failures, hit.logs,       hit.output,           hit.dropped,
      std::move(stack)};
}

CheckHit unpack_hit(const Json& json) {
  CheckHit hit;
  size_t at = 0;
  json.at(at++).get_to(hit.number);
  json.at(at++).get_to(hit.event);
  json.at(at++).get_to(hit.in_segment);
  json.at(at++).get_to(hit.arrival);
  json.at(at++).get_to(hit.time_ns);
  json.at(at++).get_to(hit.address);
  json.at(at++).get_to(hit.nested);
  json.at(at++).get_to(hit.program_at);
  hit.reached_by = unpack_text(json.at(at++));
  hit.verdict = static_cast<Verdict>(json.at(at++).get<unsigned>());
  json.at(at++).get_to(hit.detail);
  json.at(at++).get_to(hit.failures);
  json.at(at++).get_to(hit.logs);
  json.at(at++).get_to(hit.output);
  json.at(at++).get_to(hit.dropped);
  for (const Json& f : json.at(at))
    hit.stack.push_back({f.at(0), f.at(1), f.at(2), f.at(3), f.at(4), f.at(5)});
  return hit;
}

Json pack(const std::vector<CheckHit>& hits) {
  Json list = Json::array();
  for (const CheckHit& hit : hits) list.push_back(pack(hit));
  return list;
}

Json pack(const CheckOutcome& outcome) {
  const CheckReport& report = outcome.report;
  Json sites = Json::array();
  for (const SiteReport& s : report.sites)
    sites.push_back({s.text.file, s.text.text, s.text.function, s.text.line, s.text.kind, s.module, s.places,
                     s.hits, s.own_hits, s.checked, s.passed, s.failed, s.broken, s.endless, s.logged,
                     s.logs_dropped, pack(s.failures), pack(s.logs)});
  Json found = Json::array();
  for (const SiteText& text : report.found) found.push_back(pack(text));
  const ReplayResult& r = report.replay;
  return {outcome.error,
          static_cast<unsigned>(outcome.kind),
          std::move(sites),
          std::move(found),
          report.ghost_used,
          report.excursions.excursions,
          report.excursions.opened_pages,
          report.stops,
          report.ghost_there,
          {r.events, r.memory_digests, static_cast<unsigned>(r.machine), r.truncated, r.truncation, r.ended,
           r.signaled, r.status}};
}

SiteReport unpack_site(const Json& json) {
  SiteReport s;
  size_t at = 0;
  for (std::string* text : {&s.text.file, &s.text.text, &s.text.function}) json.at(at++).get_to(*text);
  json.at(at++).get_to(s.text.line);
  json.at(at++).get_to(s.text.kind);
  json.at(at++).get_to(s.module);
  json.at(at++).get_to(s.places);
  for (uint64_t* count : {&s.hits, &s.own_hits, &s.checked, &s.passed, &s.failed, &s.broken, &s.endless,
                          &s.logged, &s.logs_dropped})
    json.at(at++).get_to(*count);
  for (std::vector<CheckHit>* hits : {&s.failures, &s.logs})
    for (const Json& hit : json.at(at++)) hits->push_back(unpack_hit(hit));
  return s;
}

CheckOutcome unpack(const Json& json) {
  CheckOutcome outcome;
  CheckReport& report = outcome.report;
  json.at(0).get_to(outcome.error);
  outcome.kind = static_cast<ErrorKind>(json.at(1).get<unsigned>());
  for (const Json& site : json.at(2)) report.sites.push_back(unpack_site(site));
  for (const Json& text : json.at(3)) report.found.push_back(unpack_text(text));
  json.at(4).get_to(report.ghost_used);
  json.at(5).get_to(report.excursions.excursions);
  json.at(6).get_to(report.excursions.opened_pages);
  json.at(7).get_to(report.stops);
  json.at(8).get_to(report.ghost_there);
  const Json& replay = json.at(9);
  ReplayResult& r = report.replay;
  replay.at(0).get_to(r.events);
  replay.at(1).get_to(r.memory_digests);
  r.machine = static_cast<MachineKind>(replay.at(2).get<unsigned>());
  replay.at(3).get_to(r.truncated);
  replay.at(4).get_to(r.truncation);
  replay.at(5).get_to(r.ended);
  replay.at(6).get_to(r.signaled);
  replay.at(7).get_to(r.status);
  return outcome;
}

// --- joining ---

void join_hits(std::vector<CheckHit>& to, std::vector<CheckHit>&& from, uint64_t before_own,
               uint64_t before_all, uint64_t most) {
  for (CheckHit& hit : from) {
    if (to.size() == most) return;
    // Those by way of other checks are numbered among all visits.
    hit.number += hit.nested ? before_all : before_own;
    to.push_back(std::move(hit));
  }
}

void join(SiteReport& to, SiteReport&& from, uint64_t most_failures, uint64_t most_logs) {
  const uint64_t logs = to.logs.size() + from.logs.size() + to.logs_dropped + from.logs_dropped;
  join_hits(to.failures, std::move(from.failures), to.own_hits, to.hits, most_failures);
  join_hits(to.logs, std::move(from.logs), to.own_hits, to.hits, most_logs);
  to.logs_dropped = logs - to.logs.size();
  std::sort(from.places.begin(), from.places.end());
  std::sort(to.places.begin(), to.places.end());
  std::vector<uint64_t> places;
  std::set_union(to.places.begin(), to.places.end(), from.places.begin(), from.places.end(),
                 std::back_inserter(places));
  to.places = std::move(places);
  to.hits += from.hits;
  to.own_hits += from.own_hits;
  to.checked += from.checked;
  to.passed += from.passed;
  to.failed += from.failed;
  to.broken += from.broken;
  to.endless += from.endless;
  to.logged += from.logged;
}

// All but the sites.
void join(CheckReport& to, const CheckReport& from) {
  std::set<SiteText> found(to.found.begin(), to.found.end());
  found.insert(from.found.begin(), from.found.end());
  to.found.assign(found.begin(), found.end());
  to.ghost_used = to.ghost_used || from.ghost_used;
  to.ghost_there = to.ghost_there || from.ghost_there;
  to.excursions.excursions += from.excursions.excursions;
  to.excursions.opened_pages += from.excursions.opened_pages;
  to.stops += from.stops;
  const uint64_t events = to.replay.events, digests = to.replay.memory_digests;
  to.replay = from.replay;
  to.replay.events += events;
  to.replay.memory_digests += digests;
}

struct Job {
  pid_t process = -1;
  UniqueFd answer;
  std::optional<JobOutput> output;  // where somebody wants it
};

// What the child does: it never comes back.
[[noreturn]] void work(int answer, const std::function<CheckOutcome()>& check) {
  int status = 1;
  CheckOutcome outcome;
  try {
    outcome = check();
  } catch (const Error& error) {
    outcome = {};
    outcome.error = error.what();
    outcome.kind = error.kind();
  } catch (const std::exception& error) {
    outcome = {};
    outcome.error = error.what();
  }
  try {
    const std::vector<uint8_t> bytes = Json::to_cbor(pack(outcome));
    status = write_all(answer, bytes.data(), bytes.size()) == 0 ? 0 : 1;
  } catch (const std::exception&) {  // the parent tells that a job died
  }
  _exit(status);
}

Job start(const Part& part, const std::function<pid_t()>& fork, const CheckPart& check, bool keeps_output) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) fail(ErrorKind::io, "a pipe for a job: {}", errno_text(errno));
  Job job;
  job.answer.reset(ends[0]);
  if (keeps_output) job.output.emplace();
  UniqueFd answer(ends[1]);
  const pid_t parent = getpid();
  try {
    job.process = fork();
  } catch (const Error& error) {
    if (getpid() == parent) throw;
    // A child that could not become a replay of its own.
    work(answer.get(), [&]() -> CheckOutcome { throw error; });
  }
  if (job.process < 0) fail(ErrorKind::io, "a process for a job: {}", errno_text(errno));
  if (job.process != 0) return job;
  job.answer.reset();
  work(answer.get(), [&] { return check(part, job.output ? &*job.output : nullptr); });
}

std::vector<uint8_t> read_all(int fd) {
  std::vector<uint8_t> bytes;
  constexpr size_t kPart = 64 << 10;
  for (;;) {
    const size_t had = bytes.size();
    bytes.resize(had + kPart);
    const ssize_t got = read(fd, &bytes[had], kPart);
    bytes.resize(had + static_cast<size_t>(std::max<ssize_t>(got, 0)));
    if (got == 0 || (got < 0 && errno != EINTR)) return bytes;
  }
}

// A process that died without an answer is a bug of ours, and says so.
CheckOutcome outcome_of(Job& job) {
  const std::vector<uint8_t> bytes = read_all(job.answer.get());
  int status = 0;
  while (waitpid(job.process, &status, 0) < 0 && errno == EINTR) {
  }
  if (status != 0)
    fail(ErrorKind::internal, "a job of check died ({} {})", WIFSIGNALED(status) ? "signal" : "status",
         WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
  return unpack(Json::from_cbor(bytes));
}

// Where in the run, as a share of its work, an event is: known at checkpoints, and linear between.
class Work {
 public:
  explicit Work(const std::vector<CheckpointSummary>& checkpoints) : points_{{0, 0}} {
    for (const CheckpointSummary& one : checkpoints)
      if (one.event > points_.back().event && one.work_ns >= points_.back().work)
        points_.push_back({one.event, one.work_ns});
  }
  double at(uint64_t event) const {
    const auto after =
        std::upper_bound(points_.begin(), points_.end(), event,
                         [](uint64_t wanted, const Point& point) { return wanted < point.event; });
    const Point& before = *std::prev(after);
    // Behind the last one it goes on as before it.
    const Point& next = after != points_.end() ? *after : before;
    const Point& from = after != points_.end() || points_.size() < 2 ? before : points_[points_.size() - 2];
    if (next.event == from.event) return static_cast<double>(event);
    const double slope =
        static_cast<double>(next.work - from.work) / static_cast<double>(next.event - from.event);
    return static_cast<double>(before.work) + slope * static_cast<double>(event - before.event);
  }

 private:
  struct Point {
    uint64_t event, work;
  };
  std::vector<Point> points_;
};

// The last entry of the log that a segment follows, read from where the last checkpoint is: the one before
// the event that ends it.
uint64_t last_segment(const std::filesystem::path& directory,
                      const std::vector<CheckpointSummary>& checkpoints) {
  const auto last_of = [](recording::Reader&& reader, uint64_t before) {
    uint64_t last = before;
    while (const recording::Event* event = reader.next())
      if (event->kind != recording::EventKind::continuation && event->kind != recording::EventKind::end &&
          reader.number() > 0)
        last = reader.number() - 1;
    return last;
  };
  try {
    if (!checkpoints.empty()) {
      const CheckpointSummary& from = checkpoints.back();
      // One that is behind all segments follows the last of them, at the latest.
      return last_of({directory, from.next, from.event + 1}, from.event == 0 ? 0 : from.event - 1);
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::bad_input) throw;  // it is the checkpoint, or comes again from the start
  }
  return last_of(recording::Reader(directory), 0);
}

std::vector<CheckpointSummary> summaries(const std::filesystem::path& directory) {
  std::vector<CheckpointSummary> all;
  const Checkpoints checkpoints(directory);
  for (const Checkpoints::Known& known : checkpoints.all()) {
    try {
      all.push_back(Checkpoints::summary(known));
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::internal) throw;  // a replay passes it over, too, and says so
    }
  }
  return all;
}

}  // namespace

JobOutput::JobOutput() {
  for (UniqueFd& file : files_) {
    file.reset(memfd_create("output of a part", MFD_CLOEXEC));
    if (!file) fail(ErrorKind::io, "memory for the output of a part: {}", errno_text(errno));
  }
}

void JobOutput::write(int stream, const std::byte* bytes, size_t size) {
  if (write_all(files_.at(static_cast<size_t>(stream - 1)).get(), bytes, size) != 0)
    fail(ErrorKind::io, "memory for the output of a part: {}", errno_text(errno));
}

void JobOutput::read(const ShowOutput& show) const {
  std::vector<std::byte> buffer(64 << 10);
  for (const int stream : {STDOUT_FILENO, STDERR_FILENO}) {
    const int file = files_.at(static_cast<size_t>(stream - 1)).get();
    off_t at = 0;
    for (ssize_t got = 0; (got = pread(file, buffer.data(), buffer.size(), at)) > 0; at += got)
      show(stream, buffer.data(), static_cast<size_t>(got));
  }
}

std::vector<Part> split_events(const std::filesystem::path& directory, EventSpan span, unsigned jobs) {
  const std::vector<CheckpointSummary> checkpoints = summaries(directory);
  const uint64_t last = std::min(last_segment(directory, checkpoints), span.last);
  if (last < span.first) return {{span, false}};
  const Work work(checkpoints);
  const double start = work.at(span.first), all = work.at(last) - start;
  std::vector<Part> parts = {{span, false}};
  for (unsigned i = 1; i < jobs; ++i) {
    const double wanted = start + all * i / jobs;
    Part next{span, false};
    if (checkpoints.empty()) {
      next.span.first = span.first + (last - span.first + 1) * i / jobs;
    } else {
      const auto nearest =
          std::min_element(checkpoints.begin(), checkpoints.end(), [&](const auto& a, const auto& b) {
            return std::abs(work.at(a.event) - wanted) < std::abs(work.at(b.event) - wanted);
          });
      next = {{nearest->event, span.last}, true};
    }
    if (next.span.first <= parts.back().span.first || next.span.first > last) continue;
    parts.back().span.last = next.span.first - 1;
    parts.push_back(next);
  }
  return parts;
}

CheckOutcome check_in_parts(const std::vector<Part>& parts, uint64_t most_failures, uint64_t most_logs,
                            const std::function<pid_t(const Part&)>& fork, const CheckPart& check,
                            const ShowOutput& show) {
  std::vector<Job> jobs;
  std::string failure;
  ErrorKind kind = ErrorKind::internal;
  for (const Part& part : parts) {
    try {
      jobs.push_back(start(
          part, [&] { return fork(part); }, check, show != nullptr));
    } catch (const Error& error) {  // the process that makes the jobs came no further
      failure = error.what();
      kind = error.kind();
      break;
    }
  }
  std::vector<CheckOutcome> outcomes;
  for (Job& job : jobs) {
    outcomes.push_back(outcome_of(job));
    if (job.output) job.output->read(show);
  }
  if (!failure.empty()) {
    CheckOutcome& missing = outcomes.emplace_back();
    missing.error = failure;
    missing.kind = kind;
  }
  CheckOutcome all = std::move(outcomes.front());
  std::map<SiteText, SiteReport> sites;
  for (CheckOutcome& outcome : outcomes) {
    const bool first = &outcome == &outcomes.front();
    for (SiteReport& site : first ? all.report.sites : outcome.report.sites) {
      const auto [known, added] = sites.try_emplace(site.text);
      if (added)
        known->second = std::move(site);
      else
        join(known->second, std::move(site), most_failures, most_logs);
    }
    if (!first) {
      join(all.report, outcome.report);
      all.error = outcome.error;
      all.kind = outcome.kind;
    }
    if (!all.error.empty()) break;  // one replay would have come no further
  }
  all.report.sites.clear();
  for (auto& [text, site] : sites) all.report.sites.push_back(std::move(site));
  return all;
}

}  // namespace aftercheck::tools
