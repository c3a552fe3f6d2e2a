# Programs with VAsserts, built as users build theirs: none of the project's own options.
set(guest_directory ${CMAKE_CURRENT_BINARY_DIR}/guests)
set(vassert_include ${PROJECT_SOURCE_DIR}/vassert-hooks/include)
function(vassert_guest name source)
  if(source MATCHES "\\.cc$")
    set(compiler ${CMAKE_CXX_COMPILER})
  else()
    set(compiler ${CMAKE_C_COMPILER})
  endif()
  add_custom_command(OUTPUT ${guest_directory}/${name}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${guest_directory}
    COMMAND ${compiler} -g -Wall -Wno-array-bounds -Wno-stringop-overflow -Wno-unknown-warning-option
      -I${vassert_include} -o ${guest_directory}/${name} ${source} $<TARGET_FILE:vassert> ${ARGN}
    DEPENDS ${source} vassert ${vassert_include}/vassert.h ${vassert_include}/vassert_format.h VERBATIM)
  set(guest_files ${guest_files} ${guest_directory}/${name} PARENT_SCOPE)
endfunction()

foreach(guest verdicts.c nested.c exceptions.cc hits.c reads.c requests.c)
  cmake_path(GET guest STEM name)
  vassert_guest(${name} ${CMAKE_CURRENT_SOURCE_DIR}/guests/${guest} -O2)
endforeach()
vassert_guest(exceptions-O0 ${CMAKE_CURRENT_SOURCE_DIR}/guests/exceptions.cc -O0)
vassert_guest(loads ${CMAKE_CURRENT_SOURCE_DIR}/guests/loads.c -O2 -ldl)
vassert_guest(plugin.so ${CMAKE_CURRENT_SOURCE_DIR}/guests/plugin.c -O2 -shared -fPIC)
vassert_guest(plugin-too.so ${CMAKE_CURRENT_SOURCE_DIR}/guests/plugin.c -O2 -shared -fPIC)

# 10,000 sites in a row; two of them fail.
set(many ${CMAKE_CURRENT_BINARY_DIR}/many.c)
set(text "#include \"vassert.h\"\nint values[10000];\nint main(void) {\n  values[1234] = values[9999] = 1;\n")
foreach(number RANGE 9999)
  string(APPEND text "  VASSERT(values[${number}] == 0);\n")
endforeach()
file(CONFIGURE OUTPUT ${many} CONTENT "${text}  return 0;\n}\n" @ONLY)
vassert_guest(many ${many} -O1)

add_custom_target(vassert_guests ALL DEPENDS ${guest_files})

aftercheck_test(check_test
  SOURCES check_test.cc check_isolation_test.cc check_ghost_test.cc check_plan_test.cc check_sites_test.cc
    ${PROJECT_SOURCE_DIR}/tests/tools/tool_runner.cc
  LIBS aftercheck_replay aftercheck_recorder nlohmann_json::nlohmann_json)
target_compile_definitions(check_test PRIVATE AFTERCHECK_BINARY="$<TARGET_FILE:aftercheck>"
  AFTERCHECK_VASSERT_GUESTS="${guest_directory}")
add_dependencies(check_test aftercheck vassert_guests)
