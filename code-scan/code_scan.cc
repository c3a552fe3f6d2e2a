#include "code-scan/code_scan.h"

#include <algorithm>
#include <cstring>

#include "code-scan/code_search.h"
#include "code-scan/code_tracer.h"
#include "code-scan/elf_file.h"
#include "code-scan/elf_functions.h"
#include "x86/decode.h"

namespace aftercheck {
namespace {

// An executable segment of the file: the unit in which control flow is followed, whatever part of it is
// mapped.
struct Text {
  uint64_t vaddr = 0;
  uint64_t file_offset = 0;
  std::span<const uint8_t> bytes;
  std::vector<uint8_t> copy;  // behind `bytes` when only a part is mapped
};

uint64_t overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) {
  if (a_size > UINT64_MAX - a || b_size > UINT64_MAX - b) return 0;
  const uint64_t start = std::max(a, b), end = std::min(a + a_size, b + b_size);
  return start < end ? end - start : 0;
}

// The segment that most of the range comes from. Executable ones first: the range was made executable, but on
// its pages at the edges lie bytes of the neighbours.
std::optional<Text> find_text(const ElfFile& file, const CodeRange& code) {
  const Elf64_Phdr* best = nullptr;
  uint64_t best_size = 0;
  for (const Elf64_Phdr& segment : file.segments()) {
    if (segment.p_type != PT_LOAD) continue;
    const uint64_t size = overlap(segment.p_offset, segment.p_filesz, code.file_offset, code.bytes.size());
    const bool executable = (segment.p_flags & PF_X) != 0,
               best_executable = best && (best->p_flags & PF_X) != 0;
    if (size == 0 || (best_executable && !executable)) continue;
    if ((executable && !best_executable) || size > best_size) {
      best = &segment;
      best_size = size;
    }
  }
  if (best == nullptr || best->p_vaddr > UINT64_MAX - best->p_filesz) return std::nullopt;
  Text text;
  text.vaddr = best->p_vaddr;
  text.file_offset = best->p_offset;
  if (best_size == best->p_filesz) {
    text.bytes = code.bytes.subspan(best->p_offset - code.file_offset, best->p_filesz);
  } else {
    text.copy = file.read(best->p_offset, best->p_filesz);
    text.bytes = text.copy;
  }
  return text;
}

void add_patch(const CodeRange& code, size_t at, const TrappedInstruction& insn,
               std::vector<CodePatch>& patches) {
  CodePatch patch;
  patch.address = code.address + at;
  patch.instruction = insn;
  std::memcpy(patch.original.data(), code.bytes.data() + at, insn.length);
  patches.push_back(patch);
}

// No file, or none whose structure we know: from the start, byte by byte where nothing decodes.
std::vector<CodePatch> sweep_linearly(const CodeRange& code) {
  std::vector<CodePatch> patches;
  const ZydisDecoder decoder = x86::make_decoder(x86::Mode::bits64, x86::Detail::minimal);
  for (size_t at = 0; at < code.bytes.size();) {
    const auto rest = code.bytes.subspan(at);
    ZydisDecodedInstruction insn;
    if (const auto trapped = decode_trapped(rest, code.model)) {
      add_patch(code, at, *trapped, patches);
      at += trapped->length;
    } else if (ZYAN_SUCCESS(
                   ZydisDecoderDecodeInstruction(&decoder, nullptr, rest.data(), rest.size(), &insn))) {
      at += insn.length;
    } else {
      ++at;
    }
  }
  return patches;
}

// The instruction whose opcode is at `candidate`: prefixes before it may belong to it.
std::optional<size_t> instruction_start(const CodeTracer& tracer, std::span<const uint8_t> text,
                                        size_t candidate, CpuModelKind model) {
  for (size_t prefixes = 0; prefixes <= std::min<size_t>(candidate, 13); ++prefixes) {
    const size_t at = candidate - prefixes;
    if (!tracer.is_instruction(at)) continue;
    const auto insn = decode_trapped(text.subspan(at), model);
    if (insn && at + insn->length > candidate) return at;
    return std::nullopt;
  }
  return std::nullopt;
}

std::vector<CodePatch> scan_text(const CodeRange& code, const ElfFile& file, const Text& text) {
  const uint64_t text_end = text.file_offset + text.bytes.size(),
                 code_end = code.file_offset + code.bytes.size();
  // In the whole segment and then cut to the range: an instruction may begin before the range with its
  // prefixes.
  std::vector<size_t> candidates = find_candidates(text.bytes, code.model);
  std::erase_if(candidates, [&](size_t candidate) {
    const uint64_t offset = text.file_offset + candidate;
    return offset < code.file_offset || offset >= code_end;
  });
  if (candidates.empty()) return {};

  CodeTracer tracer(text.bytes, text.vaddr,
                    elf_functions(file, text.vaddr, text.vaddr + (text_end - text.file_offset)));
  tracer.trace(candidates);
  std::vector<CodePatch> patches;
  for (const size_t candidate : candidates) {
    const auto start = instruction_start(tracer, text.bytes, candidate, code.model);
    if (!start) continue;
    const uint64_t offset = text.file_offset + *start;
    const auto insn = decode_trapped(text.bytes.subspan(*start), code.model);
    if (offset < code.file_offset || offset + insn->length > code_end) continue;
    const uint64_t at = offset - code.file_offset;
    // Hostile code may jump into an operand of FXSAVE, say, that is another one of these. Only one can be
    // replaced.
    if (!patches.empty() && code.address + at < patches.back().address + patches.back().instruction.length)
      continue;
    add_patch(code, at, *insn, patches);
  }
  return patches;
}

}  // namespace

std::vector<CodePatch> find_trapped_instructions(const CodeRange& code) {
  if (find_candidates(code.bytes, code.model).empty()) return {};
  const auto file = ElfFile::open(code.fd);
  const auto text = file ? find_text(*file, code) : std::nullopt;
  return text ? scan_text(code, *file, *text) : sweep_linearly(code);
}

}  // namespace aftercheck
