# Sources that build the guest's initial image and run its signals; included by CMakeLists.txt.
set(PROCESS_SOURCES
  elf_program.cc
  interruptible_syscall.cc
  loader.cc
  memory_limits.cc
  memory_group.cc
  process_stack.cc
  process_signals.cc
  process_tree.cc
  program.cc
  robust_locks.cc
  signal_delivery.cc
  signal_queues.cc
  signal_sets.cc
  thread_signals.cc
  vsyscall.cc
  waiting_call.cc)
