# Sources that build the guest's initial image and run its signals; included by CMakeLists.txt.
set(PROCESS_SOURCES
  elf_program.cc
  interruptible_syscall.cc
  loader.cc
  memory_limits.cc
  process_stack.cc
  process_signals.cc
  program.cc
  signal_delivery.cc
  signal_queues.cc
  signal_sets.cc
  thread_signals.cc
  vsyscall.cc)
