#include "tools/console.h"

#include <pty.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <string>

#include "base/fd.h"

namespace aftercheck::tools {
namespace {

// What a terminal shows when a process says "early", takes the terminal for itself or not, says "late" while
// "program" is written to it, and lets go of the terminal.
std::string shown(bool takes_it) {
  int master = -1;
  const pid_t child = forkpty(&master, nullptr, nullptr, nullptr);
  REQUIRE(child >= 0);
  if (child == 0) {
    setenv("NO_COLOR", "1", 1);
    Console console;
    console.hold_while_terminal_is_used();
    console.warning("early");
    termios line_mode{};
    tcgetattr(0, &line_mode);
    termios raw = line_mode;
    cfmakeraw(&raw);
    raw.c_oflag = line_mode.c_oflag;
    if (takes_it) tcsetattr(0, TCSANOW, &raw);
    console.warning("late");
    write_all(STDOUT_FILENO, "program\n", 8);
    if (takes_it) tcsetattr(0, TCSANOW, &line_mode);
    console.warning("later");
    console.release();
    console.warning("last");
    _exit(0);
  }
  const UniqueFd terminal(master);
  std::string text;
  char buffer[512];
  // EIO: the other side is closed.
  for (ssize_t size; (size = read(terminal.get(), buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<size_t>(size));
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  return text;
}

}  // namespace

TEST_CASE("messages wait while a program has the terminal for itself, and keep their order") {
  const std::string early = "aftercheck: warning: early\r\n", late = "aftercheck: warning: late\r\n",
                    later = "aftercheck: warning: later\r\n", last = "aftercheck: warning: last\r\n";
  CHECK(shown(true) == early + "program\r\n" + late + later + last);
  CHECK(shown(false) == early + late + "program\r\n" + later + last);
}

}  // namespace aftercheck::tools
