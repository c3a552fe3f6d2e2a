#include <sys/wait.h>

#include <algorithm>
#include <chrono>

#include "base/child_answer.h"
#include "base/error.h"
#include "tools/console.h"
#include "tools/doctor.h"
#include "tools/doctor_guest.h"
#include "tools/output.h"

namespace aftercheck::tools {
namespace {

Json to_json(const Finding& finding) {
  Json json{{"name", finding.name},
            {"title", finding.title},
            {"value", finding.value},
            {"cost", finding.cost},
            {"needed", finding.needed}};
  json["works"] = finding.works ? Json(*finding.works) : Json(nullptr);
  return json;
}

Finding from_json(const Json& json, const char* group) {
  Finding finding{.group = group,
                  .name = json["name"],
                  .title = json["title"],
                  .works = {},
                  .value = json["value"],
                  .cost = json["cost"],
                  .needed = json["needed"]};
  if (!json["works"].is_null()) finding.works = json["works"].get<bool>();
  return finding;
}

struct MachineWords {
  const char* title;
  const char* cost;  // of its lack
};

MachineWords words_for(MachineKind kind) {
  switch (kind) {
    case MachineKind::kvm:
      return {"KVM can run guests", "programs run on the soft vCPU, many times slower, or translated"};
    case MachineKind::translated:
      return {"guests can run as translated code",
              "--machine translated can't be used; without KVM only the slow soft vCPU is left"};
    case MachineKind::soft:
      return {"the soft vCPU can run guests", "programs run on KVM or translated only"};
  }
  return {};
}

Finding usable_at_all(MachineKind kind, const std::string& why_not) {
  const MachineWords words = words_for(kind);
  return {.group = name(kind),
          .name = "usable",
          .title = words.title,
          .works = why_not.empty(),
          .value = why_not,
          .cost = words.cost,
          .needed = true};
}

Finding examine(ProbeGuest& guest, const GuestProbe& probe) {
  Finding finding{.group = {},
                  .name = probe.name,
                  .title = probe.title,
                  .works = {},
                  .value = {},
                  .cost = probe.cost,
                  .needed = probe.needed};
  ProbeAnswer answer;
  try {
    answer = probe.run(guest);
  } catch (const Error& error) {
    answer.why_not = error.what();
  }
  finding.works = answer.why_not.empty();
  finding.value = answer.why_not.empty() ? answer.value : answer.why_not;
  return finding;
}

// Writes one JSON object a line to `out`, each as soon as it is known.
void examine_in_child(MachineKind kind, int out) {
  auto tell = [out](const Finding& finding) {
    const std::string line = to_json(finding).dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    write_all(out, line.data(), line.size());
  };
  try {
    ProbeGuest guest(kind);
    tell(usable_at_all(kind, ""));
    for (const GuestProbe& probe : guest_probes()) tell(examine(guest, probe));
  } catch (const Error& error) {
    tell(usable_at_all(kind, error.what()));
    return;
  }
  if (kind == MachineKind::kvm)
    for (const Finding& finding : examine_kvm_extras()) tell(finding);
}

}  // namespace

std::vector<Finding> examine_machine(MachineKind kind) {
  const ChildAnswer answer =
      answer_of_child(std::chrono::minutes(1), [kind](int out) { examine_in_child(kind, out); });
  const std::string& text = answer.text;
  std::vector<Finding> findings;
  for (size_t at = 0, end = 0; (end = text.find('\n', at)) != std::string::npos; at = end + 1)
    findings.push_back(from_json(Json::parse(text.substr(at, end - at)), name(kind)));
  if (!answer.in_time || answer.wait_status != 0)
    findings.push_back({.group = name(kind),
                        .name = "completed",
                        .title = "all probes came to an end",
                        .works = false,
                        .value = !answer.in_time ? "no answer within a minute"
                                 : WIFSIGNALED(answer.wait_status)
                                     ? fmt::format("killed by signal {}", WTERMSIG(answer.wait_status))
                                     : "unexpected error",
                        .cost = "what comes after this one is unknown",
                        .needed = true});
  return findings;
}

bool usable(const std::vector<Finding>& findings) {
  return std::none_of(findings.begin(), findings.end(),
                      [](const Finding& finding) { return finding.needed && finding.works == false; });
}

}  // namespace aftercheck::tools
