# The system calls of the guest: the table, the calls, their sub-tables.
set(SYSCALL_SOURCES
  descriptors.cc
  failed_writes.cc
  fcntl_table.cc
  host_thread.cc
  ioctl_table.cc
  proc_files.cc
  system_call_table.cc
  system_calls.cc
  system_calls_files.cc
  system_calls_io.cc
  system_calls_memory.cc
  system_calls_messages.cc
  system_calls_process.cc
  system_calls_settings.cc
  system_calls_signals.cc
  system_calls_wait.cc)
