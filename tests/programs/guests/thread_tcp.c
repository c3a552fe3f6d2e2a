// A server that accepts, a thread for each connection, and clients that are threads of the same process.
// flags: -pthread
// native: output
#include <netinet/in.h>
#include <sys/socket.h>

#include "threads.h"

enum { kClients = 4, kRounds = 10 };
static struct sockaddr_in address = {.sin_family = AF_INET};
static void* serve(void* argument) {
  const int fd = (int)(intptr_t)argument;
  char text[64];
  for (ssize_t n; (n = recv(fd, text, sizeof text, 0)) > 0;) {
    for (ssize_t i = 0; i < n; ++i) text[i] ^= 0x20;
    CHECK(send(fd, text, (size_t)n, 0) == n);
  }
  CHECK(close(fd) == 0);
  return NULL;
}
static void* accept_them(void* argument) {
  pthread_t threads[kClients];
  for (int i = 0; i < kClients; ++i) {
    const int fd = accept((int)(intptr_t)argument, NULL, NULL);
    CHECK(fd >= 0);
    threads[i] = started(serve, (void*)(intptr_t)fd);
  }
  for (int i = 0; i < kClients; ++i) joined(threads[i]);
  return NULL;
}
static void* ask(void* argument) {
  const intptr_t me = (intptr_t)argument;
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  CHECK(fd >= 0 && connect(fd, (struct sockaddr*)&address, sizeof address) == 0);
  intptr_t right = 0;
  for (int i = 0; i < kRounds; ++i) {
    char text[20] = "Question", got[20] = "";
    text[7] = (char)('a' + me + i);
    CHECK(send(fd, text, 8, 0) == 8 && recv(fd, got, 8, MSG_WAITALL) == 8);
    got[0] ^= 0x20;
    right += strncmp(got, "QUESTION", 7) == 0 && got[7] == (text[7] ^ 0x20);
  }
  CHECK(close(fd) == 0);
  return (void*)right;
}

int main(void) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  CHECK(fd >= 0 && bind(fd, (struct sockaddr*)&address, sizeof address) == 0 && listen(fd, 8) == 0);
  CHECK(getsockname(fd, (struct sockaddr*)&address, &size) == 0);
  const pthread_t server = started(accept_them, (void*)(intptr_t)fd);
  pthread_t threads[kClients];
  for (intptr_t i = 0; i < kClients; ++i) threads[i] = started(ask, (void*)i);
  for (int i = 0; i < kClients; ++i) printf("%ld\n", (long)joined(threads[i]));
  joined(server);
  return 0;
}
