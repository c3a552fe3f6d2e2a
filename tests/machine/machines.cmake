aftercheck_test(machines_test SOURCES machines_test.cc code_changes_test.cc kicks_test.cc LIBS aftercheck_machine)
aftercheck_test(machine_choice_test SOURCES machine_choice_test.cc ${PROJECT_SOURCE_DIR}/tests/tools/tool_runner.cc
  LIBS aftercheck_machine nlohmann_json::nlohmann_json)
target_compile_definitions(machine_choice_test PRIVATE AFTERCHECK_BINARY="$<TARGET_FILE:aftercheck>")
add_dependencies(machine_choice_test aftercheck)
aftercheck_test(turns_test SOURCES turns_test.cc LIBS aftercheck_machine)
