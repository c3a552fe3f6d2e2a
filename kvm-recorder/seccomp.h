// seccomp(2): which system calls a guest thread lets itself make. Decided here: the host's kernel would apply
// the guest's filters to the recorder.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace aftercheck {

// One thread's. Filters are added, never taken away; a new thread or process starts with a copy.
class Seccomp {
 public:
  // SECCOMP_MODE_DISABLED, _STRICT or _FILTER.
  int mode() const { return mode_; }
  size_t filters() const { return filters_.size(); }
  // 0, or -EINVAL where the thread has the other mode already.
  long set_strict();
  // The kernel's checks (kernel/seccomp.c, seccomp_check_filter(); net/core/filter.c, bpf_check_classic()): 0
  // or -EINVAL, -ENOMEM where all filters together are too long.
  long add_filter(std::span<const sock_filter> program);
  // SECCOMP_RET_* with its data: what all filters together say of this call. In strict mode
  // SECCOMP_RET_KILL_THREAD or SECCOMP_RET_ALLOW.
  uint32_t decide(const seccomp_data& call) const;
  // Whether a thread with these may be given those of `other` instead: nothing of its own would be lost
  // (kernel/seccomp.c, seccomp_can_sync_threads()).
  bool leads_to(const Seccomp& other) const;

 private:
  using Filter = std::vector<sock_filter>;

  int mode_ = SECCOMP_MODE_DISABLED;
  std::vector<std::shared_ptr<const Filter>> filters_;
};

}  // namespace aftercheck
