// The recorder's descriptors by their numbers, wherever a call has one: in an argument, in a structure, in a
// message, as the place for a copy.
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "check.h"

#define CLOSED(call) CHECK_ERRNO(call, EBADF)

static long send_it(int socket_fd, int fd) {
  union {
    char bytes[CMSG_SPACE(2 * sizeof(int))];
    struct cmsghdr align;
  } control = {0};
  char byte = 'x';
  struct iovec piece = {&byte, 1};
  struct msghdr message = {
      .msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  struct cmsghdr* part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET, part->cmsg_type = SCM_RIGHTS, part->cmsg_len = CMSG_LEN(2 * sizeof(int));
  const int fds[2] = {0, fd};
  memcpy(CMSG_DATA(part), fds, sizeof fds);
  return sendmsg(socket_fd, &message, 0);
}

static void try_all(int fd, int file, const int* sockets, const int* ends, int pidfd, int watcher) {
  struct stat status;
  char bytes[16];
  CLOSED(fcntl(fd, F_GETFD));
  CLOSED(fcntl(fd, F_SETFD, 0));
  CLOSED(fcntl(fd, F_DUPFD, 3));
  CLOSED(dup(fd));
  CLOSED(dup2(fd, 90));
  CLOSED(dup2(0, fd));
  CLOSED(dup3(0, fd, O_CLOEXEC));
  CHECK_ERRNO(fcntl(0, F_DUPFD, fd), EINVAL);
  CHECK_ERRNO(fcntl(0, F_DUPFD_CLOEXEC, fd), EINVAL);
  CLOSED(close(fd));
  CLOSED(read(fd, bytes, 1));
  CLOSED(pwrite(fd, bytes, 1, 0));
  CLOSED(fstat(fd, &status));
  CLOSED(ftruncate(fd, 0));
  CLOSED(fchmod(fd, 0777));
  CLOSED(fchdir(fd));
  CLOSED(flock(fd, LOCK_EX | LOCK_NB));
  CLOSED(fsync(fd));
  CLOSED(openat(fd, "events", O_RDWR));
  CLOSED(openat(fd, ".", O_PATH));
  CLOSED(fstatat(fd, "", &status, AT_EMPTY_PATH));
  CLOSED(linkat(fd, "", AT_FDCWD, "linked", AT_EMPTY_PATH));
  CLOSED(fchownat(fd, "", getuid(), getgid(), AT_EMPTY_PATH));
  CLOSED(unlinkat(fd, "events", 0));
  CLOSED(renameat(AT_FDCWD, "file", fd, "events"));
  CLOSED(renameat(fd, "events", AT_FDCWD, "file"));
  CLOSED(futimens(fd, NULL));
  char* arguments[] = {"x", NULL};
  CLOSED(syscall(SYS_execveat, fd, "", arguments, arguments, AT_EMPTY_PATH));
  CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EBADF);
  CLOSED(ioctl(fd, FIONBIO, &fd));
  // Numbers within.
  CHECK(ioctl(file, FICLONE, fd) == -1 && errno == EBADF);
  struct file_clone_range range = {.src_fd = fd};
  CHECK(ioctl(file, FICLONERANGE, &range) == -1 && errno == EBADF);
  CLOSED(sendfile(file, fd, NULL, 10));
  CLOSED(sendfile(fd, file, NULL, 10));
  CLOSED(copy_file_range(fd, NULL, file, NULL, 10, 0));
  CLOSED(copy_file_range(file, NULL, fd, NULL, 10, 0));
  CLOSED(splice(fd, NULL, ends[1], NULL, 10, 0));
  CLOSED(splice(ends[0], NULL, fd, NULL, 10, SPLICE_F_NONBLOCK));
  CLOSED(tee(fd, ends[1], 10, SPLICE_F_NONBLOCK));
  CLOSED(send_it(sockets[0], fd));
  struct pollfd polled = {fd, POLLIN | POLLOUT, 0};
  CHECK(poll(&polled, 1, 0) == 1 && polled.revents == POLLNVAL);
  struct epoll_event event = {EPOLLIN, {0}};
  CLOSED(epoll_ctl(watcher, EPOLL_CTL_ADD, fd, &event));
  if (fd < 100000) {  // select passes over numbers beyond the table (max_select_fd(), fs/select.c)
    static unsigned char set[100064 / 8];
    memset(set, 0, sizeof set);
    set[fd / 8] = (unsigned char)(1 << fd % 8);
    struct timeval none = {0, 0};
    const long ready = syscall(SYS_select, fd + 1, set, NULL, NULL, &none);
    CHECK(ready == 0 || (ready == -1 && errno == EBADF));
  }
  if (pidfd >= 0) CLOSED(syscall(SYS_pidfd_getfd, pidfd, fd, 0));
  const long compared = syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, 0, fd);
  CHECK(compared == -1 && (errno == EBADF || errno == ENOSYS));
  siginfo_t info;
  CHECK(waitid(P_PIDFD, (id_t)fd, &info, WEXITED | WNOHANG) == -1);
}

int main(void) {
  struct rlimit limit;
  int sockets[2], ends[2];
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0 && pipe(ends) == 0);
  const int file = open("file", O_CREAT | O_RDWR | O_TRUNC, 0666), watcher = epoll_create1(0);
  const int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
  CHECK(file >= 0 && watcher >= 0 && write(file, "text", 4) == 4);
  for (int fd = (int)limit.rlim_cur; fd < (int)limit.rlim_cur + 64; ++fd)
    try_all(fd, file, sockets, ends, pidfd, watcher);
  // A higher limit gives none of them either.
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  CHECK_ERRNO(dup2(0, (int)limit.rlim_cur), EBADF);
  CHECK(syscall(SYS_close_range, limit.rlim_cur, ~0U, 0) == 0);
  CHECK(unlink("file") == 0 && syscall(SYS_getppid) > 0);
  printf("no way in\n");
  return 0;
}
