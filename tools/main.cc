#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <numeric>

#include "base/error.h"
#include "base/log.h"
#include "base/own_words.h"
#include "base/version.h"
#include "tools/command.h"
#include "tools/console.h"
#include "tools/output.h"

namespace aftercheck::tools {
namespace {

// The options that `app` and its parent know, for hints.
std::vector<std::string> known_words(const CLI::App& app) {
  std::vector<std::string> words;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) words.push_back("--" + name);
    for (const std::string& name : option->get_snames()) words.push_back("-" + name);
  }
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; }))
    words.push_back(sub->get_name());
  return words;
}

// Levenshtein's distance.
size_t distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (const char letter : a) {
    size_t diagonal = row[0]++;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t changed = diagonal + (letter == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({changed, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

// " (did you mean --json?)", or nothing where no word of the parser is close.
std::string suggestion(const CLI::App& app, const std::string& message) {
  const std::string word = message.substr(message.find_last_of(' ') + 1);
  if (word.size() < 3) return "";
  std::string best;
  size_t least = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& known : known_words(app))
    if (const size_t d = distance(word, known); d < least) {
      least = d;
      best = known;
    }
  return best.empty() ? "" : fmt::format(" (did you mean {}?)", best);
}

// What the user named: "pt dump " for that command, "" where there is none yet.
struct Chosen {
  const CLI::App* app;
  std::string path;
};

Chosen chosen_in(const CLI::App& parser) {
  Chosen chosen{&parser, ""};
  for (auto next = parser.get_subcommands(); !next.empty(); next = chosen.app->get_subcommands()) {
    chosen.app = next.front();
    chosen.path += chosen.app->get_name() + " ";
  }
  return chosen;
}

std::string usage_message(const CLI::App& parser, const CLI::ParseError& error) {
  const Chosen chosen = chosen_in(parser);
  std::string message = error.what();
  std::replace(message.begin(), message.end(), '\n', ' ');
  return fmt::format("{}{}; see `aftercheck {}--help`", message, suggestion(*chosen.app, message),
                     chosen.path);
}

// The command that the words from `at` on name, through groups; `at` is then behind its name. Null where an
// option or nothing stands in place of a name. Throws Error(usage) for a name that is none.
const Command* find_command(const std::vector<Command>& commands, const CLI::App& parent,
                            const std::string& path, const std::vector<std::string>& words, size_t& at) {
  if (at >= words.size() || words[at].empty() || words[at][0] == '-') return nullptr;
  const auto found = std::find_if(commands.begin(), commands.end(), [&](const Command& command) {
    return command.app->get_name() == words[at];
  });
  if (found == commands.end())
    fail(ErrorKind::usage, "no command {}{}{}; see `aftercheck {}--help`", path, words[at],
         suggestion(parent, words[at]), path);
  ++at;
  if (found->commands.empty()) return &*found;
  return find_command(found->commands, *found->app, path + found->app->get_name() + " ", words, at);
}

void set_help_flags(const std::vector<Command>& commands) {
  for (const Command& command : commands) {
    command.app->set_help_flag("-h,--help", "Print this help");
    set_help_flags(command.commands);
  }
}

// Cuts a command line where the program's own begins: at `--`, or at the first word that is neither an option
// of `app` nor an option's value. What follows belongs to the program, whatever it looks like.
std::vector<std::string> cut_program(const CLI::App& app, std::vector<std::string>& words, size_t at) {
  auto takes_value = [&](const std::string& name) {
    const CLI::Option* option = app.get_option_no_throw(name);
    return option != nullptr && option->get_items_expected_min() > 0;
  };
  while (at < words.size() && words[at].size() > 1 && words[at][0] == '-' && words[at] != "--") {
    const std::string& word = words[at++];
    if (word[1] == '-') {
      if (takes_value(word)) ++at;  // --name=value holds its own
      continue;
    }
    for (size_t letter = 1; letter < word.size(); ++letter) {
      if (!takes_value(std::string("-") + word[letter])) continue;
      if (letter + 1 == word.size()) ++at;  // -o DIR; in -oDIR the rest is the value
      break;
    }
  }
  at = std::min(at, words.size());
  const size_t end = at;
  if (at < words.size() && words[at] == "--") ++at;
  std::vector<std::string> program(words.begin() + static_cast<long>(at), words.end());
  words.resize(end);
  return program;
}

// Closed standard descriptors would be handed to the next file that is opened, which the guest's output could
// then overwrite.
void fill_standard_descriptors() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (fcntl(fd, F_GETFD) < 0) {
      const int opened = open("/dev/null", O_RDWR);
      if (opened >= 0 && opened != fd) close(opened);
    }
}

int print(const std::string& text) {
  Output output;
  output.text(text);
  output.flush();
  return 0;
}

int run(int argc, char** argv, Console& console) {
  CLI::App parser(
      "Records a run of a program inside a virtual machine and replays it bit for bit, as often as wanted.");
  parser.name("aftercheck");
  parser.set_version_flag("--version", std::string("aftercheck ") + kVersion, "Print the version");
  parser.set_help_flag("-h,--help", "Print this help");
  parser.footer(
      "Try:\n"
      "  aftercheck record -o R -- ls -la     runs `ls -la` and records it in the directory R\n"
      "  aftercheck replay R                  runs it again, exactly as it was, and checks that\n"
      "  aftercheck check R                   runs it again and evaluates its VAsserts\n"
      "  aftercheck checkpoint R              keeps checkpoints in it, for faster starts\n"
      "  aftercheck doctor                    what this machine can do\n"
      "Each command has a --help of its own; the manual is docs/manual.md.");
  const std::vector<Command> commands = {add_record(parser),     add_replay(parser), add_check(parser),
                                         add_checkpoint(parser), add_info(parser),   add_dump(parser),
                                         add_pt(parser),         add_doctor(parser)};
  set_help_flags(commands);

  std::vector<std::string> words(argv + 1, argv + argc);
  size_t behind_name = 0;
  const Command* const command = find_command(commands, parser, "", words, behind_name);
  if (command != nullptr && command->program != nullptr)
    *command->program = cut_program(*command->app, words, behind_name);
  try {
    const bool names_only = command == nullptr && behind_name == words.size();
    std::reverse(words.begin(), words.end());  // as CLI11 wants them
    parser.parse(std::move(words));
    if (names_only) {  // nothing, or a group without one of its commands
      print(parser.help());
      return exit_status(ErrorKind::usage);
    }
  } catch (const CLI::CallForVersion& version) {
    return print(std::string(version.what()) + "\n");
  } catch (const CLI::CallForHelp&) {
    return print(parser.help());  // of the command that was named
  } catch (const CLI::ParseError& error) {
    fail(ErrorKind::usage, "{}", usage_message(parser, error));
  }
  if (command == nullptr)
    fail(ErrorKind::usage, "no command; see `aftercheck {}--help`", chosen_in(parser).path);
  // A recorded program gets its descriptors as they are.
  if (command->program == nullptr) fill_standard_descriptors();
  return command->run(console);
}

}  // namespace

CLI::Option* add_machine_option(CLI::App& app, MachineChoice& choice) {
  static const std::map<std::string, MachineChoice> kChoices = {{"auto", MachineChoice::automatic},
                                                                {"kvm", MachineChoice::kvm},
                                                                {"soft", MachineChoice::soft},
                                                                {"translated", MachineChoice::translated}};
  return app
      .add_option_function<std::string>(
          "--machine", [&choice](const std::string& word) { choice = kChoices.at(word); },
          "What runs the guest: kvm, translated (its code translated to itself, needs no /dev/kvm), soft "
          "(slower, on any host), or auto: kvm where exits are cheap or the processor traces, else "
          "translated "
          "(see `aftercheck doctor`)")
      ->check(CLI::IsMember({"auto", "kvm", "translated", "soft"}).description(""))
      ->type_name("auto|kvm|translated|soft")
      ->default_str("auto");
}

CLI::Option* add_untrusted_flag(CLI::App& app, bool& untrusted) {
  return app.add_flag("--untrusted", untrusted,
                      "The recording is a stranger's: none of its code as translated code, which could "
                      "reach into this process; kvm or soft");
}

const char* const kExitStatusHelp =
    "  2   usage, or bad or unsupported input\n"
    "  4   this host lacks what was asked for (see `aftercheck doctor`)\n"
    "  70  a bug of aftercheck";

}  // namespace aftercheck::tools

int main(int argc, char** argv) {
  using namespace aftercheck;
  keep_standard_error();
  if (const char* topics = std::getenv("AFTERCHECK_LOG")) start_log(topics);
  tools::Console console;
  constexpr const char* kBug = "this is a bug of aftercheck; please report it with the command line";
  try {
    return tools::run(argc, argv, console);
  } catch (const Error& error) {
    console.error(error.what());
    if (error.kind() == ErrorKind::internal) console.error(kBug);
    return exit_status(error.kind());
  } catch (const std::exception& error) {
    console.error(fmt::format("{}; {}", error.what(), kBug));
    return exit_status(ErrorKind::internal);
  }
}
