/* SPDX-License-Identifier: BSD-2-Clause
 * The names of VMware's VAssert API (Workstation 6.5, 2008), so that code written for it compiles and is
 * checked by `aftercheck check`. Written after what is publicly known of that API; what differs is said at
 * each name. New code should use vassert.h.
 */
#ifndef VASSERT_VMWARE_H
#define VASSERT_VMWARE_H

#include "vassert.h"

/* With VASSERT_ALWAYS_EXECUTE defined the checks run where they stand, as ordinary assertions, and these may
 * be defined first: */
#ifdef VASSERT_ALWAYS_EXECUTE
#ifndef VASSERT_CUSTOM_ASSERT
#include <assert.h>
#define VASSERT_CUSTOM_ASSERT assert
#endif
#ifndef VASSERT_CUSTOM_LOG
#include <stdio.h>
#define VASSERT_CUSTOM_LOG printf
#endif

#define VAssert_Assert(expr)     \
  do {                           \
    VASSERT_CUSTOM_ASSERT(expr); \
  } while (0)
#define VAssert_Log(args)    \
  do {                       \
    VASSERT_CUSTOM_LOG args; \
  } while (0)
#define VAssert_BeginBlock

#else

/* VAssert_Assert(expr): as VASSERT. VMware's went live and called VASSERT_CUSTOM_ABORT() on failure; here the
 * replay goes on and the report shows it, so that macro is not used. */
#define VAssert_Assert(expr) VASSERT(expr)

/* VAssert_Log(("format", args...)): as VASSERT_LOG. Mind the double parentheses. */
#define VAssert_Log(args) VASSERT_LOG args

/* VAssert_BeginBlock { statements; VAssert_EndBlock; }: as VASSERT_BLOCK. */
#define VAssert_BeginBlock VASSERT_BLOCK

#endif

/* Nothing: the closing brace ends a block. (With VMware's it had to be the last statement, and an earlier one
 * ended the check there; use `break` for that.) */
#define VAssert_EndBlock ((void)0)

/* 0: there is nothing to set up or to take down. */
static inline char VAssert_Init(void) { return 0; }
static inline char VAssert_Uninit(void) { return 0; }

/* False: a guest can't start or stop a recording; `aftercheck record` starts with the program and ends with
 * it. */
static inline char VAssert_SetRecordingMain(char start) {
  (void)start;
  return 0;
}
#define VAssert_StartRecording() VAssert_SetRecordingMain(1)
#define VAssert_StopRecording() VAssert_SetRecordingMain(0)

/* -1: no branch trace is made at a program's request; `aftercheck record --pt` makes one of the whole run. */
static inline char VAssert_Trace(size_t max_size) {
  (void)max_size;
  return -1;
}

/* VMware's way back from a check to the replay, for code that called it by itself. Nothing: the end of the
 * check does it. */
static inline void VAssert_ReturnToReplayMain(void) {}

#endif
