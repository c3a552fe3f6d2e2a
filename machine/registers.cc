#include "machine/registers.h"

#include <cstring>

namespace aftercheck {

FpuState FpuState::initial() {
  FpuState state;
  // FXSAVE layout (SDM vol. 1, table 10-2): FCW at byte 0, abridged tag word (0: all empty) at 4, MXCSR at 24,
  // MXCSR_MASK at 28.
  const uint16_t fcw = 0x37f;
  const uint32_t mxcsr = 0x1f80, mxcsr_mask = 0xffff;
  std::memcpy(&state.fxsave[0], &fcw, sizeof fcw);
  std::memcpy(&state.fxsave[24], &mxcsr, sizeof mxcsr);
  std::memcpy(&state.fxsave[28], &mxcsr_mask, sizeof mxcsr_mask);
  return state;
}

}  // namespace aftercheck
