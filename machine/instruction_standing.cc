#include "machine/instruction_standing.h"

#include <algorithm>
#include <array>

namespace aftercheck {
namespace {

struct Rule {
  ZydisMnemonic mnemonic;
  Standing standing;
};

constexpr Rule kRules[] = {
    {ZYDIS_MNEMONIC_RDTSC, Standing::trapped},
    {ZYDIS_MNEMONIC_RDTSCP, Standing::trapped},
    {ZYDIS_MNEMONIC_RDRAND, Standing::trapped},
    {ZYDIS_MNEMONIC_RDSEED, Standing::trapped},
    {ZYDIS_MNEMONIC_RDPID, Standing::trapped},
    {ZYDIS_MNEMONIC_FXSAVE, Standing::trapped},
    {ZYDIS_MNEMONIC_FXSAVE64, Standing::trapped},
    {ZYDIS_MNEMONIC_CPUID, Standing::cpuid},

    // Not in the portable model; CR4 of the KVM guest refuses most of them too (OSXSAVE, FSGSBASE, PKE, CET
    // clear).
    {ZYDIS_MNEMONIC_XGETBV, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_XSAVE, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_XSAVE64, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_XSAVEC, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_XSAVEC64, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_XSAVEOPT, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_XSAVEOPT64, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_XSAVES, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_XSAVES64, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_XRSTOR, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_XRSTOR64, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_XRSTORS, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_XRSTORS64, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_RDFSBASE, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_RDGSBASE, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_WRFSBASE, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_WRGSBASE, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_XBEGIN, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_XEND, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_XABORT, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_XTEST, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_RDPKRU, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_WRPKRU, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_MOVBE, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_ADCX, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_ADOX, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_MONITOR, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_MWAIT, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_MONITORX, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_MWAITX, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_VMCALL, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_VMMCALL, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_EXTRQ, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_INSERTQ, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_MOVNTSS, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_MOVNTSD, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_CLAC, Standing::invalid_opcode},
    {ZYDIS_MNEMONIC_STAC, Standing::invalid_opcode},

    // IOPL is 0 (SDM vol. 1, 19.5) and every gate but that of INT3 belongs to ring 0.
    {ZYDIS_MNEMONIC_IN, Standing::general_protection},
    {ZYDIS_MNEMONIC_OUT, Standing::general_protection},
    {ZYDIS_MNEMONIC_INSB, Standing::general_protection},
    {ZYDIS_MNEMONIC_INSW, Standing::general_protection},
    {ZYDIS_MNEMONIC_INSD, Standing::general_protection},
    {ZYDIS_MNEMONIC_OUTSB, Standing::general_protection},
    {ZYDIS_MNEMONIC_OUTSW, Standing::general_protection},
    {ZYDIS_MNEMONIC_OUTSD, Standing::general_protection},
    {ZYDIS_MNEMONIC_CLI, Standing::general_protection},
    {ZYDIS_MNEMONIC_STI, Standing::general_protection},
    {ZYDIS_MNEMONIC_RDPMC, Standing::general_protection},
    {ZYDIS_MNEMONIC_SYSENTER, Standing::general_protection},
    {ZYDIS_MNEMONIC_INT, Standing::general_protection},
    {ZYDIS_MNEMONIC_INT1, Standing::debug},

    // They need the descriptor tables of a kernel.
    {ZYDIS_MNEMONIC_IRET, Standing::kernel_tables},
    {ZYDIS_MNEMONIC_IRETD, Standing::kernel_tables},
    {ZYDIS_MNEMONIC_IRETQ, Standing::kernel_tables},
    {ZYDIS_MNEMONIC_LSS, Standing::kernel_tables},
    {ZYDIS_MNEMONIC_LFS, Standing::kernel_tables},
    {ZYDIS_MNEMONIC_LGS, Standing::kernel_tables},
    {ZYDIS_MNEMONIC_LAR, Standing::kernel_tables},
    {ZYDIS_MNEMONIC_LSL, Standing::kernel_tables},
    {ZYDIS_MNEMONIC_VERR, Standing::kernel_tables},
    {ZYDIS_MNEMONIC_VERW, Standing::kernel_tables},
    {ZYDIS_MNEMONIC_SGDT, Standing::kernel_tables},
    {ZYDIS_MNEMONIC_SIDT, Standing::kernel_tables},
    {ZYDIS_MNEMONIC_SLDT, Standing::kernel_tables},
    {ZYDIS_MNEMONIC_STR, Standing::kernel_tables},
    {ZYDIS_MNEMONIC_SMSW, Standing::kernel_tables},
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

using Table = std::array<Standing, ZYDIS_MNEMONIC_MAX_VALUE + 1>;

const Table& table() {
  static const Table result = [] {
    Table standings{};
    for (const Rule& rule : kRules) standings[rule.mnemonic] = rule.standing;
    return standings;
  }();
  return result;
}

using Extensions = std::array<bool, ZYDIS_ISA_EXT_MAX_VALUE + 1>;

const Extensions& absent() {
  static const Extensions result = [] {
    Extensions extensions{};
    for (const ZydisISAExt extension : kAbsent) extensions[extension] = true;
    return extensions;
  }();
  return result;
}

// What v3 has of what the portable model lacks. XSAVE and its like: the answer is the model's, not the
// host's.
constexpr Rule kRulesOfV3[] = {
    {ZYDIS_MNEMONIC_MOVBE, Standing::plain},    {ZYDIS_MNEMONIC_XGETBV, Standing::trapped},
    {ZYDIS_MNEMONIC_XSAVE, Standing::trapped},  {ZYDIS_MNEMONIC_XSAVE64, Standing::trapped},
    {ZYDIS_MNEMONIC_XRSTOR, Standing::trapped}, {ZYDIS_MNEMONIC_XRSTOR64, Standing::trapped},
};

// Extensions of v3 whose instructions are VEX-encoded. AVXAES are the 128-bit forms.
constexpr std::array kVexOfV3 = {
    ZYDIS_ISA_EXT_AVX,  ZYDIS_ISA_EXT_AVX2, ZYDIS_ISA_EXT_AVX2GATHER, ZYDIS_ISA_EXT_AVXAES,
    ZYDIS_ISA_EXT_BMI1, ZYDIS_ISA_EXT_BMI2, ZYDIS_ISA_EXT_F16C,       ZYDIS_ISA_EXT_FMA,
};

bool is_vex_of_v3(const ZydisDecodedInstruction& instruction) {
  return instruction.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX &&
         std::find(kVexOfV3.begin(), kVexOfV3.end(), instruction.meta.isa_ext) != kVexOfV3.end();
}

// Of CET, what is no NOP where there is no CET.
bool is_shadow_stack(const ZydisDecodedInstruction& instruction) {
  constexpr std::array kNops = {ZYDIS_MNEMONIC_ENDBR32, ZYDIS_MNEMONIC_ENDBR64, ZYDIS_MNEMONIC_RDSSPD,
                                ZYDIS_MNEMONIC_RDSSPQ};
  return instruction.meta.isa_ext == ZYDIS_ISA_EXT_CET &&
         std::find(kNops.begin(), kNops.end(), instruction.mnemonic) == kNops.end();
}

}  // namespace

Standing standing(const ZydisDecodedInstruction& instruction, std::span<const uint8_t> code,
                  CpuModelKind model) {
  if (model == CpuModelKind::v3) {
    if (is_vex_of_v3(instruction)) return Standing::plain;
    const auto* const rule =
        std::find_if(std::begin(kRulesOfV3), std::end(kRulesOfV3),
                     [&instruction](const Rule& each) { return each.mnemonic == instruction.mnemonic; });
    if (rule != std::end(kRulesOfV3)) return rule->standing;
  }
  if (instruction.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY) return Standing::invalid_opcode;
  if (absent()[instruction.meta.isa_ext] || is_shadow_stack(instruction)) return Standing::invalid_opcode;
  const Standing listed = table()[instruction.mnemonic];
  if (listed == Standing::invalid_opcode) return listed;
  if ((instruction.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) != 0) return Standing::general_protection;
  if (instruction.mnemonic == ZYDIS_MNEMONIC_INT && code[instruction.length - 1] == 3)
    return Standing::breakpoint;
  if (instruction.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR &&
      instruction.meta.category != ZYDIS_CATEGORY_SYSCALL &&
      instruction.meta.category != ZYDIS_CATEGORY_INTERRUPT)
    return Standing::kernel_tables;  // far CALL, JMP, RET
  if (instruction.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && instruction.opcode == 0x8E)
    return Standing::kernel_tables;  // MOV to a segment register
  if (instruction.mnemonic == ZYDIS_MNEMONIC_POP && instruction.opcode_map == ZYDIS_OPCODE_MAP_0F)
    return Standing::kernel_tables;  // POP FS, POP GS
  return listed;
}

Standing standing_of_undecodable(ZyanStatus status) {
  return status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG ? Standing::general_protection
                                                     : Standing::invalid_opcode;
}

}  // namespace aftercheck
