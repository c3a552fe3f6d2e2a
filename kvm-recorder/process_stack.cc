#include "kvm-recorder/process_stack.h"

#include <elf.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "kvm-recorder/elf_program.h"

namespace aftercheck {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kMaxString = 32 * kPageSize;  // include/uapi/linux/binfmts.h, MAX_ARG_STRLEN

// Grows downwards from the top of the stack in a buffer of our own, which is then copied into the guest in
// one piece.
class StackBuilder {
 public:
  explicit StackBuilder(uint64_t top) : address_(top) {}

  uint64_t push(const void* data, size_t size) {
    const auto* bytes = static_cast<const std::byte*>(data);
    reversed_.insert(reversed_.end(), std::make_reverse_iterator(bytes + size),
                     std::make_reverse_iterator(bytes));
    address_ -= size;
    return address_;
  }
  uint64_t push_string(const std::string& text) { return push(text.c_str(), text.size() + 1); }
  void skip(uint64_t size) {
    reversed_.resize(reversed_.size() + size);
    address_ -= size;
  }
  // Leaves the address at a multiple of 16 once `size` more bytes have been pushed.
  void align_for(uint64_t size) { skip((address_ - size) % 16); }
  uint64_t address() const { return address_; }
  std::vector<std::byte> contents() const { return {reversed_.rbegin(), reversed_.rend()}; }

 private:
  uint64_t address_;
  std::vector<std::byte> reversed_;
};

// Strings are laid out upwards in their order, as the kernel's are: /proc/self/cmdline readers may rely on
// it.
std::vector<uint64_t> push_strings(StackBuilder& stack, const std::vector<std::string>& strings) {
  std::vector<uint64_t> addresses(strings.size());
  std::transform(strings.rbegin(), strings.rend(), addresses.rbegin(),
                 [&](const std::string& text) { return stack.push_string(text); });
  return addresses;
}

}  // namespace

uint64_t host_stack_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_STACK, &limit) != 0) return 8 * kMiB;
  return limit.rlim_cur;
}

// fs/exec.c, setup_arg_pages(): 128 KiB beyond the arguments whatever the limit is. Of those 128 KiB are
// always allowed.
uint64_t stack_size(uint64_t limit) {
  constexpr uint64_t kLeast = 256 << 10;
  return page_down(std::clamp<uint64_t>(limit, kLeast, 8 * kMiB));
}

void check_argument_size(const Program& program, const std::vector<std::string>& environment,
                         uint64_t stack_limit) {
  // fs/exec.c, bprm_stack_limits(): a quarter of the stack limit, 6 MiB at most, ARG_MAX (128 KiB) at least.
  const uint64_t limit = std::clamp<uint64_t>(stack_limit / 4, 128 << 10, 6 * kMiB);
  uint64_t total = program.execfn.size() + 1;
  for (const auto* list : {&program.arguments, &environment})
    for (const std::string& text : *list) {
      if (text.size() >= kMaxString)
        refuse_exec(E2BIG, "{}: an argument or environment string has {} bytes; the kernel allows {}",
                    program.execfn, text.size(), kMaxString - 1);
      total += text.size() + 1 + sizeof(uint64_t);
    }
  if (total > limit)
    refuse_exec(E2BIG,
                "{}: arguments and environment have {} bytes; the limit is {} (a quarter of RLIMIT_STACK)",
                program.execfn, total, limit);
}

void build_stack(GuestTask& task, const Program& program, const std::vector<std::string>& environment,
                 const ImageAddresses& addresses, uint64_t random) {
  GuestProcess& process = task.process;
  StackBuilder stack(process.stack.end);
  stack.skip(sizeof(uint64_t));  // a NULL pointer ends it all
  const uint64_t execfn = stack.push_string(program.execfn);
  const std::vector<uint64_t> environment_at = push_strings(stack, environment);
  const std::vector<uint64_t> arguments_at = push_strings(stack, program.arguments);
  stack.skip(random % 8192);
  stack.align_for(0);
  const uint64_t platform = stack.push("x86_64", sizeof "x86_64");
  std::array<std::byte, 16> random_bytes{};
  if (getrandom(random_bytes.data(), random_bytes.size(), 0) != ssize_t{random_bytes.size()})
    fail(ErrorKind::host_lacks, "getrandom: {}", errno_text(errno));
  const uint64_t random_at = stack.push(random_bytes.data(), random_bytes.size());

  // The kernel's order. No AT_SYSINFO_EHDR: the guest has no vDSO, its clock reads must be system calls. No
  // AT_RSEQ_*: rseq(2) answers ENOSYS.
  process.auxv = {
      AT_MINSIGSTKSZ,
      2048,  // our frame, with XSAVE area or without, is smaller than this constant of the ABI
      AT_HWCAP,
      process.cpu.hwcap(),
      AT_PAGESZ,
      kPageSize,
      AT_CLKTCK,
      100,  // USER_HZ
      AT_PHDR,
      addresses.headers,
      AT_PHENT,
      sizeof(Elf64_Phdr),
      AT_PHNUM,
      addresses.header_count,
      AT_BASE,
      addresses.interpreter_base,
      AT_FLAGS,
      0,
      AT_ENTRY,
      addresses.entry,
      AT_UID,
      getuid(),
      AT_EUID,
      geteuid(),
      AT_GID,
      getgid(),
      AT_EGID,
      getegid(),
      AT_SECURE,
      0,
      AT_RANDOM,
      random_at,
      AT_HWCAP2,
      0,
      AT_EXECFN,
      execfn,
      AT_PLATFORM,
      platform,
      AT_NULL,
      0,
  };

  std::vector<uint64_t> words{program.arguments.size()};
  words.insert(words.end(), arguments_at.begin(), arguments_at.end());
  words.push_back(0);
  words.insert(words.end(), environment_at.begin(), environment_at.end());
  words.push_back(0);
  words.insert(words.end(), process.auxv.begin(), process.auxv.end());
  stack.align_for(words.size() * sizeof(uint64_t));
  process.entry.rsp = stack.push(words.data(), words.size() * sizeof(uint64_t));

  const std::vector<std::byte> contents = stack.contents();
  if (stack.address() < process.stack.start ||
      !task.answer.poke(stack.address(), contents.data(), contents.size()))
    fail(ErrorKind::internal, "{}: the initial stack does not fit at {:#x}", program.execfn, stack.address());
}

}  // namespace aftercheck
