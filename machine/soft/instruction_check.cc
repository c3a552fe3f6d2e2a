#include "machine/soft/instruction_check.h"

#include <array>
#include <optional>

#include "x86/decode.h"

namespace aftercheck::soft {
namespace {

struct Rule {
  ZydisMnemonic mnemonic;
  Treatment treatment;
};

constexpr Rule kRules[] = {
    {ZYDIS_MNEMONIC_RDTSC, Treatment::trapped},
    {ZYDIS_MNEMONIC_RDTSCP, Treatment::trapped},
    {ZYDIS_MNEMONIC_RDRAND, Treatment::trapped},
    {ZYDIS_MNEMONIC_RDSEED, Treatment::trapped},
    {ZYDIS_MNEMONIC_RDPID, Treatment::trapped},
    {ZYDIS_MNEMONIC_CPUID, Treatment::cpuid},

    // Not in the portable model; CR4 of the KVM guest refuses most of them too (OSXSAVE, FSGSBASE, PKE, CET
    // clear).
    {ZYDIS_MNEMONIC_XGETBV, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_XSAVE, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_XSAVE64, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_XSAVEC, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_XSAVEC64, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_XSAVEOPT, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_XSAVEOPT64, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_XSAVES, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_XSAVES64, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_XRSTOR, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_XRSTOR64, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_XRSTORS, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_XRSTORS64, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_RDFSBASE, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_RDGSBASE, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_WRFSBASE, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_WRGSBASE, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_XBEGIN, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_XEND, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_XABORT, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_XTEST, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_RDPKRU, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_WRPKRU, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_MOVBE, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_ADCX, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_ADOX, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_MONITOR, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_MWAIT, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_MONITORX, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_MWAITX, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_VMCALL, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_VMMCALL, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_EXTRQ, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_INSERTQ, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_MOVNTSS, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_MOVNTSD, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_CLAC, Treatment::invalid_opcode},
    {ZYDIS_MNEMONIC_STAC, Treatment::invalid_opcode},

    // IOPL is 0 (SDM vol. 1, 19.5) and every gate but that of INT3 belongs to ring 0.
    {ZYDIS_MNEMONIC_IN, Treatment::general_protection},
    {ZYDIS_MNEMONIC_OUT, Treatment::general_protection},
    {ZYDIS_MNEMONIC_INSB, Treatment::general_protection},
    {ZYDIS_MNEMONIC_INSW, Treatment::general_protection},
    {ZYDIS_MNEMONIC_INSD, Treatment::general_protection},
    {ZYDIS_MNEMONIC_OUTSB, Treatment::general_protection},
    {ZYDIS_MNEMONIC_OUTSW, Treatment::general_protection},
    {ZYDIS_MNEMONIC_OUTSD, Treatment::general_protection},
    {ZYDIS_MNEMONIC_CLI, Treatment::general_protection},
    {ZYDIS_MNEMONIC_STI, Treatment::general_protection},
    {ZYDIS_MNEMONIC_RDPMC, Treatment::general_protection},
    {ZYDIS_MNEMONIC_SYSENTER, Treatment::general_protection},
    {ZYDIS_MNEMONIC_INT, Treatment::general_protection},
    {ZYDIS_MNEMONIC_INT1, Treatment::debug},

    // Approximations whose bits differ between processors, and x87 functions that Unicorn computes in double
    // precision.
    {ZYDIS_MNEMONIC_RCPPS, Treatment::host_executed},
    {ZYDIS_MNEMONIC_RCPSS, Treatment::host_executed},
    {ZYDIS_MNEMONIC_RSQRTPS, Treatment::host_executed},
    {ZYDIS_MNEMONIC_RSQRTSS, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FSIN, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FCOS, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FSINCOS, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FPTAN, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FPATAN, Treatment::host_executed},
    {ZYDIS_MNEMONIC_F2XM1, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FYL2X, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FYL2XP1, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FLDL2T, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FLDL2E, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FLDPI, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FLDLG2, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FLDLN2, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FXTRACT, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FPREM, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FPREM1, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FISTTP, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FBSTP, Treatment::host_executed},
    // Unicorn scales zeros and infinities wrongly, and leaves zeros in the reserved halves of an environment.
    {ZYDIS_MNEMONIC_FSCALE, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FNSTENV, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FNSAVE, Treatment::host_executed},
    // Unicorn adds the products in another order.
    {ZYDIS_MNEMONIC_DPPS, Treatment::host_executed},
    {ZYDIS_MNEMONIC_DPPD, Treatment::host_executed},
    // Unicorn 2.0.1 loses these CPUID bits when it combines its CPU model with what it can emulate, and
    // refuses them.
    {ZYDIS_MNEMONIC_POPCNT, Treatment::host_executed},
    {ZYDIS_MNEMONIC_PCLMULQDQ, Treatment::host_executed},

    // Looked at: Unicorn raises no SIMD exception, so none may be unmasked.
    {ZYDIS_MNEMONIC_LDMXCSR, Treatment::host_executed},
    // Unicorn keeps the sticky flags elsewhere (sse_status.h).
    {ZYDIS_MNEMONIC_STMXCSR, Treatment::host_executed},

    // They need the descriptor tables of a kernel, which the soft vCPU has not.
    {ZYDIS_MNEMONIC_IRET, Treatment::unsupported},
    {ZYDIS_MNEMONIC_IRETD, Treatment::unsupported},
    {ZYDIS_MNEMONIC_IRETQ, Treatment::unsupported},
    {ZYDIS_MNEMONIC_LSS, Treatment::unsupported},
    {ZYDIS_MNEMONIC_LFS, Treatment::unsupported},
    {ZYDIS_MNEMONIC_LGS, Treatment::unsupported},
    {ZYDIS_MNEMONIC_LAR, Treatment::unsupported},
    {ZYDIS_MNEMONIC_LSL, Treatment::unsupported},
    {ZYDIS_MNEMONIC_VERR, Treatment::unsupported},
    {ZYDIS_MNEMONIC_VERW, Treatment::unsupported},
    {ZYDIS_MNEMONIC_SGDT, Treatment::unsupported},
    {ZYDIS_MNEMONIC_SIDT, Treatment::unsupported},
    {ZYDIS_MNEMONIC_SLDT, Treatment::unsupported},
    {ZYDIS_MNEMONIC_STR, Treatment::unsupported},
    {ZYDIS_MNEMONIC_SMSW, Treatment::unsupported},
};

using Table = std::array<Treatment, ZYDIS_MNEMONIC_MAX_VALUE + 1>;

const Table& table() {
  static const Table result = [] {
    Table treatments{};
    for (const Rule& rule : kRules) treatments[rule.mnemonic] = rule.treatment;
    return treatments;
  }();
  return result;
}

bool is_string_compare(ZydisMnemonic mnemonic) {
  return mnemonic == ZYDIS_MNEMONIC_PCMPESTRI || mnemonic == ZYDIS_MNEMONIC_PCMPESTRM ||
         mnemonic == ZYDIS_MNEMONIC_PCMPISTRI || mnemonic == ZYDIS_MNEMONIC_PCMPISTRM;
}

bool is_bit_scan(const ZydisDecodedInstruction& instruction) {
  return instruction.mnemonic == ZYDIS_MNEMONIC_BSF || instruction.mnemonic == ZYDIS_MNEMONIC_BSR;
}

// Encodings of one mnemonic that need another treatment than the rest.
Treatment refine(const ZydisDecodedInstruction& instruction, std::span<const uint8_t> code,
                 Treatment treatment) {
  if ((instruction.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) != 0) return Treatment::general_protection;
  if (instruction.mnemonic == ZYDIS_MNEMONIC_INT && code[instruction.length - 1] == 3)
    return Treatment::breakpoint;
  if (instruction.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR &&
      instruction.meta.category != ZYDIS_CATEGORY_SYSCALL &&
      instruction.meta.category != ZYDIS_CATEGORY_INTERRUPT)
    return Treatment::unsupported;  // far CALL, JMP, RET
  if (instruction.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && instruction.opcode == 0x8E)
    return Treatment::unsupported;  // MOV to a segment register
  if (instruction.mnemonic == ZYDIS_MNEMONIC_POP && instruction.opcode_map == ZYDIS_OPCODE_MAP_0F)
    return Treatment::unsupported;  // POP FS, POP GS
  if (is_bit_scan(instruction) && instruction.operand_width == 32 && instruction.address_width == 32)
    return Treatment::host_executed;       // Form::keeps_upper_half would be taken for the address
  constexpr uint8_t kEqualOrdered = 0x0c;  // SDM vol. 2, table 4-2
  if (is_string_compare(instruction.mnemonic) &&
      (code[instruction.length - 1U] & kEqualOrdered) == kEqualOrdered)
    return Treatment::host_executed;
  return treatment;
}

// PUSH ES, undefined in 64-bit mode: Unicorn stops with RIP on it. One byte, so that a block that ends a page
// stays within it.
constexpr uint8_t kUndefined = 0x06;

// Unicorn honours prefixes that processors ignore: the first of F3 and F2 where the last counts, 66 beside
// them where they select the instruction, ES to DS after FS or GS, REX before another prefix. They are shown
// to it as repetitions of one that counts. Of branches it knows AMD's meaning of 66, Zydis Intel's.
void replace_ignored_prefixes(const ZydisDecodedInstruction& instruction, Form& form) {
  const std::span prefixes(instruction.raw.prefixes, instruction.raw.prefix_count);
  if (prefixes.size() < 2 || instruction.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE) return;
  constexpr uint8_t kDs = 0x3e, kRex = 0x40, kRexMask = 0xf0;
  uint8_t filler = kDs;  // means nothing by itself
  bool ignored = false;
  for (const auto& prefix : prefixes) {
    if (prefix.type == ZYDIS_PREFIX_TYPE_IGNORED)
      ignored = true;
    else if ((prefix.value & kRexMask) != kRex)
      filler = prefix.value;
  }
  if (!ignored) return;
  for (const auto& prefix : prefixes)
    form.bytes[form.replaced++] = prefix.type == ZYDIS_PREFIX_TYPE_IGNORED ? filler : prefix.value;
}

void fill_in(std::span<const uint8_t> code, const ZydisDecodedInstruction& instruction, Form& form) {
  constexpr uint8_t kRegister = 3;  // ModRM.mod
  if (instruction.meta.exception_class != ZYDIS_EXCEPTION_CLASS_NONE &&
      instruction.raw.modrm.mod != kRegister) {
    x86::WithOperands decoded;
    form.aligned = x86::decode(code, decoded) && x86::requires_alignment(decoded);
  }
  form.keeps_upper_half = is_bit_scan(instruction) && instruction.operand_width == 32;
  replace_ignored_prefixes(instruction, form);
}

// These fault or are refused when they are reached, and Unicorn is not to know more of them.
bool hidden_from_unicorn(Treatment treatment) {
  return treatment == Treatment::invalid_opcode || treatment == Treatment::general_protection ||
         treatment == Treatment::unsupported;
}

Verdict judge_only(std::span<const uint8_t> code, CpuModelKind model, Form& form) {
  ZydisDecodedInstruction instruction;
  const ZyanStatus status =
      ZydisDecoderDecodeInstruction(&x86::decoder(), nullptr, code.data(), code.size(), &instruction);
  if (!ZYAN_SUCCESS(status)) {
    if (status == ZYDIS_STATUS_NO_MORE_DATA)
      return {Treatment::run, static_cast<uint8_t>(code.size()), false};
    // An over-long instruction is #GP, not #UD (SDM vol. 2, 2.3.11).
    const bool too_long = status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG;
    return {too_long ? Treatment::general_protection : Treatment::invalid_opcode, 1, true};
  }
  Verdict verdict{refine(instruction, code, table()[instruction.mnemonic]), instruction.length, true};
  if (instruction.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
    verdict.treatment = Treatment::invalid_opcode;
  // Under the host's model they are not invalid, only beyond this backend.
  if (verdict.treatment == Treatment::invalid_opcode && model == CpuModelKind::host)
    verdict.treatment = Treatment::unsupported;
  if (verdict.treatment == Treatment::run) fill_in(code, instruction, form);
  return verdict;
}

}  // namespace

Verdict judge(std::span<const uint8_t> code, CpuModelKind model, Form* form) {
  Form unused;
  Form& filled = form != nullptr ? *form : unused;
  const Verdict verdict = judge_only(code, model, filled);
  if (hidden_from_unicorn(verdict.treatment)) {
    filled.bytes[0] = kUndefined;
    filled.replaced = 1;
  }
  return verdict;
}

std::string disassemble(std::span<const uint8_t> code, uint64_t address) {
  x86::WithOperands decoded;
  ZydisFormatter formatter;
  std::array<char, 256> text{};
  if (!x86::decode(code, decoded) ||
      !ZYAN_SUCCESS(ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL)) ||
      !ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&formatter, &decoded.instruction, decoded.operands.data(),
                                                    decoded.instruction.operand_count, text.data(),
                                                    text.size(), address, nullptr)))
    return "an undecodable instruction";
  return text.data();
}

bool is_repeated_string(std::span<const uint8_t> code) {
  ZydisDecodedInstruction instruction;
  return x86::decode(code, instruction) && x86::is_repeated(instruction);
}

}  // namespace aftercheck::soft
