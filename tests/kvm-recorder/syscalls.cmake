# Tests of the guest's system calls: the table against the kernel's list, notes against what the kernel really writes,
# guards, mappings.
aftercheck_test(system_call_test
  SOURCES syscall_table.cc syscall_writes.cc syscall_writes_io.cc syscall_guards.cc syscall_refused.cc syscall_memory.cc syscall_wait.cc syscall_blocking.cc reach_test.cc answer_test.cc
  LIBS aftercheck_recorder aftercheck_system_calls)
target_compile_definitions(system_call_test PRIVATE TEST_C_COMPILER="${AFTERCHECK_GUEST_CC}"
  TEST_SOURCES="${CMAKE_CURRENT_LIST_DIR}")
