// flags: -no-pie
#include "addresses.c"
