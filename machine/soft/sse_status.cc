#include "machine/soft/sse_status.h"

#include <cstddef>
#include <cstring>
#include <optional>
#include <vector>

#include "machine/soft/library_function.h"

namespace aftercheck::soft {
namespace {

// Names and signatures: qemu/target/i386/{fpu_helper.c,ops_sse.h} of Unicorn 2.0.1; the suffix is Unicorn's
// per target. CPUX86State and ZMMReg stay opaque.
using LoadMxcsr = void (*)(void*, uint32_t);
using UpdateStatus = void (*)(void*);
using Round = void (*)(void*, void*, void*, uint32_t);

struct Library {
  LoadMxcsr load_mxcsr = library_function<LoadMxcsr>("helper_ldmxcsr_x86_64");
  UpdateStatus update = library_function<UpdateStatus>("update_mxcsr_status_x86_64");
  Round round_ps = library_function<Round>("helper_roundps_xmm_x86_64");
  Round round_pd = library_function<Round>("helper_roundpd_xmm_x86_64");
  Round round_ss = library_function<Round>("helper_roundss_xmm_x86_64");
  Round round_sd = library_function<Round>("helper_roundsd_xmm_x86_64");
};

const Library& library() {
  static const Library found;
  return found;
}

// MXCSR (SDM vol. 1, figure 10-3).
constexpr uint32_t kInitial = 0x1f80, kDenormalsAreZero = 1 << 6, kRounding = 3 << 13, kFlushToZero = 1 << 15;
constexpr uint32_t kUnderflow = 1 << 4, kInexact = 1 << 5;
// IE, ZE, OE, UE, PE: in these bits, qemu/include/fpu/softfloat-types.h has the same (enum float_flag_*).
// There 0x80 is a result that was flushed to zero, which a processor tells as underflow and inexact.
constexpr uint32_t kShared = 0x3d;
constexpr uint8_t kFlushedResult = 0x80;

// struct float_status, in the same header: bytes.
constexpr size_t kRoundingMode = 1, kExceptions = 2, kFlushResults = 4, kFlushInputs = 5;

// Where in CPUX86State things are.
struct Layout {
  size_t mxcsr = 0, sse = 0, x87 = 0;
};

// Found by having the library write MXCSR into an empty state and looking at what changes. Nothing is assumed
// but the order within float_status, and that is checked.
std::optional<Layout> find_layout() {
  if (library().load_mxcsr == nullptr || library().update == nullptr) return std::nullopt;
  using State = std::vector<uint8_t>;
  constexpr size_t kSize = 0x8000;  // more than the library's function reaches
  const auto with = [](uint32_t mxcsr) {
    State state(kSize);
    library().load_mxcsr(state.data(), mxcsr);
    return state;
  };
  const State initial = with(kInitial);
  // The bytes that this change of MXCSR changes, MXCSR itself apart.
  const auto changed = [&](uint32_t mxcsr, size_t own) {
    const State state = with(mxcsr);
    std::vector<size_t> at;
    for (size_t i = 0; i < kSize; ++i)
      if (state[i] != initial[i] && (i < own || i >= own + sizeof mxcsr)) at.push_back(i);
    return at;
  };
  Layout layout;
  while (layout.mxcsr + sizeof kInitial <= kSize &&
         std::memcmp(&initial[layout.mxcsr], &kInitial, sizeof kInitial) != 0)
    ++layout.mxcsr;
  if (layout.mxcsr + sizeof kInitial > kSize) return std::nullopt;
  const auto rounding = changed(kInitial | kRounding, layout.mxcsr);
  const auto inputs = changed(kInitial | kDenormalsAreZero, layout.mxcsr);
  const auto results = changed(kInitial | kFlushToZero, layout.mxcsr);
  if (rounding.size() != 1 || inputs.size() != 1 || results.size() != 1) return std::nullopt;
  layout.sse = rounding[0] - kRoundingMode;
  layout.x87 = results[0] - kFlushResults;
  if (inputs[0] != layout.sse + kFlushInputs || layout.x87 == layout.sse) return std::nullopt;
  return layout;
}

thread_local bool finding = false;     // the library writes into the empty state
thread_local bool collecting = false;  // read_mxcsr(): MXCSR is to be completed, not obeyed

const std::optional<Layout>& layout() {
  static const std::optional<Layout> found = [] {
    finding = true;
    const auto result = find_layout();
    finding = false;
    return result;
  }();
  return found;
}

uint32_t flags_of(uint8_t exceptions) {
  return (exceptions & kShared) | ((exceptions & kFlushedResult) != 0 ? kUnderflow | kInexact : 0);
}

// The library has taken over what the guest or we have written to MXCSR.
void mend_status(uint8_t* state, const Layout& at) {
  uint32_t mxcsr = 0;
  std::memcpy(&mxcsr, state + at.mxcsr, sizeof mxcsr);
  uint8_t& exceptions = state[at.sse + kExceptions];
  if (collecting) {
    mxcsr |= flags_of(exceptions);
    std::memcpy(state + at.mxcsr, &mxcsr, sizeof mxcsr);
  } else {
    exceptions = static_cast<uint8_t>(mxcsr & kShared);
  }
  state[at.sse + kFlushResults] = (mxcsr & kFlushToZero) != 0 ? 1 : 0;
  state[at.x87 + kFlushResults] = 0;
}

void round_quietly(Round round, void* state, void* target, void* source, uint32_t mode) {
  constexpr uint32_t kQuiet = 8;  // SDM vol. 2, ROUNDPD, table 4-20: the precision mask
  if ((mode & kQuiet) == 0 || !layout()) {
    round(state, target, source, mode);
    return;
  }
  uint8_t& exceptions = static_cast<uint8_t*>(state)[layout()->sse + kExceptions];
  const auto inexact = static_cast<uint8_t>(exceptions & kInexact);
  round(state, target, source, mode);
  exceptions = static_cast<uint8_t>((exceptions & ~kInexact) | inexact);
}

// What the library calls in place of its own functions.
#define AFTERCHECK_INTERPOSED extern "C" __attribute__((visibility("default")))

AFTERCHECK_INTERPOSED void update_mxcsr_status_x86_64(void* state) {
  library().update(state);
  if (!finding && layout()) mend_status(static_cast<uint8_t*>(state), *layout());
}

AFTERCHECK_INTERPOSED void helper_roundps_xmm_x86_64(void* state, void* target, void* source, uint32_t mode) {
  round_quietly(library().round_ps, state, target, source, mode);
}
AFTERCHECK_INTERPOSED void helper_roundpd_xmm_x86_64(void* state, void* target, void* source, uint32_t mode) {
  round_quietly(library().round_pd, state, target, source, mode);
}
AFTERCHECK_INTERPOSED void helper_roundss_xmm_x86_64(void* state, void* target, void* source, uint32_t mode) {
  round_quietly(library().round_ss, state, target, source, mode);
}
AFTERCHECK_INTERPOSED void helper_roundsd_xmm_x86_64(void* state, void* target, void* source, uint32_t mode) {
  round_quietly(library().round_sd, state, target, source, mode);
}

}  // namespace

uint32_t read_mxcsr(uc_engine* engine) {
  uint32_t mxcsr = 0;
  uc_reg_read(engine, UC_X86_REG_MXCSR, &mxcsr);
  collecting = true;
  uc_reg_write(engine, UC_X86_REG_MXCSR, &mxcsr);
  collecting = false;
  uc_reg_read(engine, UC_X86_REG_MXCSR, &mxcsr);
  return mxcsr;
}

}  // namespace aftercheck::soft
