// A listening TCP socket on loopback, and a client connected to it: both ends in one process.
#pragma once
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "check.h"

static int listen_on_loopback(struct sockaddr_in* address) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  socklen_t size = sizeof *address;
  const int on = 1;
  CHECK(listener >= 0 && setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
  *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  CHECK(bind(listener, (struct sockaddr*)address, size) == 0 && listen(listener, 10) == 0);
  CHECK(getsockname(listener, (struct sockaddr*)address, &size) == 0);
  printf("port %d\n", ntohs(address->sin_port));
  return listener;
}

static int connect_to(const struct sockaddr_in* address) {
  const int client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  const int on = 1;
  CHECK(client >= 0 && setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
  const int result = connect(client, (const struct sockaddr*)address, sizeof *address);
  CHECK(result == 0 || errno == EINPROGRESS);
  return client;
}
