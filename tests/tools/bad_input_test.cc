// Bad input of all kinds: each gives its exit status and a message that names what is wrong. A new case is a
// line in kCases, and a maker where it needs a file.
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <functional>
#include <nlohmann/json.hpp>

#include "tool_runner.h"

namespace aftercheck::test {
namespace {

namespace fs = std::filesystem;
using Maker = void (*)(const Workplace&);

void nothing(const Workplace&) {}
void text_file(const Workplace& place) { write_file(place / "file", "just text\n", 0644); }
void text_program(const Workplace& place) { write_file(place / "file", "\x01\x02 no program\n", 0755); }
void empty_program(const Workplace& place) { write_file(place / "file", "", 0755); }
void folder(const Workplace& place) { fs::create_directory(place / "file"); }
void arm_program(const Workplace& place) {
  write_file(place / "file", TinyElf{.machine = 183, .interpreter = "", .code = "code"}.bytes(), 0755);
}
void program_32_bits(const Workplace& place) {
  write_file(place / "file", TinyElf{.elf_class = 1, .machine = 3, .interpreter = "", .code = "code"}.bytes(),
             0755);
}
void program_without_loader(const Workplace& place) {
  write_file(place / "file", TinyElf{.interpreter = "/no/such/ld.so", .code = "code"}.bytes(), 0755);
}
void program_cut_short(const Workplace& place) {
  write_file(place / "file", hello_program().substr(0, 70), 0755);
}
void script_without_shell(const Workplace& place) { write_file(place / "file", "#!/no/such/shell\n", 0755); }
void unreadable_program(const Workplace& place) { write_file(place / "file", hello_program(), 0111); }
void full_folder(const Workplace& place) { record_hello(place); }
void file_for_recording(const Workplace& place) {
  write_file(place / "hello", hello_program(), 0755);
  write_file(place / "recording", "in the way\n");
}

// Recordings, each spoilt in one way.
void no_meta(const Workplace& place) { fs::create_directory(place / "recording"); }
void no_events(const Workplace& place) {
  record_hello(place);
  fs::remove(place / "recording/events");
}
void bad_meta(const Workplace& place) {
  record_hello(place);
  write_file(place / "recording/meta", "{\"format_version\": ");
}
void set_meta(const Workplace& place, const char* field, const nlohmann::json& value) {
  record_hello(place);
  nlohmann::json meta = nlohmann::json::parse(read_file(place / "recording/meta"));
  meta[field] = value;
  write_file(place / "recording/meta", meta.dump());
}
void newer_version(const Workplace& place) { set_meta(place, "format_version", 4711); }
void other_cpu(const Workplace& place) { set_meta(place, "cpu_model", "z80"); }
void damaged_log(const Workplace& place) {
  record_hello(place);
  std::string events = read_file(place / "recording/events");
  events[events.size() / 2] = static_cast<char>(events[events.size() / 2] ^ 0x55);
  write_file(place / "recording/events", events);
}
void not_a_log(const Workplace& place) {
  record_hello(place);
  write_file(place / "recording/events", std::string(4096, 'x'));
}
void no_blobs(const Workplace& place) {
  record_hello(place);
  for (const auto& entry : fs::recursive_directory_iterator(place / "recording/store"))
    if (entry.is_regular_file()) {
      chmod(entry.path().c_str(), 0644);
      write_file(entry.path(), "other");
    }
}

struct Case {
  const char* name;
  Maker make;
  std::vector<std::string> arguments;
  int status;
  std::vector<const char*> fragments;  // of standard error
  bool as_nobody = false;
};

// clang-format off
const std::vector<Case> kCases = {
    // the command line
    {"unknown command", nothing, {"recrod"}, 2, {"no command recrod", "did you mean record?"}},
    {"unknown option", nothing, {"--frobnicate"}, 2, {"--frobnicate", "aftercheck --help"}},
    {"unknown option of record", nothing, {"record", "--machin", "soft", "ls"}, 2, {"--machin", "did you mean --machine?", "record --help"}},
    {"unknown option of replay", nothing, {"replay", "--jsn", "recording"}, 2, {"--jsn", "did you mean --json?"}},
    {"unknown option of doctor", nothing, {"doctor", "now"}, 2, {"now"}},
    {"unknown machine", nothing, {"record", "--machine", "vax", "ls"}, 2, {"--machine", "vax", "kvm"}},
    {"unknown cpu", nothing, {"record", "--cpu=z80", "ls"}, 2, {"--cpu", "z80", "portable"}},
    {"a processor that the soft vCPU lacks", nothing, {"record", "--cpu", "v3", "--machine", "soft", "true"}, 4, {"--cpu v3"}},
    {"a trace by the soft vCPU of a processor that it lacks", nothing, {"record", "--cpu=v3", "--pt=soft", "--machine=soft", "true"}, 4, {"--cpu v3"}},
    {"unknown answer to calls that can't be recorded", nothing, {"record", "--on-unsupported", "cry", "ls"}, 2, {"--on-unsupported", "stop"}},
    {"unknown permission", nothing, {"record", "--allow", "everything", "ls"}, 2, {"--allow", "kill-all"}},
    {"unknown answer to log errors", nothing, {"record", "--on-log-error", "cry", "ls"}, 2, {"--on-log-error", "stop"}},
    {"option without value", nothing, {"record", "-o"}, 2, {"-o"}},
    {"no program", nothing, {"record"}, 2, {"no program to record"}},
    {"no program after --", nothing, {"record", "-v", "--"}, 2, {"no program to record"}},
    {"no recording named", nothing, {"replay"}, 2, {"DIR is required"}},
    {"number that is none", nothing, {"dump", "--from", "soon", "recording"}, 2, {"--from", "soon"}},
    {"two recordings", nothing, {"info", "a", "b"}, 2, {"b"}},
    // programs
    {"no such program", nothing, {"record", "./file"}, 2, {"./file", "ENOENT"}},
    {"no such program in PATH", nothing, {"record", "no-such-program-4711"}, 2, {"no-such-program-4711", "not found in PATH"}},
    {"not executable", text_file, {"record", "./file"}, 2, {"./file", "not executable"}},
    {"directory as program", folder, {"record", "./file"}, 2, {"./file", "directory"}},
    {"not an ELF file", text_program, {"record", "./file"}, 2, {"./file", "ELF"}},
    {"empty program", empty_program, {"record", "./file"}, 2, {"./file"}},
    {"program for another processor", arm_program, {"record", "./file"}, 2, {"./file", "x86-64"}},
    {"program of 32 bits", program_32_bits, {"record", "./file"}, 2, {"./file", "64"}},
    {"program cut short", program_cut_short, {"record", "./file"}, 2, {"./file"}},
    {"missing loader", program_without_loader, {"record", "./file"}, 2, {"/no/such/ld.so", "ENOENT"}},
    {"missing interpreter of a script", script_without_shell, {"record", "./file"}, 2, {"/no/such/shell", "ENOENT"}},
    {"unreadable program", unreadable_program, {"record", "-o", "/dev/shm/aftercheck-never-made", "./file"}, 2, {"./file", "EACCES"}, true},
    // where recordings go
    {"recording exists", full_folder, {"record", "-o", "recording", "./hello"}, 2, {"recording", "exists already", "-o"}},
    {"file where the recording goes", file_for_recording, {"record", "-o", "recording", "./hello"}, 2, {"recording", "exists already"}},
    {"recording where none can be", full_folder, {"record", "-o", "/proc/recording", "./hello"}, 2, {"/proc/recording"}},
    // recordings
    {"replay of nothing", nothing, {"replay", "recording"}, 2, {"recording", "not a recording"}},
    {"replay of a folder", no_meta, {"replay", "recording"}, 2, {"recording", "not a recording", "meta"}},
    {"info of a folder", no_meta, {"info", "recording"}, 2, {"not a recording"}},
    {"dump of a folder", no_meta, {"dump", "recording"}, 2, {"not a recording"}},
    {"replay of a file", text_file, {"replay", "file"}, 2, {"file"}},
    {"log is missing", no_events, {"replay", "recording"}, 2, {"recording/events"}},
    {"log is missing, info", no_events, {"info", "recording"}, 2, {"recording/events"}},
    {"meta is damaged", bad_meta, {"replay", "recording"}, 2, {"recording/meta"}},
    {"newer version", newer_version, {"replay", "recording"}, 2, {"recording/meta", "4711", "version"}},
    {"newer version, info", newer_version, {"info", "recording"}, 2, {"4711"}},
    {"newer version, dump", newer_version, {"dump", "recording"}, 2, {"4711"}},
    {"unknown cpu model", other_cpu, {"replay", "recording"}, 2, {"z80"}},
    {"log is damaged", damaged_log, {"replay", "recording"}, 2, {"recording/events", "offset"}},
    {"log is damaged, info", damaged_log, {"info", "recording"}, 2, {"recording/events", "offset"}},
    {"log is damaged, dump", damaged_log, {"dump", "recording"}, 2, {"recording/events", "offset"}},
    {"log is no log", not_a_log, {"replay", "recording"}, 2, {"recording/events", "offset 0"}},
    {"stored files are damaged", no_blobs, {"replay", "recording"}, 2, {"recording/store"}},
};
// clang-format on

}  // namespace

TEST_CASE("bad input gets its exit status and a message that names it") {
  for (const Case& bad : kCases) {
    DYNAMIC_SECTION(bad.name) {
      // Root may read everything, so this one runs as somebody else.
      const bool as_nobody = bad.as_nobody && geteuid() == 0;
      if (as_nobody && run_tool({"--version"}, "/", {.as_nobody = true}).status != 0) {
        WARN("SKIPPED: " << bad.name << ": other users can't reach " << AFTERCHECK_BINARY);
        return;
      }
      const Workplace place;
      bad.make(place);
      const Finished finished = run_tool(bad.arguments, place.path(), {.as_nobody = as_nobody});
      INFO(finished.err);
      CHECK(finished.signal == 0);
      CHECK(finished.status == bad.status);
      CHECK_THAT(finished.err, Catch::Matchers::StartsWith("aftercheck: "));
      for (const char* fragment : bad.fragments)
        CHECK_THAT(finished.err, Catch::Matchers::Contains(fragment));
    }
  }
}

}  // namespace aftercheck::test
