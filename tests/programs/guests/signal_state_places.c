// A signal lands in loops whose state is in one place only: a word of the stack, a global, one behind
// pointers, a register, an SSE register, the x87. The count at which it came is what a replay must get right.
// not-sanitized: it looks at each of millions of arrivals, which takes minutes
#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>

#include "check.h"

static volatile sig_atomic_t came;
static volatile unsigned long global = 1, zeroed;
struct node {
  struct node* volatile next;
  volatile unsigned long count;
};

static void handler(int signal) { came = signal; }

static void start(void) {
  came = 0;
  const struct itimerval once = {{0, 0}, {0, 200}};
  CHECK(setitimer(ITIMER_REAL, &once, NULL) == 0);
}

static unsigned long on_stack(void) {
  volatile unsigned long count = 0;
  while (!came) count++;
  return count;
}

static unsigned long in_global(void) {
  while (!came) global++;
  return global;
}

static unsigned long in_zeroed(void) {
  while (!came) zeroed++;
  return zeroed;
}

static unsigned long behind_pointers(struct node* node) {
  while (!came) node->next->next->count++;
  return node->next->next->count;
}

static unsigned long in_register(void) {
  unsigned long count = 0;
  while (!came) {
    count++;
    __asm__ volatile("" : "+r"(count));
  }
  return count;
}

static unsigned long in_sse(void) {
  double count = 0;
  while (!came) {
    count += 1;
    __asm__ volatile("" : "+x"(count));
  }
  return (unsigned long)count;
}

static unsigned long in_x87(void) {
  long double count = 0;
  while (!came) {
    count += 1;
    __asm__ volatile("" : "+t"(count));
  }
  return (unsigned long)count;
}

int main(void) {
  CHECK(signal(SIGALRM, handler) != SIG_ERR);
  struct node* nodes = calloc(3, 4096);
  CHECK(nodes != NULL);
  struct node *second = (struct node*)((char*)nodes + 4096), *third = (struct node*)((char*)nodes + 8192);
  nodes->next = second;
  second->next = third;
  start();
  printf("stack %lu\n", on_stack());
  start();
  printf("global %lu\n", in_global());
  start();
  printf("zeroed %lu\n", in_zeroed());
  start();
  printf("pointers %lu\n", behind_pointers(nodes));
  start();
  printf("register %lu\n", in_register());
  start();
  printf("sse %lu\n", in_sse());
  start();
  printf("x87 %lu\n", in_x87());
  return 0;
}
