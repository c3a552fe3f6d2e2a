set(SCAN_SOURCES code_scan.cc code_search.cc code_tracer.cc eh_frame.cc elf_file.cc elf_functions.cc)
