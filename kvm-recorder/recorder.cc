#include "kvm-recorder/recorder.h"

#include <filesystem>
#include <optional>
#include <system_error>

#include "base/error.h"
#include "kvm-recorder/loader.h"
#include "kvm-recorder/recording_session.h"
#include "recording/store.h"

namespace aftercheck {
namespace {

namespace fs = std::filesystem;

fs::path prepare_directory(const fs::path& directory) {
  std::error_code error;
  if (fs::exists(directory, error) && !(fs::is_directory(directory, error) && fs::is_empty(directory, error)))
    fail(ErrorKind::usage, "{}: exists already; choose another directory with -o, or remove it",
         directory.string());
  fs::create_directories(directory, error);
  if (error) fail(ErrorKind::io, "{}: can't be created: {}", directory.string(), error.message());
  // The guest may change its working directory, and where links lead.
  const fs::path found = fs::canonical(directory, error);
  return error ? fs::absolute(directory) : found;
}

// The recording's store becomes a link to a folder that others use too. Relative, so that they can be moved
// together. Nothing else may be in it: all of it is kept from the guest.
void share_store(const fs::path& directory, const fs::path& store) {
  std::error_code error;
  fs::create_directories(store, error);
  const fs::path target = error ? fs::path() : fs::canonical(store, error);
  if (!error)
    for (auto entry = fs::directory_iterator(target, error); !error && entry != fs::directory_iterator();
         entry.increment(error))
      if (!recording::may_be_in_store(entry->path().filename().string()))
        fail(ErrorKind::usage,
             "{}: a store for recordings has nothing else in it, and there is {}: name a folder of its own",
             store.string(), entry->path().filename().string());
  const fs::path place = error ? fs::path() : fs::canonical(directory, error);
  if (!error) fs::create_directory_symlink(target.lexically_relative(place), directory / "store", error);
  if (error)
    fail(ErrorKind::io, "{}: can't be the store of {}: {}", store.string(), directory.string(),
         error.message());
}

}  // namespace

RecordResult record(const RecordOptions& options) {
  if (options.command.empty()) fail(ErrorKind::usage, "no program to record");
  const Program program = find_program(options.command[0], options.command, options.environment);
  std::error_code ignored;
  const bool was_there = fs::exists(options.directory, ignored);
  const fs::path directory = prepare_directory(options.directory);
  std::optional<RecordingSession> session;
  try {
    if (!options.store.empty()) share_store(directory, options.store);
    session.emplace(options, directory);
  } catch (...) {  // nothing was recorded
    for (const char* name : {"meta", "events", "store", "pt", "checkpoints"})
      fs::remove_all(directory / name, ignored);
    if (!was_there) fs::remove(directory, ignored);
    throw;
  }
  return session->run(program);
}

}  // namespace aftercheck
