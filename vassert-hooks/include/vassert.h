/* SPDX-License-Identifier: BSD-2-Clause
 * VAsserts: assertions that cost a 5-byte NOP where the program runs, and are checked when a recording of it
 * is replayed (`aftercheck record`, then `aftercheck check`). C11 and C++17; gcc 9 or clang 11 and later;
 * x86-64 Linux. Link with libvassert.a. docs/vassert-guide.md is the introduction.
 *
 * - VASSERT(expression);                         fails if the expression is false
 * - VASSERT_MSG(expression, "format", args...);  the same, with a message in the report (as printf)
 * - VASSERT_LOG("format", args...);              a line in the report
 * - VASSERT_BLOCK { statements }                 only a check runs them: loops, calls, VASSERTs, printf
 * - VASSERT_FAIL("format", args...);             in a VASSERT_BLOCK: makes it fail
 * - VASSERT_CALL(function, args...)              in a check: a call that costs the code around it nothing
 *
 * They are statements (not expressions) of a function's body, and see its locals. A check may read anything;
 * what it writes is gone when it ends, except ghost memory (vassert_ghost.h), and the outside world is out of
 * its reach. VASSERT_BLOCK is two statements: put braces around it after `if (x)`. Not for constexpr
 * functions.
 *
 * With VASSERT_DISABLE defined they compile to nothing (the expressions are still parsed, never evaluated).
 *
 * What the NOP does not show: the compiler has to keep what a check needs. Operands that the code has in
 * registers or memory anyway cost nothing; others are kept alive or computed for the check. An ordinary call
 * in a check (VASSERT_MSG and VASSERT_LOG have one) may make the function save registers on entry, and one to
 * another file makes the compiler assume that memory changes. On a hot path call the checking function by
 * VASSERT_CALL(function, args...), with up to three integers or pointers as arguments; its value is the
 * function's, an integer or pointer. Loops with a VASSERT are not vectorized or unrolled.
 */
#ifndef VASSERT_H
#define VASSERT_H

#include <stddef.h>

#include "vassert_format.h"
#include "vassert_ghost.h"

#if !defined(__x86_64__) || !defined(__ELF__) || !defined(__GNUC__)
#error "VAsserts need x86-64, ELF, and gcc or clang; define VASSERT_DISABLE where they are not wanted"
#endif

#ifdef __cplusplus
extern "C" {
#define VASSERT_NOEXCEPT_ noexcept
#else
#define VASSERT_NOEXCEPT_
#endif
#define VASSERT_HIDDEN_ __attribute__((visibility("hidden")))

/* Checks on the spot from now on: the NOPs of the executable and of every loaded library become jumps to
 * their checks. A check that fails prints to stderr and then follows the policy. Returns how many sites check
 * now (those that did before included); -1 with errno where code can't be made writable (then some may check
 * and some not). Libraries loaded later: call it again. Call it while no other thread is in code with
 * VAsserts: code is patched. VASSERT_EAGER=1 in the environment does the same before main, for libraries when
 * they are loaded; VASSERT_EAGER=report also sets the policy VASSERT_REPORT. */
VASSERT_HIDDEN_ int vassert_enable_eager(void);

/* What an eager check does after it printed a failure: abort() (the default) or go on. For the whole process.
 */
enum vassert_policy { VASSERT_ABORT = 0, VASSERT_REPORT = 1 };
VASSERT_HIDDEN_ void vassert_set_policy(enum vassert_policy policy);

/* How many eager checks failed so far, in the whole process. */
VASSERT_HIDDEN_ unsigned long vassert_failure_count(void);

/* The rest is for the macros below.
 * The thunks keep every register and take the record from the instruction after the call, so that a check
 * changes nothing in how the compiler lays out the function around it. The reporting functions are not really
 * pure: this promises only that they change nothing of the program's, and keeps the compiler from reloading
 * memory on the hot path for their sake. */
VASSERT_HIDDEN_ void vassert_begin_thunk_(void);
VASSERT_HIDDEN_ void vassert_failed_thunk_(void);
VASSERT_HIDDEN_ void vassert_threw_thunk_(void);
VASSERT_HIDDEN_ void vassert_end_thunk_(void);
VASSERT_HIDDEN_ void vassert_call_thunk_(void);
VASSERT_HIDDEN_ int vassert_failed_message_(const struct vassert_entry* record, const char* format,
                                            ...) VASSERT_NOEXCEPT_
    __attribute__((format(printf, 2, 3), pure, cold));
VASSERT_HIDDEN_ int vassert_log_(const struct vassert_entry* record, const char* format,
                                 ...) VASSERT_NOEXCEPT_ __attribute__((format(printf, 2, 3), pure, cold));
VASSERT_HIDDEN_ void vassert_begin_(const struct vassert_entry* record) VASSERT_NOEXCEPT_
    __attribute__((cold));
VASSERT_HIDDEN_ void vassert_end_(const struct vassert_entry* record) VASSERT_NOEXCEPT_ __attribute__((cold));
/* How many exceptions of this thread are on their way to a handler. */
VASSERT_HIDDEN_ unsigned vassert_exceptions_(void) VASSERT_NOEXCEPT_ __attribute__((cold));
/* Fails if there are more than these, then ends. */
VASSERT_HIDDEN_ void vassert_leave_block_(const struct vassert_entry* record,
                                          unsigned exceptions) VASSERT_NOEXCEPT_ __attribute__((cold));

#ifdef __cplusplus
} /* extern "C" */
#endif

#define VASSERT_PASTE2_(a, b) a##b
#define VASSERT_PASTE_(a, b) VASSERT_PASTE2_(a, b)

/* By the number of arguments. */
#define VASSERT_CALL(...) VASSERT_CALL_N_(__VA_ARGS__, 3, 2, 1, 0, 0)(__VA_ARGS__)
#define VASSERT_CALL_N_(f, a, b, c, n, ...) VASSERT_PASTE_(VASSERT_CALL_, n)
#define VASSERT_CALL_0(f) VASSERT_CALL_ASM_(f(), f, 0, 0, 0)
#define VASSERT_CALL_1(f, a) VASSERT_CALL_ASM_(f(a), f, a, 0, 0)
#define VASSERT_CALL_2(f, a, b) VASSERT_CALL_ASM_(f(a, b), f, a, b, 0)
#define VASSERT_CALL_3(f, a, b, c) VASSERT_CALL_ASM_(f(a, b, c), f, a, b, c)
/* All by the stack, so that no register is preferred: what is live around the check stays where it is. */
#define VASSERT_CALL_ASM_(call, function, a, b, c)                                                          \
  (__extension__({                                                                                          \
    long vassert_result_;                                                                                   \
    __typeof__(call) vassert_value_;                                                                        \
    __asm__ __inline__ __volatile__(                                                                        \
        "lea -128(%%rsp),%%rsp\npush %[vassert_c]\npush %[vassert_b]\npush %[vassert_a]\npush "             \
        "%[vassert_f]\n"                                                                                    \
        "call %c[vassert_thunk]\npop %[vassert_result]\nlea 152(%%rsp),%%rsp"                               \
        : [vassert_result] "=r"(vassert_result_)                                                            \
        : [vassert_thunk] "i"(vassert_call_thunk_), [vassert_f] "r"(function),                              \
          [vassert_a] "r"((uintptr_t)(a)), [vassert_b] "r"((uintptr_t)(b)), [vassert_c] "r"((uintptr_t)(c)) \
        : "memory");                                                                                        \
    __builtin_memcpy(&vassert_value_, &vassert_result_, sizeof vassert_value_);                             \
    vassert_value_;                                                                                         \
  }))

#ifdef VASSERT_DISABLE

#define VASSERT(...)     \
  do {                   \
    if (0) {             \
      if (__VA_ARGS__) { \
      }                  \
    }                    \
  } while (0)
#define VASSERT_MSG(expression, ...)                                   \
  do {                                                                 \
    if (0) {                                                           \
      if (expression) {                                                \
      }                                                                \
      (void)vassert_log_((const struct vassert_entry*)0, __VA_ARGS__); \
    }                                                                  \
  } while (0)
#define VASSERT_LOG(...)                                                    \
  do {                                                                      \
    if (0) (void)vassert_log_((const struct vassert_entry*)0, __VA_ARGS__); \
  } while (0)
#define VASSERT_FAIL(...) VASSERT_LOG(__VA_ARGS__)
#define VASSERT_BLOCK for (; 0;)

#else /* VASSERT_DISABLE */

/* A vassert_entry in a section. "?" puts it into the COMDAT group of the function, if there is one, so that
 * both stay or go. */
#define VASSERT_ENTRY_(section, site, check)                                                            \
  ".pushsection " section                                                                               \
  ",\"aR?\",@progbits\n"                                                                                \
  ".balign 4\n"                                                                                         \
  "762:.long " site "," check                                                                           \
  ",%c[vassert_file]-.,%c[vassert_text]-.,%c[vassert_function]-.,%c[vassert_line],%c[vassert_kind],1\n" \
  ".popsection\n"
#define VASSERT_OPERANDS_(text, function, kind)                                             \
  [vassert_file] "i"(__FILE__), [vassert_text] "i"(text), [vassert_function] "i"(function), \
      [vassert_line] "i"(__LINE__), [vassert_kind] "i"(kind)
#define VASSERT_SITE_(text, function, kind, label)                                                         \
  __asm__ __inline__ goto(                                                                                 \
      "761:.byte 0x0f,0x1f,0x44,0x00,0x00\n" VASSERT_ENTRY_(VASSERT_SECTION, "761b-.", "%l[" #label "]-.") \
      :                                                                                                    \
      : VASSERT_OPERANDS_(text, function, kind)                                                            \
      :                                                                                                    \
      : label)
/* The red zone is stepped over; the thunk's unwind information accounts for it. */
#define VASSERT_SPEAK_(thunk, text, function, kind) \
  __asm__ __inline__ __volatile__(VASSERT_ENTRY_(".rodata.vassert", "0", "0") "lea -128(%%rsp),%%rsp\n"              \
                                                                              "call %c[vassert_thunk]\n"             \
                                                                              ".byte 0x0f,0x1f,0x80\n.long 762b-.\n" \
                                                                              "lea 128(%%rsp),%%rsp"                 \
                                  :                                                                                  \
                                  : [vassert_thunk] "i"(thunk), VASSERT_OPERANDS_(text, function, kind))
#define VASSERT_RECORD_(pointer, text, function, kind)                                 \
  __asm__ __inline__ __volatile__(                                                     \
      VASSERT_ENTRY_(".rodata.vassert", "0", "0") "lea 762b(%%rip),%[vassert_pointer]" \
      : [vassert_pointer] "=r"(pointer)                                                \
      : VASSERT_OPERANDS_(text, function, kind))

/* The thunks' check of an expression; an exception from it is a failure. */
#if defined(__cpp_exceptions)
#define VASSERT_TRY_ try
#define VASSERT_CATCH_(text, function, kind)                    \
  catch (...) {                                                 \
    VASSERT_SPEAK_(vassert_threw_thunk_, text, function, kind); \
  }
#else
#define VASSERT_TRY_
#define VASSERT_CATCH_(text, function, kind)
#endif

/* The result is used by an asm, so that the "pure" call stays. */
#define VASSERT_SAY_(call, text, function, kind, ...)                     \
  do {                                                                    \
    const struct vassert_entry* vassert_record_;                          \
    VASSERT_RECORD_(vassert_record_, text, function, kind);               \
    __asm__ __volatile__("" : : "r"(call(vassert_record_, __VA_ARGS__))); \
  } while (0)

#define VASSERT_CHECK_(text, function, kind, failed, ...)     \
  VASSERT_SPEAK_(vassert_begin_thunk_, text, function, kind); \
  VASSERT_TRY_ {                                              \
    if (__VA_ARGS__) {                                        \
    } else {                                                  \
      failed;                                                 \
    }                                                         \
  }                                                           \
  VASSERT_CATCH_(text, function, kind)                        \
  VASSERT_SPEAK_(vassert_end_thunk_, text, function, kind)
#define VASSERT_CHECK_LOG_(text, function, ...)                                               \
  VASSERT_SPEAK_(vassert_begin_thunk_, text, function, VASSERT_KIND_LOG);                     \
  VASSERT_TRY_ { VASSERT_SAY_(vassert_log_, text, function, VASSERT_KIND_LOG, __VA_ARGS__); } \
  VASSERT_CATCH_(text, function, VASSERT_KIND_LOG)                                            \
  VASSERT_SPEAK_(vassert_end_thunk_, text, function, VASSERT_KIND_LOG)

/* What a VASSERT_BLOCK runs under. Left in any way (return, break, an exception), it ends the check; an
 * exception fails it. */
struct vassert_block_ {
  const struct vassert_entry* record;
  unsigned exceptions; /* on their way when it was entered, as in a destructor's */
};
static inline struct vassert_block_ vassert_enter_(const struct vassert_entry* record) {
  struct vassert_block_ block;
  block.record = record;
  block.exceptions = vassert_exceptions_();
  vassert_begin_(record);
  return block;
}
static inline void vassert_leave_(struct vassert_block_* block) {
  if (block->record) vassert_leave_block_(block->record, block->exceptions);
  block->record = NULL;
}
#define VASSERT_BLOCK_RECORD_(function)                                 \
  (__extension__({                                                      \
    const struct vassert_entry* vassert_record_;                        \
    VASSERT_RECORD_(vassert_record_, "", function, VASSERT_KIND_BLOCK); \
    vassert_record_;                                                    \
  }))

#if defined(__clang__) && defined(__cplusplus)

/* clang before 17 takes every label of an asm goto for a target of all the function's asm gotos, which C++
 * scopes forbid. So each has a function of its own, which the compiler dissolves. */
#define VASSERT_REACHED_(text, function, kind)           \
  []() __attribute__((always_inline)) noexcept->bool {   \
    VASSERT_SITE_(text, function, kind, vassert_check_); \
    return false;                                        \
  vassert_check_:                                        \
    return true;                                         \
  }                                                      \
  ()
#define VASSERT_STATEMENT_(n, text, kind, check)                                                   \
  do {                                                                                             \
    static constexpr const char* VASSERT_PASTE_(vassert_function_, n) = __func__;                  \
    if (__builtin_expect(VASSERT_REACHED_(text, VASSERT_PASTE_(vassert_function_, n), kind), 0)) { \
      check;                                                                                       \
    }                                                                                              \
  } while (0)
#define VASSERT_BLOCK_HEAD_(n)                                                                  \
  for (bool VASSERT_PASTE_(vassert_reached_, n) = VASSERT_REACHED_("", "", VASSERT_KIND_BLOCK); \
       __builtin_expect(VASSERT_PASTE_(vassert_reached_, n), 0);                                \
       VASSERT_PASTE_(vassert_reached_, n) = false)

#else

#if defined(__clang__)
#define VASSERT_COLD_
#else
#define VASSERT_COLD_ __attribute__((cold));
#endif
#define VASSERT_STATEMENT_(n, text, kind, check)                                  \
  do {                                                                            \
    VASSERT_SITE_LABEL_(text, __func__, kind, VASSERT_PASTE_(vassert_check_, n)); \
    if (0) {                                                                      \
      VASSERT_PASTE_(vassert_check_, n) : VASSERT_COLD_ check;                    \
    }                                                                             \
  } while (0)
#define VASSERT_SITE_LABEL_(text, function, kind, label) VASSERT_SITE_(text, function, kind, label)
#define VASSERT_BLOCK_HEAD_(n)                                                              \
  VASSERT_SITE_LABEL_("", __func__, VASSERT_KIND_BLOCK, VASSERT_PASTE_(vassert_check_, n)); \
  if (0) VASSERT_PASTE_(vassert_check_, n) :

#endif

#ifdef __cplusplus
struct vassert_scope_ : vassert_block_ {
  explicit vassert_scope_(const vassert_entry* r) noexcept : vassert_block_(vassert_enter_(r)) {}
  vassert_scope_(const vassert_scope_&) = delete;
  vassert_scope_& operator=(const vassert_scope_&) = delete;
  ~vassert_scope_() { vassert_leave_(this); }
};
#define VASSERT_BLOCK_SCOPE_(name) \
  for (struct vassert_scope_ name(VASSERT_BLOCK_RECORD_(__func__)); name.record; vassert_leave_(&name))
#elif defined(__clang__) && __clang_major__ < 17 /* see above: no cleanup scopes there */
#define VASSERT_BLOCK_SCOPE_(name)                                                                \
  for (struct vassert_block_ name = vassert_enter_(VASSERT_BLOCK_RECORD_(__func__)); name.record; \
       vassert_leave_(&name))
#else
#define VASSERT_BLOCK_SCOPE_(name)                                                                 \
  for (struct vassert_block_ name                                                                  \
       __attribute__((cleanup(vassert_leave_))) = vassert_enter_(VASSERT_BLOCK_RECORD_(__func__)); \
       name.record; vassert_leave_(&name))
#endif

#define VASSERT(...) VASSERT_N_(__COUNTER__, #__VA_ARGS__, __VA_ARGS__)
#define VASSERT_N_(n, text, ...)                                                                 \
  VASSERT_STATEMENT_(                                                                            \
      n, text, VASSERT_KIND_ASSERT,                                                              \
      VASSERT_CHECK_(text, __func__, VASSERT_KIND_ASSERT,                                        \
                     VASSERT_SPEAK_(vassert_failed_thunk_, text, __func__, VASSERT_KIND_ASSERT), \
                     __VA_ARGS__))
#define VASSERT_MSG(expression, ...) VASSERT_MSG_N_(__COUNTER__, #expression, expression, __VA_ARGS__)
#define VASSERT_MSG_N_(n, text, expression, ...)                                          \
  VASSERT_STATEMENT_(n, text, VASSERT_KIND_MESSAGE,                                       \
                     VASSERT_CHECK_(text, __func__, VASSERT_KIND_MESSAGE,                 \
                                    VASSERT_SAY_(vassert_failed_message_, text, __func__, \
                                                 VASSERT_KIND_MESSAGE, __VA_ARGS__),      \
                                    expression))
#define VASSERT_LOG(...) VASSERT_LOG_N_(__COUNTER__, #__VA_ARGS__, __VA_ARGS__)
#define VASSERT_LOG_N_(n, text, ...) \
  VASSERT_STATEMENT_(n, text, VASSERT_KIND_LOG, VASSERT_CHECK_LOG_(text, __func__, __VA_ARGS__))
#define VASSERT_FAIL(...) VASSERT_SAY_(vassert_failed_message_, "", __func__, VASSERT_KIND_BLOCK, __VA_ARGS__)
#define VASSERT_BLOCK VASSERT_BLOCK_N_(__COUNTER__)
#define VASSERT_BLOCK_N_(n) VASSERT_BLOCK_HEAD_(n) VASSERT_BLOCK_SCOPE_(VASSERT_PASTE_(vassert_block_, n))

#endif /* VASSERT_DISABLE */

#endif
