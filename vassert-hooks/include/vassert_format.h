/* SPDX-License-Identifier: BSD-2-Clause
 * What a program with VAsserts and the replayer agree on: the table of sites, the ELF note that leads to it,
 * and the operations a check performs. C11 and C++17; needs <stdint.h> only. vassert.h makes all of it; this
 * is for readers.
 *
 * A *site* is a 5-byte NOP in the program. Its *check* is code of the same function, off the hot path. To
 * evaluate a site the replayer stops a guest at the NOP and goes on at the check, in a throw-away copy of the
 * guest: an *excursion*.
 */
#ifndef VASSERT_FORMAT_H
#define VASSERT_FORMAT_H

#include <stdint.h>

/* The NOP at every site: nopl 0x0(%rax,%rax,1). In a program that checks eagerly it is JMP rel32 (E9)
 * instead. */
#define VASSERT_NOP_BYTES 0x0f, 0x1f, 0x44, 0x00, 0x00
#define VASSERT_NOP_SIZE 5

/* The table: an allocated, read-only section of vassert_entry, with the linker's __start_ and __stop_
 * symbols. */
#define VASSERT_SECTION "vassert_sites"
/* Ghost variables: a writable section that starts on a page. Only checks touch it. Its last page may be
 * shared with other data of the program where the linker put some after it: only the bytes from start to end
 * are ghosts. */
#define VASSERT_GHOST_SECTION "vassert_ghost"
#define VASSERT_VERSION 1u

enum vassert_kind {
  VASSERT_KIND_ASSERT = 0,  /* VASSERT */
  VASSERT_KIND_MESSAGE = 1, /* VASSERT_MSG */
  VASSERT_KIND_LOG = 2,     /* VASSERT_LOG: never fails */
  VASSERT_KIND_BLOCK = 3    /* VASSERT_BLOCK */
};

/* One site. The offsets are relative to the address of their own field, so the table needs no relocations.
 * One line of source may have several entries (inlined, cloned or unrolled code); entries may share a check.
 */
struct vassert_entry {
  int32_t site;     /* the NOP */
  int32_t check;    /* where the check begins */
  int32_t file;     /* NUL-terminated, as __FILE__ */
  int32_t text;     /* NUL-terminated: the expression, the format, or empty for a block */
  int32_t function; /* NUL-terminated, may be empty: the symbol table knows more */
  uint32_t line;
  uint32_t kind;    /* enum vassert_kind */
  uint32_t version; /* VASSERT_VERSION; skip entries of other versions */
};

/* The note, in section .note.vassert and so in a PT_NOTE segment: found where section headers are missing.
 * One for each executable or shared library. Offsets are relative to the start of the descriptor itself.
 * Later versions only append. */
#define VASSERT_NOTE_NAME "Vassert" /* 8 bytes with its NUL */
#define VASSERT_NOTE_TYPE 1u
struct vassert_note {
  int64_t sites_start, sites_end;
  int64_t ghost_start, ghost_end;
  /* The module's struct vassert_control: for the library. A replayer may set its word `vectors`, while a
   * check runs, to 0: only XMM registers are kept around what the check calls. */
  int64_t control;
};
#define VASSERT_NOTE_MIN_SIZE 32u     /* up to and with ghost_end */
#define VASSERT_NOTE_CONTROL_SIZE 40u /* up to and with control */
#define VASSERT_CONTROL_VERSION 1u    /* its first 32-bit word; skip others */
#define VASSERT_CONTROL_VECTORS 12u   /* offset of `vectors`, 32 bits */

/* What a check asks for, as a system call: number VASSERT_SYSCALL in rax, operation in rdi, its arguments in
 * rsi, rdx and r10, result in rax (rcx and r11 are lost as in any system call). Linux does not know the
 * number and answers -ENOSYS.
 *
 * `entry` is the address of a vassert_entry that describes the check that speaks (file, text, line, kind). It
 * is a record of the check's own, not an element of the table: `site` and `check` are 0 (no offset), as one
 * check may serve several sites. Whose hit it is, the replayer knows: the innermost site it went to the check
 * of.
 *
 * A check ends at its VASSERT_OP_END or when execution arrives at site + 5, whichever is first. (A compiler
 * may join the code after the check somewhere behind site + 5, so END is what counts; site + 5 serves checks
 * left by a goto.) For a check nested in another one, END returns and the outer check goes on. */
#define VASSERT_SYSCALL 0x564153L

enum vassert_operation {
  VASSERT_OP_BEGIN = 1, /* (entry): first thing in a check. How many checks it is nested in */
  VASSERT_OP_FAILED =
      2,              /* (entry, text, length): the check failed; text is its message and may be empty. 0 */
  VASSERT_OP_LOG = 3, /* (text, length): a line for the report. 0 */
  VASSERT_OP_GHOST_MAP =
      4, /* (length) -> address: zeroed memory that lives from one excursion to the next and is never
            unmapped; length is rounded up to pages. -ENOMEM if there is no more */
  VASSERT_OP_END = 5 /* (entry): last thing in a check; what it printed to stdout is flushed before. 0 */
};

/* Where VASSERT_OP_GHOST_MAP puts its memory; the recorder never gives these addresses to a guest. */
#define VASSERT_GHOST_HEAP_START UINT64_C(0x207d00000000)
#define VASSERT_GHOST_HEAP_END UINT64_C(0x207e00000000)

#ifdef __cplusplus
static_assert(sizeof(struct vassert_entry) == 32, "the table's entry is 32 bytes");
#else
_Static_assert(sizeof(struct vassert_entry) == 32, "the table's entry is 32 bytes");
#endif

#endif
