// A recording's trace in step with a replay, whose memory has the code that the program wrote itself.
#pragma once

#include <functional>
#include <string>

#include "machine/vcpu.h"
#include "tools/pt_code.h"
#include "tools/pt_source.h"

namespace aftercheck::tools {

// Hands the stream to `sink` while the recording is replayed. `code` is the stream's, of a recording; it goes
// on as the sink's marks tell it to, and has the program's own code besides. Ends early once `enough` says
// so. Returns why the trace has no end, or "". Throws Error(usage) where the trace is in no step with events;
// what replay() throws.
std::string read_in_replay(const PtSource& source, size_t stream, PtSink& sink, PtCode& code,
                           MachineChoice machine, bool untrusted, const std::function<bool()>& enough);

}  // namespace aftercheck::tools
