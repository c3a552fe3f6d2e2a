# One interface library carries the compile options of all our own code.
add_library(aftercheck_options INTERFACE)
target_include_directories(aftercheck_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(aftercheck_options INTERFACE
  -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion
  $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor -Woverloaded-virtual>
  # gcc 12 at -O3 takes "text" + std::string for overlapping copies (GCC PR 105651).
  $<$<AND:$<COMPILE_LANG_AND_ID:CXX,GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>,$<CONFIG:Release>>:-Wno-restrict>
  $<$<BOOL:${AFTERCHECK_WERROR}>:-Werror>)
if(AFTERCHECK_SANITIZE)
  target_compile_options(aftercheck_options INTERFACE -fsanitize=${AFTERCHECK_SANITIZE} -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  target_link_options(aftercheck_options INTERFACE -fsanitize=${AFTERCHECK_SANITIZE})
  # For tests, which take less of everything where all is slow (tests/base/sanitized.h).
  target_compile_definitions(aftercheck_options INTERFACE AFTERCHECK_SANITIZED)
endif()
if(AFTERCHECK_COVERAGE)
  target_compile_options(aftercheck_options INTERFACE --coverage)
  target_link_options(aftercheck_options INTERFACE --coverage)
endif()

# aftercheck_library(NAME SOURCES...): a static library of our own code.
function(aftercheck_library name)
  add_library(${name} STATIC ${ARGN})
  target_link_libraries(${name} PUBLIC aftercheck_options)
endfunction()
