#include "machine/soft/library_cpu.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <optional>
#include <vector>

#include "base/error.h"
#include "machine/soft/library_function.h"

namespace aftercheck::soft {
namespace {

// Names and signatures: qemu/target/i386/{fpu_helper.c,excp_helper.c} of Unicorn 2.0.1.
using LoadMxcsr = void (*)(void*, uint32_t);
using Compare = void (*)(void*, void*, void*);
using X87 = void (*)(void*);
using X87WithWord = void (*)(void*, uint32_t);
using Raise = void (*)(void*, int, int, uintptr_t);

using State = std::vector<uint8_t>;
constexpr size_t kSize = 0x8000;  // more than the library's functions reach

// The first place whose values in the states are these; all of `width` bytes.
template <typename T, size_t count>
std::optional<size_t> find(const std::array<State, count>& states, const std::array<T, count>& values) {
  for (size_t at = 0; at + sizeof(T) <= kSize; at += sizeof(T)) {
    bool all = true;
    for (size_t i = 0; i < count; ++i) all = all && std::memcmp(&states[i][at], &values[i], sizeof(T)) == 0;
    if (all) return at;
  }
  return std::nullopt;
}

std::optional<size_t> find_mxcsr() {
  const auto load = library_function<LoadMxcsr>("helper_ldmxcsr_x86_64");
  if (load == nullptr) return std::nullopt;
  constexpr std::array<uint32_t, 3> kValues = {0x1f80, 0x7fbf, 0x0095};
  std::array<State, 3> states;
  for (size_t i = 0; i < states.size(); ++i) {
    states[i].resize(kSize);
    load(states[i].data(), kValues[i]);
  }
  return find(states, kValues);
}

std::optional<size_t> find_flags() {
  const auto compare = library_function<Compare>("helper_comisd_x86_64");
  if (compare == nullptr) return std::nullopt;
  // SDM vol. 2, COMISD: less sets CF, equal ZF.
  constexpr std::array<uint64_t, 3> kFlags = {0x01, 0x40, 0x00};
  constexpr std::array<double, 3> kNumbers = {1, 2, 3};
  std::array<State, 3> states;
  for (size_t i = 0; i < states.size(); ++i) {
    states[i].resize(kSize);
    alignas(64) std::array<double, 8> first = {kNumbers[i]}, second = {kNumbers[1]};
    compare(states[i].data(), first.data(), second.data());
  }
  return find(states, kFlags);
}

// By the control word, what stands around it, and the register that FLD1 fills.
std::optional<LibraryCpu> find_x87() {
  const auto init = library_function<X87>("helper_fninit_x86_64"),
             one = library_function<X87>("helper_fld1_ST0_x86_64"),
             up = library_function<X87>("helper_fincstp_x86_64"),
             examine = library_function<X87>("helper_fxam_ST0_x86_64");
  const auto control = library_function<X87WithWord>("helper_fldcw_x86_64"),
             set_free = library_function<X87WithWord>("helper_ffree_STN_x86_64");
  if (init == nullptr || one == nullptr || up == nullptr || examine == nullptr || control == nullptr ||
      set_free == nullptr)
    return std::nullopt;
  constexpr std::array<uint16_t, 3> kControls = {0x037f, 0x0c3f, 0x0a5f};
  std::array<State, 3> states;
  for (size_t i = 0; i < states.size(); ++i) {
    states[i].resize(kSize);
    control(states[i].data(), kControls[i]);
  }
  const auto word = find(states, kControls);
  if (!word || *word < 6) return std::nullopt;
  LibraryCpu found;
  found.x87 = *word - 6;

  constexpr size_t kStatus = 4, kControl = 6, kEmpty = 8, kRegister = 16;
  State state(kSize);
  up(state.data());
  set_free(state.data(), 2);
  const bool top = state[found.x87] == 1, tag = state[found.x87 + kEmpty + 3] == 1;
  one(state.data());
  constexpr std::array<uint8_t, 10> kOne = {0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f};
  const auto at = std::search(state.begin(), state.end(), kOne.begin(), kOne.end());
  if (at == state.end() || at - state.begin() < static_cast<ptrdiff_t>(kRegister)) return std::nullopt;
  found.x87_registers = static_cast<size_t>(at - state.begin()) - kRegister;
  examine(state.data());  // a normal number sets C2 (SDM vol. 2, FXAM)
  constexpr uint8_t kC2 = 4;
  const bool status = state[found.x87 + kStatus + 1] == kC2;
  init(state.data());
  constexpr std::array<uint8_t, 8> kAllEmpty = {1, 1, 1, 1, 1, 1, 1, 1};
  const bool fresh = state[found.x87 + kControl] == 0x7f && state[found.x87] == 0 &&
                     std::memcmp(&state[found.x87 + kEmpty], kAllEmpty.data(), kAllEmpty.size()) == 0;
  if (!top || !tag || !status || !fresh) return std::nullopt;
  return found;
}

}  // namespace

const LibraryCpu& LibraryCpu::places() {
  static const LibraryCpu found = [] {
    const auto word = find_mxcsr(), compared = find_flags();
    const auto stack = find_x87();
    if (!word || !compared || !stack)
      fail(
          ErrorKind::host_lacks,
          "this Unicorn keeps its floating-point state in an unknown place; Debian's shared libunicorn 2.0.1 "
          "does not");
    return LibraryCpu{*word, *compared, stack->x87, stack->x87_registers};
  }();
  return found;
}

void raise_in_library(void* cpu, uint8_t vector, uintptr_t return_address) {
  static const auto raise = library_function<Raise>("raise_exception_err_ra_x86_64");
  raise(cpu, vector, 0, return_address);
  std::abort();  // it has unwound
}

}  // namespace aftercheck::soft
