// flags: -static
#include "addresses.c"
