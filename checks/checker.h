// Evaluates VAsserts while a recording is replayed.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "checks/check_backtrace.h"
#include "checks/check_plan.h"
#include "checks/check_report.h"
#include "checks/check_sites.h"
#include "checks/excursion.h"
#include "replay-engine/replay.h"

namespace aftercheck {

struct CheckOptions {
  ExcursionOptions excursion;
  HitSelection hits;
  // Hits are those in this process; nothing: in whichever is replayed.
  std::optional<uint32_t> process;
  // Hits are those in the segments after these events, both included.
  uint64_t first_event = 0, last_event = UINT64_MAX;
  // Only this hit: the segment is first_event's.
  std::optional<recording::Arrival> at;
  std::optional<uint32_t> at_thread;  // whose it must be then; Error(usage) where it is another's
  // Which sites. Null: all.
  std::function<bool(const SiteText&)> wanted;
  // Hits with details that are kept for each site.
  uint64_t most_failures = 10, most_logs = 1000;
  // Where only some hits are wanted and the recording has a trace, the guest stops where a plan says, and not
  // at every hit. The report is the same but for `stops`.
  bool plan = true;
};

// Register it as a participant of one replay. Where that goes on with a child process (Replay::enter()) it
// counts and reports anew, and the report is of that process alone; ghost state is as the parent's was at the
// fork, as all memory is. A program that is executed has none yet.
class Checker : public Participant, private ExcursionSites {
 public:
  explicit Checker(CheckOptions options) : options_(std::move(options)) {}

  void attach(Replay& replay) override;
  void applied(const recording::Event& event, uint64_t number) override;
  void running(uint64_t number) override;
  void reached(const recording::Event& event, uint64_t number) override;
  void stopped(uint64_t address) override;
  void finished(const ReplayResult& result) override;
  void forked() override;
  void detach() noexcept override;

  // Is, or was, a module there that has ghost variables of its own?
  bool ghost_there() const { return ghost_there_; }
  // After detach(), and also when the replay ended in an error: of what was reached.
  CheckReport report() const;

 private:
  struct Place {
    uint32_t site = 0;
    uint64_t check = 0;
    // Its module has ghost variables, so the check may be needed by later ones: it is run in any case, and
    // only reported if it is wanted.
    bool feeds = false;
  };
  struct Hit {
    uint64_t number = 0, in_segment = 0;
    uint64_t program_at = 0, arrival = 0;  // as CheckHit has them
    bool selected = true;                  // by HitSelection, range of events and `at`
    bool reported = true;                  // selected, and the site is wanted
  };

  const CheckOptions options_;
  Replay* replay_ = nullptr;
  std::unique_ptr<SiteTables> tables_;
  std::unique_ptr<Backtraces> backtraces_;
  std::unique_ptr<Excursions> excursions_;      // made when the first site is armed
  std::unordered_map<uint64_t, Place> places_;  // sites to run that are mapped, by address
  bool any_feeds_ = false;                      // among them
  std::unordered_set<uint64_t> armed_;
  std::vector<Range> ghosts_;
  uint32_t process_ = 0;
  std::vector<SiteReport> sites_;  // by number; of unwanted sites too
  std::vector<char> wanted_;       // by number of the site
  // Site and address: libraries that come and go may have sites at the same address.
  std::set<std::pair<uint32_t, uint64_t>> known_places_;
  std::unordered_map<uint32_t, uint64_t> in_segment_;  // hits since event_, by site
  std::vector<Hit> under_way_;                         // the checks that have not ended yet
  std::unordered_map<uint64_t, uint64_t> arrivals_;    // since event_, by address
  uint64_t event_ = 0, time_ns_ = 0;
  bool several_threads_ = false;
  std::vector<uint64_t> own_hits_;           // by site: without those that other checks reached
  std::unique_ptr<CheckPlan> plan_;          // where a trace may spare stops
  bool planned_ = false;                     // the segment under way is
  std::vector<CheckPlan::Place> plan_hits_;  // its places
  uint64_t stops_ = 0;
  ReplayResult result_;
  Excursions::Counts counts_;
  bool ghost_used_ = false, ghost_there_ = false;

  bool in_range() const {
    return event_ >= options_.first_event && event_ <= options_.last_event &&
           options_.process.value_or(process_) == process_;
  }
  void enter_process();
  void end_excursions() noexcept;
  void take_tables();
  void follow_ghosts();
  void arm(bool changed);
  // Arms just these.
  void set_armed(const std::vector<uint64_t>& addresses);
  std::vector<uint64_t> all_places() const;
  // Counts a hit of the program's own; true when it is to be checked.
  bool count(uint64_t address, const Place& place);
  void stopped_by_plan(uint64_t address);
  bool plan_segment(uint64_t number);
  std::optional<uint64_t> nested_check(uint64_t address) override;
  void left(const CheckVisit& visit) override;
  void keep(SiteReport& site, const CheckVisit& visit, const Hit& which);
};

}  // namespace aftercheck
