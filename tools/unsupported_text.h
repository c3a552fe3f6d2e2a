// What commands say of a program's calls that could not be recorded.
#pragma once

#include <string>
#include <vector>

#include "recording/meta.h"
#include "tools/output.h"

namespace aftercheck::tools {

// "fork (a child process): ENOSYS, 2 times; ...": those that were answered without being done.
std::string describe_answered(const std::vector<recording::AnsweredCall>& calls);
// Warnings for whoever uses the recording; none where all was recorded.
std::vector<std::string> unsupported_warnings(const recording::Meta& meta);
// Adds "stopped_at" (null: the recorder did not end it) and "answered_calls" to a result.
void add_unsupported(const recording::Meta& meta, Json& json);

}  // namespace aftercheck::tools
