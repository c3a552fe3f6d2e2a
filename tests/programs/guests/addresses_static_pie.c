// flags: -static-pie
#include "addresses.c"
