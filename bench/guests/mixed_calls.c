// The small system calls that servers make most. args: count (of rounds of eight calls)
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char** argv) {
  int pair[2];
  char buffer[64] = "a line of some forty bytes, as a log has";
  struct stat status;
  struct timespec now;
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return 1;
  for (long left = argc > 1 ? atol(argv[1]) : 1000; left > 0; --left) {
    clock_gettime(CLOCK_REALTIME, &now);
    if (write(pair[0], buffer, 40) != 40 || read(pair[1], buffer, sizeof buffer) != 40) return 1;
    stat("/etc/passwd", &status);
    const int fd = open("/etc/passwd", O_RDONLY);
    fstat(fd, &status);
    close(fd);
    lseek(pair[0], 0, SEEK_CUR);
  }
  return 0;
}
