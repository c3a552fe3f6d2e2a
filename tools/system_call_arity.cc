#include <string_view>

#include "tools/event_text.h"

namespace aftercheck::tools {
namespace {

// Number of arguments of each system call, as SYSCALL_DEFINEn of Linux 6.1 has them, by number from the one
// named on. The recorder's table lacks them: it describes what the kernel reads and writes.
constexpr std::string_view kOldCalls =
    "33312223363214403443321505333333120221304333663323"  // 0
    "23345550031421334124533211223211221221232233312221"  // 50
    "14030110020002222333311112224322231122232322311122"  // 100
    "21003215212101252214221323215435553303555444333222"  // 150
    "21633121533131445310443421122241443256354155234554"  // 200
    "53203244345343453433651236444646321442442132155455"  // 250
    "25453214236653345332535133666421564";                // 300
constexpr uint64_t kFirstNewCall = 424;
constexpr std::string_view kNewCalls = "426435253322343456543421254";  // 424

}  // namespace

unsigned argument_count(uint64_t system_call) {
  constexpr unsigned kMost = 6;
  char digit = '0' + kMost;
  if (system_call < kOldCalls.size())
    digit = kOldCalls[system_call];
  else if (system_call >= kFirstNewCall && system_call - kFirstNewCall < kNewCalls.size())
    digit = kNewCalls[system_call - kFirstNewCall];
  return static_cast<unsigned>(digit - '0');
}

}  // namespace aftercheck::tools
