aftercheck_test(trapped_instruction_test SOURCES trapped_instruction_test.cc trapped_answer_test.cc
  LIBS aftercheck_machine_core Zydis::Zydis)
