# Programs made at random: a library, since the test of CI and scripts/differential-soak share it.
add_library(aftercheck_random_programs STATIC form_names.cc random_forms.cc random_numbers.cc random_writer.cc random_vex.cc random_program.cc random_layout.cc random_story.cc random_comparison.cc)
target_link_libraries(aftercheck_random_programs PUBLIC aftercheck_options aftercheck_machine aftercheck_machine_kvm aftercheck_x86)
aftercheck_test(random_instructions_test SOURCES random_instructions_test.cc LIBS aftercheck_random_programs)
add_executable(differential_soak differential_soak.cc)
target_link_libraries(differential_soak PRIVATE aftercheck_random_programs)
