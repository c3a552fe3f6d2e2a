#include <unistd.h>

#include <map>

#include "base/error.h"
#include "base/version.h"
#include "kvm-recorder/pt_trace.h"
#include "machine/machine_choice.h"
#include "tools/command.h"
#include "tools/doctor.h"
#include "tools/output.h"

namespace aftercheck::tools {
namespace {

struct Report {
  std::vector<Finding> kvm, translated, soft, host;
  bool kvm_usable = false, translated_usable = false, soft_usable = false;

  bool can_record() const { return kvm_usable || translated_usable || soft_usable; }
  // What `--machine auto` takes, and why.
  std::string machine = "none", reason;
  ExitCosts costs;
  std::string costs_file;  // where `--machine auto` finds them; empty: nowhere
};

const std::map<std::string, const char*> kMachineWords = {
    {"kvm", "KVM"}, {"translated", "the host's processor as translated code"}, {"soft", "the soft vCPU"}};

const char* answer(const Finding& finding) { return !finding.works ? "-" : *finding.works ? "yes" : "no"; }

void print_group(const char* title, const std::vector<Finding>& findings, bool colour, Output& output) {
  if (findings.empty()) return;
  output.line(fmt::format("{}{}{}", colour ? "\x1b[1m" : "", title, colour ? "\x1b[0m" : ""));
  for (const Finding& finding : findings) {
    const char* shade = !colour || !finding.works ? "" : *finding.works ? "\x1b[32m" : "\x1b[31m";
    output.line(fmt::format("  {:<52} {}{:<4}{} {}", finding.title, shade, answer(finding),
                            *shade != '\0' ? "\x1b[0m" : "", finding.value));
    if (finding.works == false && !finding.cost.empty()) output.line(fmt::format("      {}", finding.cost));
  }
  output.line("");
}

void print_text(const Report& report, Output& output) {
  const char* no_colour = std::getenv("NO_COLOR");
  const bool colour = isatty(STDOUT_FILENO) != 0 && (no_colour == nullptr || *no_colour == '\0');
  print_group("This host", report.host, colour, output);
  print_group("KVM (--machine kvm)", report.kvm, colour, output);
  print_group("Translated code (--machine translated)", report.translated, colour, output);
  print_group("Soft vCPU (--machine soft)", report.soft, colour, output);
  if (!report.can_record())
    output.line("Programs can't be recorded or replayed on this host.");
  else
    output.line(fmt::format("Programs are recorded and replayed on {} (--machine auto): {}.",
                            kMachineWords.at(report.machine), report.reason));
  if (!report.costs_file.empty())
    output.line(fmt::format("What exits cost is kept in {}.", report.costs_file));
}

Json to_json(const std::vector<Finding>& findings) {
  Json list = Json::array();
  for (const Finding& finding : findings) {
    Json json{{"name", finding.name}, {"title", finding.title}};
    json["works"] = finding.works ? Json(*finding.works) : Json(nullptr);
    json["value"] = finding.value;
    json["needed"] = finding.needed;
    json["cost_if_missing"] = finding.cost;
    list.push_back(std::move(json));
  }
  return list;
}

// Measured anew, also for the recordings to come.
void choose(Report& report) {
  AddressSpace space;
  report.costs = measure_exit_costs(space);
  if (const std::string file = exit_costs_file(); keep_exit_costs(file, report.costs))
    report.costs_file = file;
  const MachineOrder order = machines_in_order({.processor_trace = processor_traces()},
                                               CpuModelKind::portable, [&report] { return report.costs; });
  for (const MachineKind kind : order.kinds) {
    const bool works = kind == MachineKind::kvm          ? report.kvm_usable
                       : kind == MachineKind::translated ? report.translated_usable
                                                         : report.soft_usable;
    if (!works) continue;
    report.machine = name(kind);
    report.reason = kind == order.kinds.front() ? order.reason : "others do not work";
    return;
  }
}

Json to_json(const std::optional<double>& cost) { return cost ? Json(*cost) : Json(nullptr); }

int run(bool json, Console&) {
  Report report;
  report.kvm = examine_machine(MachineKind::kvm);
  report.translated = examine_machine(MachineKind::translated);
  report.soft = examine_machine(MachineKind::soft);
  report.host = examine_host();
  report.kvm_usable = usable(report.kvm);
  report.translated_usable = usable(report.translated);
  report.soft_usable = usable(report.soft);
  choose(report);
  Output output;
  if (json)
    output.json({{"version", kVersion},
                 {"can_record", report.can_record()},
                 {"machine", report.machine},
                 {"reason", report.reason},
                 {"exit_cost_us",
                  {{"kvm", to_json(report.costs.kvm)}, {"translated", to_json(report.costs.translated)}}},
                 {"host", to_json(report.host)},
                 {"kvm", to_json(report.kvm)},
                 {"translated", to_json(report.translated)},
                 {"soft", to_json(report.soft)}});
  else
    print_text(report, output);
  output.flush();
  return report.can_record() ? 0 : exit_status(ErrorKind::host_lacks);
}

}  // namespace

Command add_doctor(CLI::App& parent) {
  auto json = std::make_shared<bool>(false);
  CLI::App* app = parent.add_subcommand("doctor", "Try what this host can do, and say what a lack costs");
  app->add_flag("--json", *json, "Print JSON");
  app->footer(
      "Everything is tried out, by tiny guests and test files in the working directory. What exits cost "
      "is kept for later recordings (--machine auto); nothing else is changed.\n\n"
      "Examples:\n"
      "  aftercheck doctor\n"
      "  aftercheck doctor --json | jq -r .machine\n\n"
      "Exit status:\n"
      "  0   programs can be recorded here, on one of the machines\n"
      "  2   usage\n"
      "  4   they can't\n"
      "  70  a bug of aftercheck");
  return {app, [json](Console& console) { return run(*json, console); }, nullptr};
}

}  // namespace aftercheck::tools
