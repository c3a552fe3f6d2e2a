#include "tools/check_jobs.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <map>

#include "base/fd.h"
#include "recording/reader.h"
#include "tools/console.h"
#include "tools/output.h"

namespace aftercheck::tools {
namespace {

// --- between the processes: CBOR, since texts may be any bytes ---

Json pack(const CheckHit& hit) {
  Json stack = Json::array();
  for (const CheckFrame& f : hit.stack)
    stack.push_back({f.address, f.function, f.module, f.file, f.line, f.inlined});
  return {hit.number,
          hit.event,
          hit.in_segment,
          hit.time_ns,
          hit.address,
          hit.nested,
          static_cast<unsigned>(hit.verdict),
          hit.detail,
          hit.failures,
          hit.logs,
          hit.output,
          hit.dropped,
          std::move(stack)};
}

CheckHit unpack_hit(const Json& json) {
  CheckHit hit;
  size_t at = 0;
  json.at(at++).get_to(hit.number);
  json.at(at++).get_to(hit.event);
  json.at(at++).get_to(hit.in_segment);
  json.at(at++).get_to(hit.time_ns);
  json.at(at++).get_to(hit.address);
  json.at(at++).get_to(hit.nested);
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
                     s.hits, s.checked, s.passed, s.failed, s.broken, s.endless, s.logged, s.logs_dropped,
                     pack(s.failures), pack(s.logs)});
  const ReplayResult& r = report.replay;
  return {outcome.error,
          static_cast<unsigned>(outcome.kind),
          std::move(sites),
          report.sites_found,
          report.ghost_used,
          report.excursions.excursions,
          report.excursions.opened_pages,
          report.stops,
          {r.events, r.memory_digests, static_cast<unsigned>(r.machine), r.truncated, r.truncation,
           r.signaled, r.status}};
}

SiteReport unpack_site(const Json& json) {
  SiteReport s;
  size_t at = 0;
  for (std::string* text : {&s.text.file, &s.text.text, &s.text.function}) json.at(at++).get_to(*text);
  json.at(at++).get_to(s.text.line);
  json.at(at++).get_to(s.text.kind);
  json.at(at++).get_to(s.module);
  for (uint64_t* count : {&s.places, &s.hits, &s.checked, &s.passed, &s.failed, &s.broken, &s.endless,
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
  json.at(3).get_to(report.sites_found);
  json.at(4).get_to(report.ghost_used);
  json.at(5).get_to(report.excursions.excursions);
  json.at(6).get_to(report.excursions.opened_pages);
  json.at(7).get_to(report.stops);
  const Json& replay = json.at(8);
  ReplayResult& r = report.replay;
  replay.at(0).get_to(r.events);
  replay.at(1).get_to(r.memory_digests);
  r.machine = static_cast<MachineKind>(replay.at(2).get<unsigned>());
  replay.at(3).get_to(r.truncated);
  replay.at(4).get_to(r.truncation);
  replay.at(5).get_to(r.signaled);
  replay.at(6).get_to(r.status);
  return outcome;
}

// --- joining ---

void join_hits(std::vector<CheckHit>& to, std::vector<CheckHit>&& from, uint64_t before, uint64_t most) {
  for (CheckHit& hit : from) {
    if (to.size() == most) return;
    hit.number += before;
    to.push_back(std::move(hit));
  }
}

void join(SiteReport& to, SiteReport&& from, uint64_t most_failures, uint64_t most_logs) {
  const uint64_t logs = to.logs.size() + from.logs.size() + to.logs_dropped + from.logs_dropped;
  join_hits(to.failures, std::move(from.failures), to.hits, most_failures);
  join_hits(to.logs, std::move(from.logs), to.hits, most_logs);
  to.logs_dropped = logs - to.logs.size();
  to.places = std::max(to.places, from.places);
  to.hits += from.hits;
  to.checked += from.checked;
  to.passed += from.passed;
  to.failed += from.failed;
  to.broken += from.broken;
  to.endless += from.endless;
  to.logged += from.logged;
}

struct Job {
  pid_t process = -1;
  UniqueFd answer;
};

Job start(EventSpan part, unsigned number, const std::function<CheckOutcome(EventSpan, unsigned)>& check) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) fail(ErrorKind::io, "a pipe for a job: {}", errno_text(errno));
  Job job;
  job.answer.reset(ends[0]);
  UniqueFd answer(ends[1]);
  job.process = fork();
  if (job.process < 0) fail(ErrorKind::io, "a process for a job: {}", errno_text(errno));
  if (job.process != 0) return job;
  job.answer.reset();
  int status = 1;
  try {
    const std::vector<uint8_t> bytes = Json::to_cbor(pack(check(part, number)));
    status = write_all(answer.get(), bytes.data(), bytes.size()) == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    CheckOutcome outcome;
    outcome.error = error.what();
    const std::vector<uint8_t> bytes = Json::to_cbor(pack(outcome));
    status = write_all(answer.get(), bytes.data(), bytes.size()) == 0 ? 0 : 1;
  }
  _exit(status);
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

}  // namespace

std::vector<EventSpan> split_events(const std::filesystem::path& directory, EventSpan span, unsigned jobs) {
  recording::Reader reader(directory);
  uint64_t last = 0;
  while (reader.next() != nullptr) last = reader.number();
  last = std::min(last, span.last);
  if (last < span.first) return {span};
  const uint64_t count = last - span.first + 1;
  std::vector<EventSpan> parts;
  for (unsigned i = 0; i < jobs; ++i) {
    const uint64_t from = span.first + count * i / jobs, to = span.first + count * (i + 1) / jobs;
    if (from < to) parts.push_back({from, to - 1});
  }
  parts.back().last = span.last;
  return parts;
}

CheckOutcome check_in_parts(const std::vector<EventSpan>& parts, uint64_t most_failures, uint64_t most_logs,
                            const std::function<CheckOutcome(EventSpan part, unsigned number)>& check) {
  std::vector<Job> jobs;
  for (const EventSpan& part : parts) jobs.push_back(start(part, static_cast<unsigned>(jobs.size()), check));
  std::vector<CheckOutcome> outcomes;
  for (Job& job : jobs) outcomes.push_back(outcome_of(job));
  CheckOutcome& all = outcomes.front();
  std::map<SiteText, SiteReport> sites;
  for (CheckOutcome& outcome : outcomes) {
    for (SiteReport& site : outcome.report.sites) {
      const auto [known, added] = sites.try_emplace(site.text);
      if (added)
        known->second = std::move(site);
      else
        join(known->second, std::move(site), most_failures, most_logs);
    }
    if (&outcome == &all) continue;
    all.report.sites_found = std::max(all.report.sites_found, outcome.report.sites_found);
    all.report.ghost_used = all.report.ghost_used || outcome.report.ghost_used;
    all.report.excursions.excursions += outcome.report.excursions.excursions;
    all.report.excursions.opened_pages += outcome.report.excursions.opened_pages;
    all.report.stops += outcome.report.stops;
    if (all.error.empty() && !outcome.error.empty()) {
      all.error = outcome.error;
      all.kind = outcome.kind;
    }
  }
  all.report.sites.clear();
  for (auto& [text, site] : sites) all.report.sites.push_back(std::move(site));
  return std::move(all);
}

}  // namespace aftercheck::tools
