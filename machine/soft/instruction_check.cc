#include "machine/soft/instruction_check.h"

#include <algorithm>
#include <array>
#include <optional>

#include "machine/soft/shown_code.h"
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

    // Of x87, what execution by its own function (x87.h) does not cover.
    {ZYDIS_MNEMONIC_FCMOVB, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FCMOVBE, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FCMOVE, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FCMOVNB, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FCMOVNBE, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FCMOVNE, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FCMOVNU, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FCMOVU, Treatment::host_executed},
    // Unicorn 2.0.1 loses these CPUID bits when it combines its CPU model with what it can emulate, and
    // refuses them.
    {ZYDIS_MNEMONIC_POPCNT, Treatment::host_executed},
    {ZYDIS_MNEMONIC_PCLMULQDQ, Treatment::host_executed},

    // Unicorn does not refuse reserved bits of MXCSR.
    {ZYDIS_MNEMONIC_FXRSTOR, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FXRSTOR64, Treatment::host_executed},

    // Unicorn does not look at where the stack pointer will be.
    {ZYDIS_MNEMONIC_ENTER, Treatment::host_executed},

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

// Extensions that the portable model lacks and whose instructions are undefined then, those of ring 0 too.
constexpr ZydisISAExt kAbsent[] = {
    ZYDIS_ISA_EXT_AMD3DNOW,
    ZYDIS_ISA_EXT_AMD_INVLPGB,
    ZYDIS_ISA_EXT_CLFLUSHOPT,
    ZYDIS_ISA_EXT_CLWB,
    ZYDIS_ISA_EXT_CLZERO,
    ZYDIS_ISA_EXT_ENQCMD,
    ZYDIS_ISA_EXT_GFNI,
    ZYDIS_ISA_EXT_HRESET,
    ZYDIS_ISA_EXT_INVPCID,
    ZYDIS_ISA_EXT_KEYLOCKER,
    ZYDIS_ISA_EXT_KEYLOCKER_WIDE,
    ZYDIS_ISA_EXT_MCOMMIT,
    ZYDIS_ISA_EXT_MOVDIR,
    ZYDIS_ISA_EXT_PADLOCK,
    ZYDIS_ISA_EXT_PCONFIG,
    ZYDIS_ISA_EXT_PT,
    ZYDIS_ISA_EXT_RDPRU,
    ZYDIS_ISA_EXT_SERIALIZE,
    ZYDIS_ISA_EXT_SGX,
    ZYDIS_ISA_EXT_SGX_ENCLV,
    ZYDIS_ISA_EXT_SHA,
    ZYDIS_ISA_EXT_SMAP,
    ZYDIS_ISA_EXT_SMX,
    ZYDIS_ISA_EXT_SNP,
    ZYDIS_ISA_EXT_SVM,
    ZYDIS_ISA_EXT_TDX,
    ZYDIS_ISA_EXT_TSX_LDTRK,
    ZYDIS_ISA_EXT_UINTR,
    ZYDIS_ISA_EXT_VMFUNC,
    ZYDIS_ISA_EXT_VTX,
    ZYDIS_ISA_EXT_WAITPKG,
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

// Of CET, what is no NOP where there is no CET.
bool is_shadow_stack(const ZydisDecodedInstruction& instruction) {
  constexpr std::array kNops = {ZYDIS_MNEMONIC_ENDBR32, ZYDIS_MNEMONIC_ENDBR64, ZYDIS_MNEMONIC_RDSSPD,
                                ZYDIS_MNEMONIC_RDSSPQ};
  return instruction.meta.isa_ext == ZYDIS_ISA_EXT_CET &&
         std::find(kNops.begin(), kNops.end(), instruction.mnemonic) == kNops.end();
}

// Encodings of one mnemonic that need another treatment than the rest.
Treatment refine(const ZydisDecodedInstruction& instruction, std::span<const uint8_t> code,
                 Treatment treatment) {
  if (std::find(std::begin(kAbsent), std::end(kAbsent), instruction.meta.isa_ext) != std::end(kAbsent))
    return Treatment::invalid_opcode;
  if (is_shadow_stack(instruction)) return Treatment::invalid_opcode;
  if (treatment == Treatment::invalid_opcode) return treatment;
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
  // Unicorn sets its flags by the old value; and it clears the upper half of a register that is not changed.
  if (instruction.mnemonic == ZYDIS_MNEMONIC_NEG && (instruction.attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0)
    return Treatment::host_executed;
  constexpr uint8_t kRegister = 3;  // ModRM.mod
  if (instruction.mnemonic == ZYDIS_MNEMONIC_CMPXCHG && instruction.operand_width == 32 &&
      instruction.raw.modrm.mod == kRegister)
    return Treatment::host_executed;
  if (instruction.mnemonic == ZYDIS_MNEMONIC_ENTER && instruction.operand_width == 16)
    return Treatment::unsupported;
  constexpr uint64_t kNegative = 0x8000;  // Unicorn takes the number of bytes that RET drops for signed
  if (instruction.mnemonic == ZYDIS_MNEMONIC_RET && instruction.raw.imm[0].value.u >= kNegative)
    return Treatment::unsupported;
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
  if (verdict.treatment == Treatment::run) show(code, instruction, form);
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
