// The commands of `aftercheck`. Each adds itself to the parser and gives a function that runs it and returns
// the exit status; errors are thrown as Error.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "machine/vcpu.h"
#include "tools/console.h"

namespace aftercheck::tools {

using Run = std::function<int(Console&)>;

struct Command {
  CLI::App* app = nullptr;
  Run run;
  // The command line of the program to record, which the parser does not see; null where there is none.
  std::shared_ptr<std::vector<std::string>> program;
  // A group such as `pt` has commands of its own instead of `run`.
  std::vector<Command> commands{};
};

Command add_record(CLI::App& parent);
Command add_replay(CLI::App& parent);
Command add_check(CLI::App& parent);
Command add_checkpoint(CLI::App& parent);
Command add_info(CLI::App& parent);
Command add_dump(CLI::App& parent);
Command add_doctor(CLI::App& parent);
Command add_pt(CLI::App& parent);

// --machine, with its values.
CLI::Option* add_machine_option(CLI::App& app, MachineChoice& choice);
// --untrusted, for commands that replay.
CLI::Option* add_untrusted_flag(CLI::App& app, bool& untrusted);

// The sentence on exit statuses that ends every help text.
extern const char* const kExitStatusHelp;

}  // namespace aftercheck::tools
