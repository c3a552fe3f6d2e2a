// Words for errors, and what is known of processors.
#include <algorithm>

#include "pt-trace/flow_decoder.h"

namespace aftercheck::pt {

std::string_view flow_status_text(FlowStatus status) {
  switch (status) {
    case FlowStatus::ok:
      return "ok";
    case FlowStatus::bad_packet:
      return "the bytes are no Intel PT packet";
    case FlowStatus::no_code:
      return "the code image has no instruction there";
    case FlowStatus::wrong_packet:
      return "the packet does not fit the code";
    case FlowStatus::event_not_reached:
      return "the code does not come by the event's address before its next branch";
    case FlowStatus::empty_call_stack:
      return "compressed return without a call before it";
    case FlowStatus::endless_loop:
      return "the code loops without a branch that the trace would show";
  }
  return "unknown status";
}

// Models as in libipt's pt_cpu_errata, after Intel's specification updates.
Errata errata_of(unsigned family, unsigned model) {
  Errata errata;
  if (family != 6) return errata;
  constexpr unsigned broadwell[] = {0x3d, 0x47, 0x4f, 0x56};
  constexpr unsigned skylake_to_comet_lake[] = {0x4e, 0x5e, 0x8e, 0x9e, 0xa5, 0xa6};
  errata.bdm64 = std::ranges::count(broadwell, model) != 0;
  errata.skd007 = errata.skd022 = std::ranges::count(skylake_to_comet_lake, model) != 0;
  return errata;
}

}  // namespace aftercheck::pt
