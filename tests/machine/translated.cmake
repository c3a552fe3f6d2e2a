aftercheck_test(translated_machine_test SOURCES instrument_test.cc translated_test.cc journal_test.cc x87_test.cc exit_cases.cc exit_cases_flow.cc LIBS aftercheck_machine)
