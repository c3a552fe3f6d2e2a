// Words for errors, and what is known of processors.
#include <algorithm>
#include <initializer_list>

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
    case FlowStatus::call_not_seen:
      return "compressed return whose call could not be followed";
    case FlowStatus::endless_loop:
      return "the code loops without a branch that the trace would show";
  }
  return "unknown status";
}

// Models as in libipt's pt_cpu_errata (the newest, which knows more of them than 2.0.5), after Intel's
// specification updates.
Errata errata_of(unsigned family, unsigned model) {
  Errata errata;
  if (family != 6) return errata;
  const auto is_one_of = [model](std::initializer_list<unsigned> models) {
    return std::ranges::count(models, model) != 0;
  };
  const bool broadwell = is_one_of({0x3d, 0x47, 0x4f, 0x56});
  const bool skylake_to_comet_lake = is_one_of({0x4e, 0x5e, 0x8e, 0x9e, 0xa5, 0xa6});
  const bool servers_to_ice_lake = is_one_of({0x55, 0x6a, 0x6c});
  const bool sapphire_rapids_on = is_one_of({0x8f, 0xcf, 0xad, 0xae});
  const bool cannon_to_rocket_lake = is_one_of({0x66, 0x7d, 0x7e, 0x8c, 0x8d, 0xa7, 0xa8});
  const bool alder_lake_on =
      is_one_of({0x97, 0x9a, 0xba, 0xb7, 0xbf, 0xc5, 0xc6, 0xb5, 0xaa, 0xac, 0xbd, 0xcc});
  errata.bdm64 = broadwell;
  errata.skd007 = errata.skd010 = skylake_to_comet_lake;
  errata.skd022 = skylake_to_comet_lake || servers_to_ice_lake || sapphire_rapids_on ||
                  cannon_to_rocket_lake || alder_lake_on;
  // Of the newest, libipt 2.0.5 says it too, and later ones don't. It does no harm: where the address is
  // there, it counts.
  errata.skl014 = errata.skd022;
  errata.skz84 = servers_to_ice_lake || sapphire_rapids_on;
  return errata;
}

}  // namespace aftercheck::pt
