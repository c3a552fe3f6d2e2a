// Calls that fail and store something all the same: a replay must find it stored.
#include <netinet/in.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "check.h"

static void show(const char* what, const void* bytes, size_t size) {
  printf("%s:", what);
  for (size_t i = 0; i < size; ++i) printf(" %02x", ((const unsigned char*)bytes)[i]);
  putchar('\n');
}

int main(void) {
  siginfo_t info;
  struct rusage usage;
  memset(&info, 0x5a, sizeof info);
  memset(&usage, 0x5a, sizeof usage);
  CHECK_ERRNO(syscall(SYS_waitid, P_ALL, 0, &info, WEXITED, &usage), ECHILD);
  CHECK(info.si_signo == 0 && info.si_pid == 0);  // the kernel stores zeros
  show("waitid", &info, sizeof info);
  int status = 0x5a5a5a5a;
  CHECK_ERRNO(syscall(SYS_wait4, -1, &status, 0, &usage), ECHILD);
  show("wait4", &usage, sizeof usage);

  int pair[2] = {-7, -7};
  CHECK_ERRNO(socketpair(AF_INET, SOCK_STREAM, 0, pair), EOPNOTSUPP);
  CHECK(pair[0] >= 0 && pair[1] == pair[0] + 1);  // of descriptors that are closed again
  printf("socketpair: %d %d\n", pair[0], pair[1]);

  struct {
    uint32_t size, policy;
    uint64_t rest[31];
  } attributes = {.size = sizeof attributes, .rest = {[30] = 1}};
  CHECK_ERRNO(syscall(SYS_sched_setattr, 0, &attributes, 0), E2BIG);
  CHECK(attributes.size < sizeof attributes);  // the size that the kernel knows
  printf("sched_setattr: %u\n", attributes.size);

  const int unconnected = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in name;
  memset(&name, 0x5a, sizeof name);
  socklen_t length = sizeof name;
  CHECK_ERRNO(getpeername(unconnected, (struct sockaddr*)&name, &length), ENOTCONN);
  show("getpeername", &name, sizeof name);
  gid_t groups[1];
  socklen_t none = 0;
  errno = 0;
  printf("SO_PEERGROUPS: %d, %s", getsockopt(unconnected, SOL_SOCKET, SO_PEERGROUPS, groups, &none),
         strerror(errno));
  printf(", %u\n", none);
  char small[1];
  CHECK_ERRNO(syscall(SYS_getcwd, small, sizeof small), ERANGE);
  show("getcwd", small, sizeof small);
  return 0;
}
