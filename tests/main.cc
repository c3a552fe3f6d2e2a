// Catch must not replace the SIGSEGV handler that guarded_copy relies on.
#define CATCH_CONFIG_NO_POSIX_SIGNALS
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
