// An exception that nobody catches.
// expect: signal ABRT
// expect-output: terminate called after throwing
#include <stdexcept>

int main() { throw std::logic_error("nobody wants me"); }
