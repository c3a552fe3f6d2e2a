# What the tests share, and pt_bench with them, which is built without them too.
if(TARGET aftercheck_pt_test_support)
  return()
endif()
set(support_sources pt_data.cc executions.cc libipt_flow.cc program.cc fuzz_targets.cc stand_in_kernel.cc)
list(TRANSFORM support_sources PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
add_library(aftercheck_pt_test_support STATIC ${support_sources})
target_link_libraries(aftercheck_pt_test_support PUBLIC aftercheck_pt ipt::ipt)
target_include_directories(aftercheck_pt_test_support PUBLIC ${CMAKE_CURRENT_LIST_DIR})
target_compile_definitions(aftercheck_pt_test_support PRIVATE
  AFTERCHECK_PT_DATA_DEFAULT="${PROJECT_SOURCE_DIR}/../shared/pt-data")
