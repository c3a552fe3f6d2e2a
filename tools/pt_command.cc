#include "tools/pt_command.h"

namespace aftercheck::tools {

Command add_pt(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand("pt", "Look into Intel PT traces");
  app->footer(
      "Traces are in recordings, in the files of `perf record -e intel_pt//u`, or raw.\n"
      "Each command has a --help of its own.");
  return {app,
          {},
          nullptr,
          {add_pt_dump(*app), add_pt_digest(*app), add_pt_flow(*app), add_pt_plan(*app), add_pt_synth(*app)}};
}

}  // namespace aftercheck::tools
