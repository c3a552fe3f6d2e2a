#include "tools/check_writers.h"

namespace aftercheck::tools {
std::string check_html(const CheckRun& run) { return run.recording; }
}  // namespace aftercheck::tools
