#include "pt-replay/pt_synth.h"

#include <chrono>

#include "recording/pt_log.h"
#include "system-calls/system_call_names.h"
#include "tools/output.h"
#include "tools/pt_command.h"

namespace aftercheck::tools {
namespace {

struct Arguments {
  PtSynthOptions options;
  bool json = false, verbose = false;
};

int run(Arguments& arguments, Console& console) {
  console.set_verbose(arguments.verbose);
  PtSynthOptions& options = arguments.options;
  options.system_call_name = system_call_name;
  options.progress = [&](double share, uint64_t events) {
    console.progress(share, fmt::format("event {}", human_count(events)));
  };
  const auto start = std::chrono::steady_clock::now();
  const PtSynthResult result = synthesize_pt(options);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  console.clear_progress();
  const recording::PtSummary summary = recording::summarize_pt(options.directory, 0);
  if (result.losses != 0)
    console.warning(fmt::format("the trace has {} gaps, where the vCPU could not tell how the program got on",
                                human_count(result.losses)));
  console.note(fmt::format("{} branches in {} events became {} of trace, {} in the recording, in {}",
                           human_count(result.branches), human_count(result.replay.events),
                           human_size(summary.aux_bytes), human_size(summary.file_bytes),
                           human_time(took.count())));
  if (!arguments.json) return 0;
  Output output;
  output.json({{"branches", result.branches},
               {"events", result.replay.events},
               {"bytes", summary.aux_bytes},
               {"file_bytes", summary.file_bytes},
               {"gaps", result.losses},
               {"seconds", took.count()}});
  output.flush();
  return 0;
}

}  // namespace

Command add_pt_synth(CLI::App& group) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* app = group.add_subcommand("synth", "Add a trace to a recording that was made without one");
  app->add_option("DIR", arguments->options.directory, "The recording")->required()->type_name("");
  add_machine_option(*app, arguments->options.machine);
  add_untrusted_flag(*app, arguments->options.untrusted);
  app->add_flag("--force", arguments->options.replace, "Replace the trace that is there");
  app->add_flag("--json", arguments->json, "Print what was made as JSON");
  app->add_flag("-v,--verbose", arguments->verbose, "Say on standard error what was made");
  app->footer(
      "The recording is replayed in translated code or on the soft vCPU; the program's output is not\n"
      "shown. The trace appears in the recording when it is whole.\n\n"
      "Examples:\n"
      "  aftercheck pt synth -v recording-ls-1\n"
      "  aftercheck pt synth --force --json recording-ls-1\n\n"
      "Exit status:\n"
      "  0   the trace is in the recording\n"
      "  3   divergence: the replay left the recording; nothing was added\n" +
      std::string(kExitStatusHelp));
  return {app, [arguments](Console& console) { return run(*arguments, console); }, nullptr, {}};
}

}  // namespace aftercheck::tools
