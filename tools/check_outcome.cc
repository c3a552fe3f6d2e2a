#include "tools/check_outcome.h"

#include <algorithm>
#include <iterator>
#include <set>

#include "tools/output.h"

namespace aftercheck::tools {
namespace {

// CBOR, since texts may be any bytes.

Json pack(const SiteText& text) { return {text.file, text.line, text.kind, text.text, text.function}; }

SiteText unpack_text(const Json& json) {
  return {json.at(0), json.at(3), json.at(4), json.at(1), json.at(2)};
}

Json pack(const CheckHit& hit) {
  Json stack = Json::array();
  for (const CheckFrame& f : hit.stack)
    stack.push_back({f.address, f.function, f.module, f.file, f.line, f.inlined});
  return {
      hit.number,   hit.event,    hit.in_segment, hit.arrival,          hit.time_ns,
      hit.address,  hit.nested,   hit.program_at, pack(hit.reached_by), static_cast<unsigned>(hit.verdict),
      hit.detail,   hit.failures, hit.logs,       hit.output,           hit.dropped,
      hit.until_ns, hit.process,  hit.thread,     std::move(stack)};
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
  json.at(at++).get_to(hit.until_ns);
  json.at(at++).get_to(hit.process);
  json.at(at++).get_to(hit.thread);
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
          report.several_threads,
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
  json.at(9).get_to(report.several_threads);
  const Json& replay = json.at(10);
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

}  // namespace

std::vector<uint8_t> to_bytes(const CheckOutcome& outcome) { return Json::to_cbor(pack(outcome)); }

CheckOutcome outcome_from(const std::vector<uint8_t>& bytes) { return unpack(Json::from_cbor(bytes)); }

void add_counts(SiteReport& to, const SiteReport& from) {
  std::set<uint64_t> places(to.places.begin(), to.places.end());
  places.insert(from.places.begin(), from.places.end());
  to.places.assign(places.begin(), places.end());
  to.hits += from.hits;
  to.own_hits += from.own_hits;
  to.checked += from.checked;
  to.passed += from.passed;
  to.failed += from.failed;
  to.broken += from.broken;
  to.endless += from.endless;
  to.logged += from.logged;
}

void add_all_but_sites(CheckReport& to, const CheckReport& from) {
  std::set<SiteText> found(to.found.begin(), to.found.end());
  found.insert(from.found.begin(), from.found.end());
  to.found.assign(found.begin(), found.end());
  to.ghost_used = to.ghost_used || from.ghost_used;
  to.ghost_there = to.ghost_there || from.ghost_there;
  to.several_threads = to.several_threads || from.several_threads;
  to.excursions.excursions += from.excursions.excursions;
  to.excursions.opened_pages += from.excursions.opened_pages;
  to.stops += from.stops;
  const uint64_t events = to.replay.events, digests = to.replay.memory_digests;
  to.replay = from.replay;
  to.replay.events += events;
  to.replay.memory_digests += digests;
}

}  // namespace aftercheck::tools
