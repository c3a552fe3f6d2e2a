// One Unicorn CPU, brought to where a Linux process runs: 64-bit mode, ring 3, paging on, SSE enabled.
#pragma once

#include <unicorn/unicorn.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "machine/registers.h"
#include "machine/soft/page_tables.h"

namespace aftercheck::soft {

class UnicornEngine {
 public:
  // `tables` must outlive the engine. Throws Error(host_lacks) when the library can't do what is needed.
  explicit UnicornEngine(PageTables& tables);

  uc_engine* get() const { return engine_.get(); }

  // Makes [range) of our own memory the same range of "physical" memory. Ranges must not overlap.
  void add_memory(Range range);
  // A stretch of memory behind which there is nothing, so that the page tables are asked about an access
  // there (Unicorn reports what lies outside all memory by itself, and not exactly). False when there is no
  // room for it.
  bool add_hole(uint64_t address);
  void remove_holes();

  void load(const Registers& registers);
  void store(Registers& registers);
  // One of them, as to_words() counts; also for hooks, while the engine runs.
  uint64_t word(size_t number) const;
  std::array<uint64_t, 2> xmm(size_t number) const;
  uint64_t fault_address() const;

  // Unicorn delivers no exceptions, so it believes the last one is still being delivered and would turn the
  // next into a double fault. Call after each, with the registers stored; load() them again afterwards.
  void forget_exception();

  void flush_tlb();
  // Removes a hook on any code, translated or gone. load() the registers again afterwards.
  void remove_hook(uc_hook hook);
  // Drops the translations of code on these pages, and hooks on them.
  void forget_code(const std::vector<uint64_t>& pages, const std::vector<uc_hook>& hooks = {});

 private:
  struct Close {
    void operator()(uc_engine* engine) const { uc_close(engine); }
  };
  struct FreeContext {
    void operator()(uc_context* context) const { uc_context_free(context); }
  };

  PageTables& tables_;
  std::unique_ptr<uc_engine, Close> engine_;
  std::unique_ptr<uc_context, FreeContext> pristine_;
  std::vector<uint64_t> holes_;
  Registers loaded_;
  bool loaded_valid_ = false;
  bool flush_parity_ = false;

  void enter_user_mode();
};

// Throws Error(internal) naming the call unless `error` is UC_ERR_OK.
void check(uc_err error, const char* call);

}  // namespace aftercheck::soft
