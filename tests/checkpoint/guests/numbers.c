// Its descriptors have the numbers that they have natively, whatever the recorder opens meanwhile: exit
// status 1 if not.
#include <fcntl.h>
#include <unistd.h>

static char pages[64 << 10];

int main(void) {
  int lowest = open("/dev/null", O_RDONLY | O_CLOEXEC);
  close(lowest);
  for (int i = 0; i < 2000; ++i) {
    pages[i * 4096 % sizeof pages]++;
    const int file = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (file != lowest || close(file) != 0) return 1;
  }
  for (int i = 0; i < 1000; ++i)
    if (dup2(STDERR_FILENO, lowest) != lowest || close(lowest) != 0) return 1;
  return 0;
}
