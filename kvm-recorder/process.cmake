# Sources that build the guest's initial image and run its signals; included by CMakeLists.txt.
set(PROCESS_SOURCES
  elf_program.cc
  interruptible_syscall.cc
  loader.cc
  process_stack.cc
  program.cc
  signals.cc
  signals_delivery.cc)
