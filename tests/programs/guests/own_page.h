// Code that changes: a page of its own, and one before it with a direct call into it.
#pragma once

#include <sys/mman.h>

#include "check.h"

asm(".text\n"
    ".balign 4096\n"
    "caller: sub $8, %rsp\n call seven\n add $8, %rsp\n ret\n"
    ".balign 4096\n"
    "seven: mov $7, %eax\n ret\n"
    ".balign 4096\n");
int caller(void);
int seven(void);

enum { kPage = 4096, kImmediate = 1 };  // of MOV: where its operand begins

static void change(int value) {
  CHECK(mprotect((void*)seven, kPage, PROT_READ | PROT_WRITE) == 0);
  ((char*)seven)[kImmediate] = (char)value;
  CHECK(mprotect((void*)seven, kPage, PROT_READ | PROT_EXEC) == 0);
}
