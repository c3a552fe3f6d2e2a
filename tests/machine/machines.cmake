aftercheck_test(machines_test SOURCES machines_test.cc code_changes_test.cc kicks_test.cc LIBS aftercheck_machine)
