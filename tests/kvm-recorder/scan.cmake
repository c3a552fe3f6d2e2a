# Guests whose text marks what must be found (scan_guests/scan_guest.h). They are scanned, never run.
enable_language(ASM)
set(SCAN_GUESTS)

# scan_guest(NAME SOURCE COMPILE ... LINK ...)
function(scan_guest name source)
  cmake_parse_arguments(G "" "" "COMPILE;LINK" ${ARGN})
  add_executable(scan_guest_${name} scan_guests/${source})
  set_target_properties(scan_guest_${name} PROPERTIES POSITION_INDEPENDENT_CODE OFF
    RUNTIME_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/scan_guests)
  target_compile_options(scan_guest_${name} PRIVATE ${G_COMPILE})
  target_link_options(scan_guest_${name} PRIVATE ${G_LINK})
  set(SCAN_GUESTS ${SCAN_GUESTS} scan_guest_${name} PARENT_SCOPE)
endfunction()

foreach(level 0 1 2 3)
  foreach(source plain.c switch.c cold.c landing_pad.cc)
    get_filename_component(stem ${source} NAME_WE)
    scan_guest(${stem}_O${level} ${source} COMPILE -O${level} -fPIE LINK -pie)
    scan_guest(${stem}_O${level}_stripped ${source} COMPILE -O${level} -fno-pie LINK -no-pie -s)
  endforeach()
endforeach()
scan_guest(static plain.c COMPILE -O2 -fno-pie LINK -static -s)
scan_guest(bare bare.S LINK -nostdlib -static)
scan_guest(bare_stripped bare.S LINK -nostdlib -static -s)
scan_guest(with_cfi with_cfi.S LINK -nostdlib -static)
scan_guest(with_cfi_no_table with_cfi.S LINK -nostdlib -static -Wl,--no-eh-frame-hdr)

# The scanner's own sources rather than the recorder's library: all that the scanner may depend on is named here.
include(${PROJECT_SOURCE_DIR}/kvm-recorder/scan.cmake)
list(TRANSFORM SCAN_SOURCES PREPEND ${PROJECT_SOURCE_DIR}/kvm-recorder/)
aftercheck_test(code_scan_test SOURCES code_scan_test.cc code_scan_fuzz_test.cc scan_test_util.cc scan_whole.cc ${SCAN_SOURCES}
  LIBS aftercheck_machine_core aftercheck_base Zydis::Zydis)
target_compile_definitions(code_scan_test PRIVATE SCAN_GUESTS="${CMAKE_CURRENT_BINARY_DIR}/scan_guests")
add_dependencies(code_scan_test ${SCAN_GUESTS})
aftercheck_fuzz(scan SOURCES fuzz_scan.cc scan_whole.cc ${SCAN_SOURCES} LIBS aftercheck_machine_core aftercheck_base Zydis::Zydis)
if(AFTERCHECK_FUZZ)
  add_dependencies(fuzz ${SCAN_GUESTS})
endif()
