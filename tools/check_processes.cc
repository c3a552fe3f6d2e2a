#include "tools/check_processes.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <map>
#include <new>
#include <optional>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "base/fd.h"

namespace aftercheck::tools {
namespace {

// What each of the processes has to tell, in memory that all of them share.
class SharedResults {
 public:
  // Throws Error(io).
  explicit SharedResults(size_t count)
      : count_(count), file_(memfd_create("results of checks", MFD_CLOEXEC)) {
    void* memory = MAP_FAILED;
    if (file_) memory = mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail(ErrorKind::io, "memory for the results of checks: {}", errno_text(errno));
    table_ = new (memory) Table;
    for (size_t i = 0; i < count_; ++i) new (&places()[i]) Place;
  }
  ~SharedResults() { munmap(table_, bytes()); }
  SharedResults(const SharedResults&) = delete;
  SharedResults& operator=(const SharedResults&) = delete;

  // Once for each, in any process. Throws Error(io).
  void put(size_t number, const std::vector<uint8_t>& result) {
    const uint64_t offset = table_->used.fetch_add(result.size());
    for (size_t done = 0; done < result.size();) {
      const ssize_t written =
          pwrite(file_.get(), &result[done], result.size() - done, static_cast<off_t>(offset + done));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) fail(ErrorKind::io, "memory for the results of checks: {}", errno_text(errno));
      done += static_cast<size_t>(written);
    }
    places()[number].offset = offset;
    places()[number].size.store(result.size());
  }

  // Nothing where none was put. Throws Error(io).
  std::optional<std::vector<uint8_t>> get(size_t number) const {
    const Place& place = places()[number];
    std::vector<uint8_t> result(place.size.load());
    if (result.empty()) return std::nullopt;
    for (size_t done = 0; done < result.size();) {
      const ssize_t got =
          pread(file_.get(), &result[done], result.size() - done, static_cast<off_t>(place.offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) fail(ErrorKind::io, "memory for the results of checks: {}", errno_text(errno));
      done += static_cast<size_t>(got);
    }
    return result;
  }

 private:
  struct Table {
    std::atomic<uint64_t> used{0};  // bytes of the file
  };
  struct Place {
    uint64_t offset = 0;
    std::atomic<uint64_t> size{0};  // 0: not there yet
  };
  const size_t count_;
  UniqueFd file_;
  Table* table_ = nullptr;

  size_t bytes() const { return sizeof(Table) + count_ * sizeof(Place); }
  Place* places() const { return reinterpret_cast<Place*>(table_ + 1); }
};

// The earliest of both. Processes hear of each other by system calls, so in this order each hit comes before
// whatever it can have had a part in.
void join_hits(std::vector<CheckHit>& to, const std::vector<CheckHit>& from, uint64_t most) {
  to.insert(to.end(), from.begin(), from.end());
  std::ranges::stable_sort(to, {}, [](const CheckHit& hit) { return std::tuple(hit.until_ns, hit.process); });
  if (to.size() > most) to.resize(most);
}

void join_site(SiteReport& to, const SiteReport& from, const CheckOptions& check) {
  const uint64_t logs = to.logs.size() + from.logs.size() + to.logs_dropped + from.logs_dropped;
  join_hits(to.failures, from.failures, check.most_failures);
  join_hits(to.logs, from.logs, check.most_logs);
  to.logs_dropped = logs - to.logs.size();
  add_counts(to, from);
}

}  // namespace

std::vector<ProcessOutcome> check_processes(
    const std::vector<recording::Process>& processes, ReplayOptions options, const CheckOptions& check,
    const std::function<void(int stream, const std::byte* bytes, size_t size)>& output) {
  SharedResults results(processes.size());
  Checker checker(check);
  std::optional<Replay> replay;
  ProcessReplays replays(processes, [&](size_t place, const ProcessReplays::Failure* failure) {
    CheckOutcome outcome;
    if (failure != nullptr) {
      outcome.error = failure->message;
      outcome.kind = failure->kind;
    }
    replay->detach(checker);
    outcome.report = checker.report();
    outcome.report.replay = replay->result();
    results.put(place, to_bytes(outcome));
  });
  options.sharing = &replays;
  if (output)
    options.output = [&](int stream, const std::byte* bytes, size_t size) {
      const uint32_t number = processes[replays.own()].number;
      if (check.process.value_or(number) != number) return;
      replays.wait_for_turn();
      output(stream, bytes, size);
    };
  // Each process has this of its own, and one terminal is enough.
  if (options.progress)
    options.progress = [tell = options.progress, &replays](double share, uint64_t events) {
      if (replays.own() == 0) tell(share, events);
    };
  options.participants = {&replays, &checker};
  replay.emplace(options);
  replays.run(*replay);
  replay.reset();

  std::vector<ProcessOutcome> all;
  for (const ProcessReplays::Outcome& told : replays.outcomes()) {
    ProcessOutcome& one = all.emplace_back();
    one.state = told.state;
    if (const auto bytes = results.get(all.size() - 1))
      one.outcome = outcome_from(*bytes);
    else if (told.state != ProcessReplays::State::unreached)
      one.outcome = {.report = {}, .error = told.message, .kind = ErrorKind::io};
  }
  return all;
}

CheckReport join_processes(const std::vector<ProcessOutcome>& outcomes, const CheckOptions& check) {
  CheckReport all;
  std::map<SiteText, SiteReport> sites;
  bool first = true;
  for (const ProcessOutcome& one : outcomes) {
    if (one.state == ProcessReplays::State::unreached) continue;
    const CheckReport& report = one.outcome.report;
    for (const SiteReport& site : report.sites) {
      const auto [known, added] = sites.try_emplace(site.text, site);
      if (!added) join_site(known->second, site, check);
    }
    if (first) {
      all = report;
      first = false;
    } else {
      const bool truncated = all.replay.truncated;
      add_all_but_sites(all, report);
      all.replay.truncated = all.replay.truncated || truncated;
    }
  }
  all.sites.clear();
  for (auto& [text, site] : sites) all.sites.push_back(std::move(site));
  return all;
}

}  // namespace aftercheck::tools
