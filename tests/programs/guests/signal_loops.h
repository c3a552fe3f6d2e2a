// Loops whose state is one word of memory, which a signal ends: all registers are the same at millions of
// arrivals; the count at which it came is what a replay must get right.
#pragma once

#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>

#include "check.h"

static volatile sig_atomic_t came;
static volatile unsigned long zeroed;
struct node {
  struct node* volatile next;
  volatile unsigned long count;
};

static void handler(int signal) { came = signal; }

static void start(long microseconds) {
  came = 0;
  const struct itimerval once = {{0, 0}, {0, microseconds}};
  CHECK(setitimer(ITIMER_REAL, &once, NULL) == 0);
}

static unsigned long on_stack(void) {
  volatile unsigned long count = 0;
  while (!came) count++;
  return count;
}

static unsigned long in_zeroed(void) {
  while (!came) zeroed++;
  return zeroed;
}

static unsigned long behind_pointers(struct node* node) {
  while (!came) node->next->next->count++;
  return node->next->next->count;
}

// The first of three nodes, each on a page of its own.
static struct node* make_nodes(void) {
  char* pages = calloc(3, 4096);
  CHECK(pages != NULL);
  struct node *first = (struct node*)pages, *second = (struct node*)(pages + 4096);
  first->next = second;
  second->next = (struct node*)(pages + 8192);
  return first;
}
