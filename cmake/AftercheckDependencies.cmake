# Everything here is a Debian 12 package; scripts/install-deps has the list.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
pkg_check_modules(UNICORN REQUIRED IMPORTED_TARGET unicorn)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(LIBDW REQUIRED IMPORTED_TARGET libdw libelf)
find_package(CapnProto REQUIRED)
find_package(CLI11 REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
if(BUILD_TESTING)
  find_package(Catch2 2 REQUIRED)
endif()
if(AFTERCHECK_BENCHMARKS)
  find_package(benchmark REQUIRED)
endif()

# Debian's libzydis-dev and libipt-dev ship no CMake or pkg-config files.
find_library(ZYDIS_LIBRARY Zydis REQUIRED)
find_path(ZYDIS_INCLUDE Zydis/Zydis.h REQUIRED)
add_library(Zydis::Zydis UNKNOWN IMPORTED)
set_target_properties(Zydis::Zydis PROPERTIES IMPORTED_LOCATION ${ZYDIS_LIBRARY}
  INTERFACE_INCLUDE_DIRECTORIES ${ZYDIS_INCLUDE})
# libipt only judges our own decoder.
if(BUILD_TESTING OR AFTERCHECK_BENCHMARKS)
  find_library(IPT_LIBRARY ipt REQUIRED)
  find_path(IPT_INCLUDE intel-pt.h REQUIRED)
  add_library(ipt::ipt UNKNOWN IMPORTED)
  set_target_properties(ipt::ipt PROPERTIES IMPORTED_LOCATION ${IPT_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES ${IPT_INCLUDE})
endif()
