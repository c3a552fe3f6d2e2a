# `cpack -G DEB` in a build directory makes two packages: aftercheck (the command, its manual and completion) and aftercheck-dev
# (vassert.h, libvassert.a, pkg-config and CMake files: what users' programs are built with). The preset `package` is the build for
# it, and scripts/test-packaging tries the result.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME aftercheck)
set(CPACK_PACKAGE_VENDOR "Aftercheck developers")
set(CPACK_PACKAGE_CONTACT "Aftercheck developers <aftercheck@example.org>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "records runs of programs and checks them afterwards")
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_STRIP_FILES ON)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_PACKAGE_DIRECTORY ${PROJECT_BINARY_DIR}/packages)

set(CPACK_COMPONENTS_ALL aftercheck vassert)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_GROUPING ONE_PER_GROUP)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)

set(CPACK_DEBIAN_AFTERCHECK_PACKAGE_NAME aftercheck)
set(CPACK_DEBIAN_AFTERCHECK_PACKAGE_SECTION devel)
set(CPACK_DEBIAN_AFTERCHECK_PACKAGE_SUGGESTS aftercheck-dev)
set(CPACK_COMPONENT_AFTERCHECK_DESCRIPTION
"Aftercheck runs an unmodified Linux program inside a KVM virtual machine and
 logs everything that comes from outside. The run can be replayed bit for bit
 on any machine, with or without KVM, and assertions that cost next to nothing
 when the program ran are evaluated in the replay.")

set(CPACK_DEBIAN_VASSERT_PACKAGE_NAME aftercheck-dev)
set(CPACK_DEBIAN_VASSERT_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_VASSERT_PACKAGE_SHLIBDEPS OFF)
set(CPACK_DEBIAN_VASSERT_PACKAGE_SUGGESTS aftercheck)
set(CPACK_COMPONENT_VASSERT_DESCRIPTION
"Header and static library for VAsserts, the assertions that Aftercheck
 evaluates in the replay of a recorded run.")
include(CPack)
