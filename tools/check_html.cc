// The report as one page: no scripts or styles from elsewhere, readable without either, light and dark.
#include "tools/check_writers.h"
#include "tools/console.h"
#include "tools/unsupported_text.h"

namespace aftercheck::tools {
namespace {

constexpr const char* kStyle = R"css(
:root { color-scheme: light dark; --back: #fbfbfa; --card: #fff; --ink: #1d2329; --soft: #5d6873; --line: #dfe3e7;
  --bad: #b3261e; --bad-back: #fdecea; --good: #1b6e3c; --good-back: #e6f4ea; --odd: #8a5a00; --odd-back: #fff4dc;
  --code: #f3f5f7; --link: #0b57d0; }
@media (prefers-color-scheme: dark) { :root { --back: #14181c; --card: #1c2127; --ink: #e4e8ec; --soft: #9aa5b1;
  --line: #323a43; --bad: #ff8a80; --bad-back: #3c1f1d; --good: #7fd49b; --good-back: #183524; --odd: #ffcb6b;
  --odd-back: #3a2e14; --code: #252c34; --link: #8ab4f8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.25rem 0 .75rem; }
p.sub { color: var(--soft); margin: 0 0 1.25rem; overflow-wrap: anywhere; }
code, pre, td.num, .mono { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .86em; }
code, .mono { overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .7rem .9rem; }
.card b { display: block; font-size: 1.45rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: .85rem; }
.card.bad b { color: var(--bad); } .card.good b { color: var(--good); }
.note { background: var(--odd-back); color: var(--odd); border-radius: .6rem; padding: .6rem .9rem; margin: 1rem 0;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.table { overflow-x: auto; border: 1px solid var(--line); border-radius: .6rem; background: var(--card); }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .45rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
th { font-size: .8rem; color: var(--soft); white-space: nowrap; position: sticky; top: 0; background: var(--card); }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " \25B2"; } th[aria-sort=descending] button::after { content: " \25BC"; }
td.num, th.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.text { min-width: 14rem; } a { color: var(--link); }
.badge { border-radius: 1rem; padding: .05rem .55rem; font-size: .8rem; white-space: nowrap; }
.badge.failed { background: var(--bad-back); color: var(--bad); } .badge.held { background: var(--good-back); color: var(--good); }
.badge.broken { background: var(--odd-back); color: var(--odd); } .badge.never { background: var(--code); color: var(--soft); }
details { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; margin: .6rem 0; }
summary { cursor: pointer; padding: .6rem .9rem; overflow-wrap: anywhere; } details > div { padding: 0 .9rem .8rem; }
details details { border-radius: .4rem; }
pre { background: var(--code); border-radius: .4rem; padding: .6rem .8rem; margin: .5rem 0; overflow-x: auto; }
ol.stack { margin: .4rem 0; padding-left: 2.2rem; } ol.stack span { color: var(--soft); }
input[type=search] { font: inherit; width: 100%; max-width: 26rem; padding: .4rem .7rem; margin: 0 0 .75rem;
  border: 1px solid var(--line); border-radius: .5rem; background: var(--card); color: var(--ink); }
footer { color: var(--soft); font-size: .85rem; margin-top: 2.5rem; }
@media print { input[type=search] { display: none; } }
)css";

constexpr const char* kScript = R"js(
"use strict";
const table = document.getElementById("sites");
if (table) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => { const cell = row.cells[column]; return cell.dataset.key ?? cell.textContent; };
  const sort = (column, up) => {
    const rows = [...body.rows], number = heads[column].classList.contains("num") || heads[column].dataset.number;
    rows.sort((a, b) => { const x = key(a, column), y = key(b, column);
      const order = number ? Number(x) - Number(y) : x.localeCompare(y, undefined, { numeric: true });
      return up ? order : -order; });
    body.append(...rows);
    heads.forEach((head, i) => head.setAttribute("aria-sort", i !== column ? "none" : up ? "ascending" : "descending"));
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button"; button.textContent = head.textContent; head.replaceChildren(button);
    button.addEventListener("click", () => sort(column, head.getAttribute("aria-sort") !== "ascending"));
  });
  const search = document.getElementById("search");
  search.hidden = false;
  search.addEventListener("input", () => { const words = search.value.toLowerCase().split(/\s+/);
    for (const row of body.rows) { const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word)); } });
}
const reveal = () => { const at = document.getElementById(location.hash.slice(1)); if (at) at.open = true; };
addEventListener("hashchange", reveal); reveal();
)js";

// For text and for attributes. Bytes that can't be shown become U+FFFD.
std::string escaped(const std::string& bytes) {
  // The JSON library knows UTF-8: what it replaces is what browsers would.
  const Json text = bytes;
  const std::string utf8 =
      Json::parse(text.dump(-1, ' ', false, Json::error_handler_t::replace)).get<std::string>();
  std::string result;
  for (const char letter : utf8) {
    constexpr unsigned char kSpace = 0x20, kDelete = 0x7f;
    const auto byte = static_cast<unsigned char>(letter);
    switch (letter) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      case '\n':
      case '\t':
        result += letter;
        break;
      default:
        if (byte < kSpace || byte == kDelete)
          result += "\xef\xbf\xbd";
        else
          result += letter;
    }
  }
  return result;
}

std::string seconds(uint64_t ns) { return fmt::format("{:.6f} s", static_cast<double>(ns) / 1e9); }

struct State {
  const char* shown;
  const char* style;
  int order;  // the worst first
};
State state_of(const SiteReport& site) {
  if (site.failed != 0) return {"failed", "failed", 0};
  if (site.broken != 0) return {"not completed", "broken", 1};
  if (site.checked == 0) return {site.hits == 0 ? "never hit" : "not checked", "never", 2};
  return {"held", "held", 3};
}

std::string card(const char* style, uint64_t value, const char* what) {
  return fmt::format("<div class=\"card {}\"><b>{}</b><span>{}</span></div>\n", style, human_count(value),
                     what);
}

std::string row(const SiteReport& site, size_t number) {
  const State state = state_of(site);
  const bool has_details = !site.failures.empty() || !site.logs.empty();
  const std::string where = escaped(place(site.text));
  const auto cell = [](uint64_t value) {
    return fmt::format("<td class=\"num\" data-key=\"{}\">{}</td>", value, human_count(value));
  };
  return fmt::format(
      "<tr><td data-key=\"{}\"><span class=\"badge {}\">{}</span></td><td class=\"text\"><code>{}</code></td>"
      "<td class=\"mono\">{}</td><td class=\"mono\">{}</td>{}{}{}{}{}</tr>\n",
      state.order, state.style, state.shown, escaped(title(site.text)),
      has_details ? fmt::format("<a href=\"#site-{}\">{}</a>", number, where) : where,
      escaped(site.text.function), cell(site.hits), cell(site.checked), cell(site.failed), cell(site.broken),
      cell(site.logged));
}

std::string stack_html(const std::vector<CheckFrame>& stack) {
  if (stack.empty()) return "";
  std::string html = "<ol class=\"stack mono\" start=\"0\">\n";
  for (const CheckFrame& frame : stack) {
    const std::string name = frame.function.empty() ? fmt::format("{:#x}", frame.address) : frame.function;
    const std::string where = !frame.file.empty()    ? fmt::format("{}:{}", frame.file, frame.line)
                              : frame.module.empty() ? ""
                                                     : "in " + frame.module;
    html += fmt::format("<li>{} <span title=\"{:#x} {}\">{}{}</span></li>\n", escaped(name), frame.address,
                        escaped(frame.module), escaped(where), frame.inlined ? " (inlined)" : "");
  }
  return html + "</ol>\n";
}

std::string texts(const CheckHit& hit) {
  std::string html;
  for (const std::string& message : hit.failures)
    if (!message.empty()) html += "<pre>" + escaped(message) + "</pre>\n";
  if (!hit.detail.empty())
    html += "<pre>" + escaped(fmt::format("{}: {}", name(hit.verdict), hit.detail)) + "</pre>\n";
  for (const std::string& line : hit.logs) html += "<pre>log: " + escaped(line) + "</pre>\n";
  if (!hit.output.empty()) html += "<pre>" + escaped(hit.output) + "</pre>\n";
  if (hit.dropped != 0) html += fmt::format("<p>({} more bytes of text)</p>\n", human_count(hit.dropped));
  return html;
}

std::string failure(const CheckRun& run, const SiteReport& site, const CheckHit& hit, bool open) {
  return fmt::format(
      "<details{}><summary>hit {}{}{}, after event {}, at {}</summary><div>\n{}{}"
      "<p>Again: <code>{}</code></p></div></details>\n",
      open ? " open" : "", human_count(hit.number), escaped(whose(run, hit)),
      hit.nested ? " (within another check)" : "", human_count(hit.event), seconds(hit.time_ns), texts(hit),
      stack_html(hit.stack), escaped(again(run, site, hit)));
}

std::string details(const CheckRun& run, const SiteReport& site, size_t number) {
  const State state = state_of(site);
  std::string html = fmt::format(
      "<details id=\"site-{}\"{}><summary><span class=\"badge {}\">{}</span> <code>{}</code> <span "
      "class=\"mono\">{}"
      "</span></summary><div>\n<p>{} hits, {} checked, {} failed, {} not completed. {} {}</p>\n",
      number, has_failed(site) ? " open" : "", state.style, state.shown, escaped(title(site.text)),
      escaped(place(site.text)), human_count(site.hits), human_count(site.checked), human_count(site.failed),
      human_count(site.broken),
      site.text.function.empty() ? "" : "In <code>" + escaped(site.text.function) + "</code>,",
      "<code>" + escaped(site.module) + "</code>");
  bool first = true;
  for (const CheckHit& hit : site.failures) {
    html += failure(run, site, hit, first);
    first = false;
  }
  const uint64_t more = site.failed + site.broken - site.failures.size();
  if (more != 0) html += fmt::format("<p>... and {} more (--limit-failures)</p>\n", human_count(more));
  if (!site.logs.empty()) {
    html +=
        "<div class=\"table\"><table><thead><tr><th class=\"num\">Hit</th><th "
        "class=\"num\">Time</th><th>Text</th>"
        "</tr></thead><tbody>\n";
    for (const CheckHit& hit : site.logs) {
      std::string text;
      for (const std::string& line : hit.logs) text += (text.empty() ? "" : "\n") + line;
      text += (text.empty() ? "" : "\n") + hit.output;
      html += fmt::format(
          "<tr><td class=\"num\">{}</td><td class=\"num\">{}</td><td class=\"mono\">{}</td></tr>\n",
          human_count(hit.number), seconds(hit.time_ns), escaped(text));
    }
    html += "</tbody></table></div>\n";
    if (site.logs_dropped != 0)
      html +=
          fmt::format("<p>... and {} more hits with logs or output</p>\n", human_count(site.logs_dropped));
  }
  return html + "</div></details>\n";
}

std::string overview(const CheckReport& report) {
  uint64_t failed = 0, hits = 0, checked = 0, failures = 0, never = 0;
  for (const SiteReport& site : report.sites) {
    failed += has_failed(site) ? 1 : 0;
    never += site.hits == 0 ? 1 : 0;
    hits += site.hits;
    checked += site.checked;
    failures += site.failed + site.broken;
  }
  return "<div class=\"cards\">\n" + card("", report.sites.size(), "VAsserts") +
         card(failed == 0 ? "good" : "bad", failed, "of them failed") + card("", never, "never hit") +
         card("", hits, "hits") + card("", checked, "hits checked") +
         card(failures == 0 ? "good" : "bad", failures, "hits failed") + "</div>\n";
}

}  // namespace

std::string check_html(const CheckRun& run) {
  const CheckReport& report = run.report;
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>VAsserts of "
      "{0}</title>\n"
      "<style>{1}</style>\n</head>\n<body>\n<main>\n<h1>{2}</h1>\n<p class=\"sub\">Recording "
      "<code>{0}</code>, "
      "{3} events, replayed on {4} in {5}</p>\n",
      escaped(run.recording), kStyle,
      run.verdict == "held"     ? "Every VAssert held"
      : run.verdict == "failed" ? "VAsserts failed"
                                : "The replay did not reach the end",
      human_count(report.replay.events), aftercheck::name(report.replay.machine), human_time(run.seconds));
  html += overview(report);
  for (const std::string* note : {&run.error, &run.remark})
    if (!note->empty()) html += "<div class=\"note\">" + escaped(*note) + "</div>\n";
  for (const std::string& warning : unsupported_warnings(run.meta))
    html += "<div class=\"note\">" + escaped(warning) + "</div>\n";
  if (!run.processes.empty()) {
    html += "<h2>Processes</h2>\n<ul>\n";
    for (const CheckedProcess& one : run.processes) html += "<li>" + escaped(summary(one)) + "</li>\n";
    html += "</ul>\n";
  }
  if (!report.sites.empty()) {
    html +=
        "<h2>Sites</h2>\n<input type=\"search\" id=\"search\" placeholder=\"Filter\" aria-label=\"Filter\" "
        "hidden>\n"
        "<div class=\"table\"><table id=\"sites\"><thead><tr><th "
        "data-number=\"1\">Result</th><th>Expression</th>"
        "<th>Place</th><th>Function</th><th class=\"num\">Hits</th><th class=\"num\">Checked</th>"
        "<th class=\"num\">Failed</th><th class=\"num\">Not completed</th><th class=\"num\">Log "
        "lines</th></tr></thead>"
        "<tbody>\n";
    for (size_t i = 0; i < report.sites.size(); ++i) html += row(report.sites[i], i);
    html += "</tbody></table></div>\n";
  }
  for (const bool failed : {true, false}) {
    std::string part;
    for (size_t i = 0; i < report.sites.size(); ++i) {
      const SiteReport& site = report.sites[i];
      if (has_failed(site) == failed && (failed || !site.logs.empty())) part += details(run, site, i);
    }
    if (!part.empty()) html += fmt::format("<h2>{}</h2>\n", failed ? "Failures" : "Logs") + part;
  }
  return html + "<footer>Made by aftercheck check.</footer>\n</main>\n<script>" + kScript +
         "</script>\n</body>\n</html>\n";
}

}  // namespace aftercheck::tools
