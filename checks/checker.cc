#include "checks/checker.h"

#include <algorithm>

namespace aftercheck {
namespace {

// The library's own share of a module's ghost variables (vassert-hooks/src/thunks.S): what it holds is of use
// to those of the program only.
constexpr uint64_t kLibraryGhosts = 4096;

bool replaces_program(const recording::Event& event) {
  return std::any_of(event.space_ops.begin(), event.space_ops.end(),
                     [](const recording::SpaceOp& op) { return op.kind == recording::SpaceOpKind::clear; });
}

bool has_ghosts(const SiteModule& module) {
  return std::any_of(module.ghosts.begin(), module.ghosts.end(),
                     [](const Range& range) { return range.size() > kLibraryGhosts; });
}

}  // namespace

void Checker::attach(Replay& replay) {
  replay_ = &replay;
  process_ = replay.meta().process;
  Guest& guest = replay.guest();
  tables_ = std::make_unique<SiteTables>(guest.space(), guest.breakpoints());
  backtraces_ = std::make_unique<Backtraces>(replay);
  if (options_.plan && !options_.hits.all() && !options_.at)
    if (std::unique_ptr<TraceSegments> trace = TraceSegments::open(replay.directory()))
      plan_ = std::make_unique<CheckPlan>(std::move(trace));
}

void Checker::forked() {
  if (excursions_) excursions_->forked();
}

// What was found so far is the parent's.
void Checker::enter_process() {
  process_ = replay_->meta().process;
  for (SiteReport& site : sites_) {
    SiteReport fresh;
    fresh.text = std::move(site.text);
    fresh.module = std::move(site.module);
    fresh.places = std::move(site.places);
    site = std::move(fresh);
  }
  std::fill(own_hits_.begin(), own_hits_.end(), 0);
  several_threads_ = false;
  stops_ = 0;
  counts_ = {};
  if (excursions_) excursions_->reset_counts();
  result_ = {};
}

// Ghost memory goes with them.
void Checker::end_excursions() noexcept {
  if (!excursions_) return;
  ghost_used_ = ghost_used_ || excursions_->memory().ghost_used();
  const Excursions::Counts& counts = excursions_->counts();
  counts_.excursions += counts.excursions;
  counts_.written += counts.written;
  counts_.opened_pages += counts.opened_pages;
  excursions_.reset();
  ghosts_.clear();
}

void Checker::applied(const recording::Event& event, uint64_t number) {
  const bool entered = event.kind == recording::EventKind::start && replay_->meta().process != process_;
  if (entered) enter_process();
  event_ = number;
  time_ns_ = event.time_ns;
  in_segment_.clear();
  arrivals_.clear();
  backtraces_->applied(event, number);
  const bool replaced = replaces_program(event);
  if (replaced) end_excursions();
  bool changed = tables_->update(event.space_ops) || replaced;
  if (changed) take_tables();
  const bool is_threads = event.kind == recording::EventKind::thread_start || event.thread != 0;
  several_threads_ = several_threads_ || is_threads;
  // A trace is one thread's, of one process.
  if (is_threads || entered) {
    changed |= plan_ != nullptr;
    plan_.reset();
  }
  if (!plan_) arm(changed);
}

// With a plan, what is armed is decided anew for each segment.
void Checker::running(uint64_t number) {
  if (!plan_) return;
  planned_ = in_range() && !places_.empty() && !any_feeds_ && plan_segment(number);
  if (!planned_) set_armed(in_range() || any_feeds_ ? all_places() : std::vector<uint64_t>());
}

bool Checker::plan_segment(uint64_t number) {
  // Places of one site share a number, and the trace's counts don't tell their order; and a check arms them
  // all.
  constexpr size_t kMostPlaces = 256;
  if (places_.size() > kMostPlaces) return false;
  std::unordered_set<uint32_t> sites;
  plan_hits_.clear();
  for (const uint64_t address : all_places()) {
    const uint32_t site = places_.at(address).site;
    if (!sites.insert(site).second) return false;
    plan_hits_.push_back({address, own_hits_[site]});
  }
  if (!plan_->plan(number, plan_hits_, options_.hits)) return false;
  const std::optional<uint64_t> stop = plan_->next_stop();
  set_armed(stop ? std::vector{*stop} : std::vector<uint64_t>());
  return true;
}

// All hits of a planned segment have passed, seen or not.
void Checker::reached(const recording::Event&, uint64_t) {
  if (!planned_) return;
  planned_ = false;
  for (size_t i = 0; i < plan_hits_.size(); ++i) {
    const uint32_t site = places_.at(plan_hits_[i].address).site;
    own_hits_[site] += plan_->hits(i);
    sites_[site].hits += plan_->hits(i);
  }
}

void Checker::take_tables() {
  std::unordered_map<uint32_t, uint64_t> first;  // the lowest address of each new site
  for (const auto& [start, module] : tables_->modules())
    for (const auto& [address, place] : module.places)
      if (place.site >= sites_.size()) {
        const auto [known, added] = first.emplace(place.site, address);
        if (!added) known->second = std::min(known->second, address);
      }
  for (size_t number = sites_.size(); number < tables_->sites().size(); ++number) {
    SiteReport& site = sites_.emplace_back();
    site.text = tables_->sites()[number];
    const auto address = first.find(static_cast<uint32_t>(number));
    if (site.text.function.empty() && address != first.end())
      site.text.function = backtraces_->function_at(address->second, event_);
    own_hits_.push_back(0);
    wanted_.push_back(!options_.wanted || options_.wanted(site.text) ? 1 : 0);
  }
  places_.clear();
  any_feeds_ = false;
  for (const auto& [start, module] : tables_->modules()) {
    for (const auto& [address, place] : module.places) {
      SiteReport& site = sites_[place.site];
      if (site.module.empty()) site.module = module.name;
      if (known_places_.emplace(place.site, address).second) site.places.push_back(address);
      const bool feeds = has_ghosts(module);
      if (wanted_[place.site] == 0 && !feeds) continue;
      any_feeds_ |= feeds;
      ghost_there_ |= feeds;
      places_.emplace(address, Place{place.site, place.check, feeds});
    }
  }
  if (!places_.empty() && !excursions_) {
    Guest& guest = replay_->guest();
    ExcursionOptions options = options_.excursion;
    const MachineKind kind = guest.machine().kind();
    options.translated = options.translated && kind != MachineKind::soft && !guest.needs().walls;
    excursions_ = std::make_unique<Excursions>(guest.space(), guest.cpu(), guest.breakpoints(),
                                               std::move(options), static_cast<ExcursionSites&>(*this));
  }
  follow_ghosts();
}

void Checker::follow_ghosts() {
  if (!excursions_) return;
  std::vector<uint64_t> vectors;
  for (const auto& [start, module] : tables_->modules())
    vectors.insert(vectors.end(), module.vectors.begin(), module.vectors.end());
  excursions_->set_vector_words(std::move(vectors));
  std::vector<Range> ghosts;
  for (const auto& [start, module] : tables_->modules())
    ghosts.insert(ghosts.end(), module.ghosts.begin(), module.ghosts.end());
  const auto in = [](const std::vector<Range>& list, Range range) {
    return std::find(list.begin(), list.end(), range) != list.end();
  };
  for (const Range& range : ghosts_)
    if (!in(ghosts, range)) excursions_->memory().forget_ghost_variables(range);
  for (const Range& range : ghosts)
    if (!in(ghosts_, range)) excursions_->memory().add_ghost_variables(range);
  ghosts_ = std::move(ghosts);
}

// Only wanted sites are armed; `changed`: not all of them may be as they were.
void Checker::arm(bool changed) {
  const bool on = !places_.empty() && (in_range() || any_feeds_);
  if (changed || on != !armed_.empty()) set_armed(on ? all_places() : std::vector<uint64_t>());
}

std::vector<uint64_t> Checker::all_places() const {
  std::vector<uint64_t> addresses;
  for (const auto& [address, place] : places_) addresses.push_back(address);
  std::sort(addresses.begin(), addresses.end());
  return addresses;
}

void Checker::set_armed(const std::vector<uint64_t>& addresses) {
  Breakpoints& breakpoints = replay_->guest().breakpoints();
  std::erase_if(armed_, [&](uint64_t address) {
    if (std::binary_search(addresses.begin(), addresses.end(), address)) return false;
    breakpoints.remove(address);
    return true;
  });
  for (const uint64_t address : addresses)
    if (!armed_.contains(address) && breakpoints.add(address)) armed_.insert(address);
}

bool Checker::count(uint64_t address, const Place& place) {
  SiteReport& site = sites_[place.site];
  const bool in = in_range();
  const uint64_t number = own_hits_[place.site] += in, in_segment = in_segment_[place.site] += in;
  site.hits += in;
  const uint64_t arrival = ++arrivals_[address];
  const bool selected = in && options_.hits.includes(number) &&
                        (!options_.at || *options_.at == recording::Arrival{address, arrival});
  const bool reported = selected && wanted_[place.site] != 0;
  if (selected && options_.at_thread) {
    recording::Position position;
    position.event = event_;
    position.thread = options_.at_thread;
    position.instant = *options_.at;
    check_thread(position, replay_->guest().running().number());
  }
  if ((!reported && !place.feeds) || site.endless >= kMostEndless) return false;
  under_way_.push_back({number, in_segment, address, arrival, selected, reported});
  return true;
}

void Checker::stopped(uint64_t address) {
  if (!armed_.contains(address)) return;
  ++stops_;
  if (planned_) return stopped_by_plan(address);
  const auto found = places_.find(address);
  if (found == places_.end() || !count(address, found->second)) return;
  excursions_->run(replay_->guest().vcpu(), address, found->second.check, time_ns_);
}

void Checker::stopped_by_plan(uint64_t address) {
  const std::optional<CheckPlan::Wanted> wanted = plan_->arrived();
  if (wanted && sites_[places_.at(address).site].endless < kMostEndless) {
    set_armed(all_places());  // a check may come by other sites
    const uint64_t in_segment = wanted->number - plan_hits_[wanted->place].hits_before;
    under_way_.push_back({wanted->number, in_segment, address, in_segment});
    excursions_->run(replay_->guest().vcpu(), address, places_.at(address).check, time_ns_);
  }
  const std::optional<uint64_t> stop = plan_->next_stop();
  set_armed(stop ? std::vector{*stop} : std::vector<uint64_t>());
}

// What one check reaches of another is part of it, whichever hits are wanted.
std::optional<uint64_t> Checker::nested_check(uint64_t address) {
  const auto found = places_.find(address);
  if (found == places_.end() || !armed_.contains(address)) return std::nullopt;
  SiteReport& site = sites_[found->second.site];
  const Hit around = under_way_.back();
  const bool reported = around.selected && wanted_[found->second.site] != 0;
  if (reported) ++site.hits;
  if (site.endless >= kMostEndless) return std::nullopt;
  under_way_.push_back({site.hits, in_segment_[found->second.site], around.program_at, around.arrival,
                        around.selected, reported});
  return found->second.check;
}

void Checker::left(const CheckVisit& visit) {
  SiteReport& site = sites_[places_.at(visit.site).site];
  const Hit hit = under_way_.back();
  under_way_.pop_back();
  if (visit.verdict == Verdict::endless) ++site.endless;
  if (!hit.reported) return;
  ++site.checked;
  site.logged += visit.logs.size();
  if (visit.verdict == Verdict::passed) {
    ++site.passed;
    if (visit.logs.empty() && visit.output.empty()) return;
    if (site.logs.size() < options_.most_logs)
      keep(site, visit, hit);
    else
      ++site.logs_dropped;
    return;
  }
  ++(visit.verdict == Verdict::failed ? site.failed : site.broken);
  if (site.failures.size() < options_.most_failures) keep(site, visit, hit);
}

void Checker::keep(SiteReport& site, const CheckVisit& visit, const Hit& which) {
  CheckHit hit;
  hit.number = which.number;
  hit.event = event_;
  hit.process = process_;
  hit.thread = replay_->guest().running().number();
  hit.in_segment = which.in_segment;
  hit.program_at = which.program_at;
  hit.arrival = which.arrival;
  hit.time_ns = time_ns_;
  hit.until_ns = replay_->next_time_ns();
  hit.address = visit.site;
  hit.nested = visit.nested;
  if (visit.nested) hit.reached_by = sites_[places_.at(which.program_at).site].text;
  hit.verdict = visit.verdict;
  hit.detail = visit.detail;
  hit.failures = visit.failures;
  hit.logs = visit.logs;
  hit.output = visit.output;
  hit.dropped = visit.dropped;
  if (visit.verdict != Verdict::passed)
    hit.stack = backtraces_->at(visit.verdict == Verdict::failed ? visit.entered : visit.ended, event_);
  (visit.verdict == Verdict::passed ? site.logs : site.failures).push_back(std::move(hit));
}

void Checker::finished(const ReplayResult& result) { result_ = result; }

void Checker::detach() noexcept {
  end_excursions();
  backtraces_.reset();
  tables_.reset();
  replay_ = nullptr;
}

CheckReport Checker::report() const {
  CheckReport report;
  for (const SiteReport& site : sites_) report.found.push_back(site.text);
  for (size_t number = 0; number < sites_.size(); ++number)
    if (wanted_[number] != 0) {
      report.sites.push_back(sites_[number]);
      report.sites.back().own_hits = own_hits_[number];
    }
  std::sort(report.sites.begin(), report.sites.end(),
            [](const SiteReport& a, const SiteReport& b) { return a.text < b.text; });
  report.ghost_used = ghost_used_;
  report.ghost_there = ghost_there_;
  report.several_threads = several_threads_;
  report.excursions = counts_;
  report.stops = stops_;
  report.replay = result_;
  return report;
}

}  // namespace aftercheck
