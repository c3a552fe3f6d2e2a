#include "tools/check_jobs.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <map>
#include <optional>

#include "checkpoint/checkpoint.h"
#include "recording/position.h"
#include "recording/reader.h"
#include "tools/console.h"

namespace aftercheck::tools {
namespace {

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
  add_counts(to, from);
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
    const std::vector<uint8_t> bytes = to_bytes(outcome);
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
  return outcome_from(bytes);
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
      if (recording::ends_segment(event->kind) && reader.number() > 0) last = reader.number() - 1;
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
      add_all_but_sites(all.report, outcome.report);
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
