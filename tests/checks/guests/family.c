// A family: the program forks two children one after the other, the first of them a grandchild, and the
// second starts three threads and executes this program again, as "alone". Each comes by the same sites;
// checks count in ghost memory (a variable, and a map in the ghost heap) what they have seen. With "exec" it
// is one process that executes itself.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vassert.h"

VASSERT_GHOST static int seen;
VASSERT_GHOST static struct vassert_ghost_map visits;

__attribute__((noinline)) static void visit(const char* who, volatile int* round) {
  VASSERT_MSG(*round != 2, "%s, round %d", who, *round);
  VASSERT_BLOCK {
    ++seen;
    ++*vassert_ghost_map_insert(&visits, (uintptr_t)who);
    VASSERT_LOG("%s: %d seen, %d of them mine", who, seen,
                (int)*vassert_ghost_map_find(&visits, (uintptr_t)who));
  }
}

static void visits_of(const char* who, int count) {
  for (volatile int round = 0; round < count; ++round) visit(who, &round);
}

static void* work(void* argument) {
  visits_of(argument, 2);
  return argument;
}

static void end_of(pid_t child) {
  int status = 0;
  if (waitpid(child, &status, 0) != child || status != 0) _exit(1);
}

static void run_child(void) {
  visits_of("child", 1);
  const pid_t grandchild = fork();
  if (grandchild == 0) {
    visits_of("grandchild", 3);
    _exit(0);
  }
  end_of(grandchild);
  visits_of("child", 3);
  _exit(0);
}

static void run_threads(char* program) {
  static const char* names[] = {"one", "two", "three"};
  pthread_t threads[3];
  for (int i = 0; i < 3; ++i) pthread_create(&threads[i], 0, work, (void*)names[i]);
  for (int i = 0; i < 3; ++i) pthread_join(threads[i], 0);
  execl(program, program, "alone", (char*)0);
  _exit(1);
}

int main(int argc, char** argv) {
  if (argc > 1 && strcmp(argv[1], "alone") == 0) {
    visits_of("alone", 3);
    puts("alone");
    return 0;
  }
  visits_of("parent", 2);
  if (argc > 1 && strcmp(argv[1], "exec") == 0) execl(argv[0], argv[0], "alone", (char*)0);
  pid_t child = fork();
  if (child == 0) run_child();
  end_of(child);
  child = fork();
  if (child == 0) run_threads(argv[0]);
  end_of(child);
  visits_of("parent", 3);
  puts("parent");
  return 0;
}
