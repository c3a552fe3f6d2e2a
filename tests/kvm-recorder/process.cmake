# Tests of the loader and the signals. They build their guest programs themselves, with the C compiler in use here.
aftercheck_test(loader_test SOURCES loader_test.cc program_test.cc LIBS aftercheck_recorder)
target_compile_definitions(loader_test PRIVATE TEST_C_COMPILER="${AFTERCHECK_GUEST_CC}")
aftercheck_test(memory_group_test SOURCES memory_group_test.cc LIBS aftercheck_recorder)
aftercheck_test(signals_test SOURCES signals_test.cc signal_delivery_test.cc interruptible_syscall_test.cc
  signal_threads_test.cc
  LIBS aftercheck_recorder)
