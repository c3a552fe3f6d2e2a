#include "machine/soft/unicorn_stores.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <cstdint>

#include "machine/soft/library_function.h"

namespace aftercheck::soft {
namespace {

// Names and signatures: qemu/accel/tcg/cputlb.c and qemu/include/exec/exec-all.h of Unicorn 2.0.1; the suffix
// is Unicorn's per target. CPUState stays opaque, MemTxAttrs travels as the 32-bit value it is.
using SetPage = void (*)(void*, uint64_t, uint64_t, uint32_t, int, int, uint64_t);
using SetDirty = void (*)(void*, uint64_t);

struct Library {
  SetPage set_page;
  SetDirty set_dirty;
};

const Library& library() {
  static const Library found = {
      library_function<SetPage>("tlb_set_page_with_attrs_x86_64"),
      reinterpret_cast<SetDirty>(dlsym(RTLD_DEFAULT, "tlb_set_dirty_x86_64")),
  };
  return found;
}

thread_local const PageTables* current = nullptr;

}  // namespace

FastStores::FastStores(const PageTables& tables) : previous_(current) { current = &tables; }
FastStores::~FastStores() { current = previous_; }

}  // namespace aftercheck::soft

extern "C" __attribute__((visibility("default"))) void tlb_set_page_with_attrs_x86_64(
    void* cpu, uint64_t vaddr, uint64_t paddr, uint32_t attrs, int prot, int mmu_index, uint64_t size);

// Called by the library in place of its own.
void tlb_set_page_with_attrs_x86_64(void* cpu, uint64_t vaddr, uint64_t paddr, uint32_t attrs, int prot,
                                    int mmu_index, uint64_t size) {
  using namespace aftercheck;
  const soft::Library& library = soft::library();
  library.set_page(cpu, vaddr, paddr, attrs, prot, mmu_index, size);
  const soft::PageTables* tables = soft::current;
  if (tables == nullptr || library.set_dirty == nullptr) return;
  if (tables->allows(vaddr, Access::write) && !tables->allows(vaddr, Access::fetch))
    library.set_dirty(cpu, vaddr);
}
