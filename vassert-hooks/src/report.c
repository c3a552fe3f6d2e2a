/* SPDX-License-Identifier: BSD-2-Clause
 * What checks say: to the replayer in an excursion, to stderr in eager mode. */
#include <stdarg.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* Longer messages are cut. */
enum { MESSAGE_SIZE = 2048 };

/* What is left of it where the streams have something. */
void vassert_begin_slowly_(const struct vassert_entry* record) {
  long around = vassert_syscall(VASSERT_OP_BEGIN, (uintptr_t)record, 0, 0);
  if (vassert_depth_ == 1 && around <= 0) {
    /* The guest's own unwritten output is not the check's. */
    __fpurge(stdout);
    __fpurge(stderr);
  } else {
    fflush(stdout);
  }
}

void vassert_end_slowly_(const struct vassert_entry* record) {
  fflush(stdout);
  fflush(stderr);
  vassert_syscall(VASSERT_OP_END, (uintptr_t)record, 0, 0);
}

void vassert_begin_(const struct vassert_entry* record) {
  if (vassert_control_.eager) return;
  vassert_begin_quickly_();
  if (vassert_more_) vassert_begin_slowly_(record);
}

void vassert_end_(const struct vassert_entry* record) {
  if (vassert_control_.eager) return;
  vassert_end_quickly_();
  if (vassert_more_) vassert_end_slowly_(record);
}

/* The head of what the C++ runtime keeps for each thread (Itanium C++ ABI, exception handling, 2.2.2). Weak:
 * programs without that runtime throw nothing. */
struct exception_globals {
  void* caught;
  unsigned uncaught;
};
extern struct exception_globals* __cxa_get_globals(void) __attribute__((weak));

unsigned vassert_exceptions_(void) { return __cxa_get_globals ? __cxa_get_globals()->uncaught : 0; }

void vassert_leave_block_(const struct vassert_entry* record, unsigned exceptions) {
  if (vassert_exceptions_() > exceptions) vassert_threw_(record);
  vassert_end_(record);
}

static void say_eagerly(const struct vassert_entry* record, const char* what, const char* message) {
  const char* text = vassert_string(&record->text);
  const char* function = vassert_string(&record->function);
  fflush(stdout); /* what the program printed before comes before */
  fprintf(stderr, "%s:%u: %s%s%s", vassert_string(&record->file), record->line, function,
          *function ? ": " : "", what);
  if (record->kind != VASSERT_KIND_LOG && *text) fprintf(stderr, " '%s'", text);
  fprintf(stderr, "%s%s\n", *message ? ": " : "", message);
  fflush(stderr);
}

static void fail(const struct vassert_entry* record, const char* message) {
  if (!vassert_control_.eager) {
    vassert_syscall(VASSERT_OP_FAILED, (uintptr_t)record, (uintptr_t)message, strlen(message));
    return;
  }
  __atomic_add_fetch(&vassert_control_.failures, 1, __ATOMIC_RELAXED);
  say_eagerly(record, "VASSERT failed", message);
  if (vassert_control_.policy == VASSERT_ABORT) abort();
}

void vassert_failed_(const struct vassert_entry* record) { fail(record, ""); }
void vassert_threw_(const struct vassert_entry* record) { fail(record, "the check threw an exception"); }

int vassert_failed_message_(const struct vassert_entry* record, const char* format, ...) {
  char message[MESSAGE_SIZE];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  fail(record, message);
  return 0;
}

int vassert_log_(const struct vassert_entry* record, const char* format, ...) {
  char message[MESSAGE_SIZE];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  if (vassert_control_.eager) {
    say_eagerly(record, "VASSERT log", message);
  } else {
    vassert_syscall(VASSERT_OP_LOG, (uintptr_t)message, strlen(message), 0);
  }
  return 0;
}
