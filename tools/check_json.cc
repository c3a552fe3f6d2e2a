#include "tools/check_writers.h"
#include "tools/unsupported_text.h"

namespace aftercheck::tools {
namespace {

std::string hex(uint64_t address) { return fmt::format("{:#x}", address); }

Json frame_json(const CheckFrame& frame) {
  Json json = {{"address", hex(frame.address)}};
  if (!frame.function.empty()) json["function"] = frame.function;
  if (!frame.module.empty()) json["module"] = frame.module;
  if (!frame.file.empty()) json["file"] = frame.file;
  if (!frame.file.empty()) json["line"] = frame.line;
  if (frame.inlined) json["inlined"] = true;
  return json;
}

Json hit_json(const CheckRun& run, const SiteReport& site, const CheckHit& hit) {
  Json json = {
      {"hit", hit.number},           {"event", hit.event},          {"hit_in_segment", hit.in_segment},
      {"time_ns", hit.time_ns},      {"address", hex(hit.address)}, {"position", position(run, hit)},
      {"verdict", name(hit.verdict)}};
  const CheckedProcess* process = nullptr;
  for (const CheckedProcess& one : run.processes)
    if (one.process.number == hit.process) process = &one;
  if (process != nullptr) {
    json["until_ns"] = hit.until_ns;
    json["process"] = hit.process;
    json["pid"] = process->process.meta.process_id;
    json["command"] = process->process.meta.command;
  }
  if (process != nullptr ? process->several_threads : run.report.several_threads) json["thread"] = hit.thread;
  if (hit.nested) {
    json["nested"] = true;
    json["reached_by"] = place(hit.reached_by);
  }
  if (!hit.detail.empty()) json["detail"] = hit.detail;
  if (!hit.failures.empty()) json["messages"] = hit.failures;
  if (!hit.logs.empty()) json["logs"] = hit.logs;
  if (!hit.output.empty()) json["output"] = hit.output;
  if (hit.dropped != 0) json["text_bytes_dropped"] = hit.dropped;
  if (hit.verdict == Verdict::passed) return json;
  json["stack"] = Json::array();
  for (const CheckFrame& frame : hit.stack) json["stack"].push_back(frame_json(frame));
  json["again"] = again(run, site, hit);
  return json;
}

Json site_json(const CheckRun& run, const SiteReport& site) {
  Json json = {{"file", site.text.file},
               {"line", site.text.line},
               {"kind", kind_name(site.text.kind)},
               {"text", site.text.text},
               {"function", site.text.function},
               {"module", site.module},
               {"places", site.places.size()},
               {"hits", site.hits},
               {"checked", site.checked},
               {"passed", site.passed},
               {"failed", site.failed},
               {"not_completed", site.broken},
               {"log_lines", site.logged},
               {"failures", Json::array()},
               {"logged", Json::array()}};
  for (const CheckHit& hit : site.failures) json["failures"].push_back(hit_json(run, site, hit));
  for (const CheckHit& hit : site.logs) json["logged"].push_back(hit_json(run, site, hit));
  json["logged_hits_dropped"] = site.logs_dropped;
  return json;
}

Json process_json(const CheckedProcess& one) {
  const recording::Meta& meta = one.process.meta;
  Json json;
  json["process"] = one.process.number;
  json["pid"] = meta.process_id;
  if (meta.parent) json["parent"] = {{"process", meta.parent->process}, {"event", meta.parent->event}};
  json["command"] = meta.command;
  json["verdict"] = one.verdict;
  if (!one.error.empty()) json["message"] = one.error;
  json["events"] = one.events;
  json["truncated"] = one.truncated;
  json["hits"] = one.hits;
  json["checked"] = one.checked;
  json["failed"] = one.failures;
  add_unsupported(meta, json);
  return json;
}

}  // namespace

Json check_json(const CheckRun& run) {
  const CheckReport& report = run.report;
  Json json = {{"verdict", run.verdict}};
  if (!run.error.empty()) json["message"] = run.error;
  if (!run.nothing_checked.empty()) json["nothing_checked"] = run.nothing_checked;
  if (!run.remark.empty()) json["remark"] = run.remark;
  json["recording"] = run.recording;
  json["events"] = report.replay.events;
  json["machine"] = aftercheck::name(report.replay.machine);
  json["seconds"] = run.seconds;
  json["truncated"] = report.replay.truncated;
  add_unsupported(run.meta, json);
  json["stops"] = report.stops;
  json["excursions"] = report.excursions.excursions;
  json["pages_opened"] = report.excursions.opened_pages;
  json["ghost_memory"] = report.ghost_used;
  json["sites_found"] = report.found.size();
  for (const CheckedProcess& one : run.processes) json["processes"].push_back(process_json(one));
  json["sites"] = Json::array();
  for (const SiteReport& site : report.sites) json["sites"].push_back(site_json(run, site));
  return json;
}

}  // namespace aftercheck::tools
