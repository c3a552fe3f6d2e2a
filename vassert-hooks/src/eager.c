/* SPDX-License-Identifier: BSD-2-Clause
 * Eager mode: NOPs become jumps to their checks, in every loaded module. */
#define _GNU_SOURCE /* dl_iterate_phdr */
#include <errno.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

struct vassert_control vassert_control_ = {.version = 1};
/* The note (thunks.S) comes along with whatever is taken from the archive, for all of that needs the control
 * block: a module whose checks use no thunk is found, too. (A word, for clang's assembler drops a .reloc of
 * R_X86_64_NONE.) */
__asm__(".pushsection .rodata,\"a\"\n.balign 4\n.long vassert_note_ - .\n.popsection");

struct module_search {
  int (*each)(const struct vassert_module*, void*);
  void* context;
};

/* Note headers are three 32-bit words; names and descriptors are padded to the segment's alignment (elf(5)).
 */
static size_t padded(size_t size, size_t alignment) { return (size + alignment - 1) & ~(alignment - 1); }

static int search_notes(const char* note, size_t size, size_t alignment, const struct module_search* search) {
  const char* end = note + size;
  while ((size_t)(end - note) >= sizeof(ElfW(Nhdr))) {
    ElfW(Nhdr) header;
    memcpy(&header, note, sizeof header);
    const char* name = note + sizeof header;
    size_t name_size = padded(header.n_namesz, alignment), desc_size = padded(header.n_descsz, alignment);
    if (name_size > (size_t)(end - name) || desc_size > (size_t)(end - name) - name_size) return 0;
    const char* desc = name + name_size;
    struct vassert_note found;
    if (header.n_type == VASSERT_NOTE_TYPE && header.n_namesz == sizeof VASSERT_NOTE_NAME &&
        memcmp(name, VASSERT_NOTE_NAME, sizeof VASSERT_NOTE_NAME) == 0 && header.n_descsz >= sizeof found) {
      memcpy(&found, desc, sizeof found);
      struct vassert_module module = {(struct vassert_control*)(desc + found.control),
                                      (const struct vassert_entry*)(desc + found.sites_start),
                                      (const struct vassert_entry*)(desc + found.sites_end)};
      if (module.control->version == 1) {
        int result = search->each(&module, search->context);
        if (result) return result;
      }
    }
    note = desc + desc_size;
  }
  return 0;
}

static int search_module(struct dl_phdr_info* info, size_t size, void* context) {
  (void)size;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr)* segment = &info->dlpi_phdr[i];
    if (segment->p_type != PT_NOTE) continue;
    int result = search_notes((const char*)info->dlpi_addr + segment->p_vaddr, segment->p_memsz,
                              segment->p_align == 8 ? 8 : 4, context);
    if (result) return result;
  }
  return 0;
}

int vassert_each_module_(int (*each)(const struct vassert_module*, void*), void* context) {
  struct module_search search = {each, context};
  return dl_iterate_phdr(search_module, &search);
}

/* Makes the page or two of code writable for as long as one NOP is changed: 1 if it is a jump now, 0 if it
 * was something else, -1 on error. */
static int patch(const struct vassert_entry* entry) {
  static const unsigned char nop[VASSERT_NOP_SIZE] = {VASSERT_NOP_BYTES};
  unsigned char* site = (unsigned char*)&entry->site + entry->site;
  const unsigned char* check = (const unsigned char*)&entry->check + entry->check;
  unsigned char jump[VASSERT_NOP_SIZE] = {0xe9};
  int32_t distance = (int32_t)(check - (site + VASSERT_NOP_SIZE));
  memcpy(jump + 1, &distance, sizeof distance);
  if (memcmp(site, jump, sizeof jump) == 0) return 1;
  if (memcmp(site, nop, sizeof nop) != 0) return 0;
  uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  uintptr_t start = (uintptr_t)site & ~(page - 1);
  uintptr_t end = ((uintptr_t)site + VASSERT_NOP_SIZE + page - 1) & ~(page - 1);
  if (mprotect((void*)start, end - start, PROT_READ | PROT_WRITE | PROT_EXEC) != 0) return -1;
  memcpy(site, jump, sizeof jump);
  return mprotect((void*)start, end - start, PROT_READ | PROT_EXEC) == 0 ? 1 : -1;
}

static int patch_module(const struct vassert_module* module, void* context) {
  int* count = context;
  module->control->eager = 1; /* first: a jump may be taken as soon as it is there */
  for (const struct vassert_entry* entry = module->sites; entry < module->sites_end; entry++) {
    if (entry->version != VASSERT_VERSION) continue;
    int result = patch(entry);
    if (result < 0) return -1;
    *count += result;
  }
  return 0;
}

int vassert_enable_eager(void) {
  int count = 0;
  return vassert_each_module_(patch_module, &count) < 0 ? -1 : count;
}

static int set_policy(const struct vassert_module* module, void* context) {
  module->control->policy = *(const enum vassert_policy*)context;
  return 0;
}
void vassert_set_policy(enum vassert_policy policy) { vassert_each_module_(set_policy, &policy); }

static int add_failures(const struct vassert_module* module, void* context) {
  *(unsigned long*)context += __atomic_load_n(&module->control->failures, __ATOMIC_RELAXED);
  return 0;
}
unsigned long vassert_failure_count(void) {
  unsigned long count = 0;
  vassert_each_module_(add_failures, &count);
  return count;
}

/* A module loaded after vassert_set_policy takes over what the others have. */
static int inherit_policy(const struct vassert_module* module, void* context) {
  (void)context;
  if (module->control == &vassert_control_) return 0;
  vassert_control_.policy = module->control->policy;
  return 1;
}

/* Each module looks after itself, so libraries loaded later are covered. 101: before the program's own
 * constructors, which may have VASSERTs. */
__attribute__((constructor(101))) static void start(void) {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512bw")) {
    vassert_control_.vectors = 2;
  } else if (__builtin_cpu_supports("avx")) {
    vassert_control_.vectors = 1;
  }
  vassert_each_module_(inherit_policy, NULL);
  const char* eager = getenv("VASSERT_EAGER");
  if (!eager || !*eager || strcmp(eager, "0") == 0) return;
  if (strcmp(eager, "report") == 0) vassert_control_.policy = VASSERT_REPORT;
  struct vassert_module self = {&vassert_control_, NULL, NULL};
  int count = 0;
  extern HIDDEN const struct vassert_entry start_of_sites __asm__("__start_vassert_sites");
  extern HIDDEN const struct vassert_entry end_of_sites __asm__("__stop_vassert_sites");
  self.sites = &start_of_sites;
  self.sites_end = &end_of_sites;
  if (patch_module(&self, &count) != 0) {
    static const char message[] = "libvassert: VASSERT_EAGER is set, but code can't be made writable\n";
    (void)!write(STDERR_FILENO, message, sizeof message - 1);
  }
}
