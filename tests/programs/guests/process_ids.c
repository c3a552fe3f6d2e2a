// Who the process is and what it used.
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/times.h>
#include <sys/utsname.h>

#include "check.h"

int main(void) {
  printf("pid %d tid %ld parent %d group %d session %d\n", getpid(), syscall(SYS_gettid), getppid(),
         getpgrp(), getsid(0));
  CHECK(syscall(SYS_gettid) == getpid() && getpgid(0) == getpgrp());
  uid_t r, e, s;
  CHECK(getresuid(&r, &e, &s) == 0 && r == getuid() && e == geteuid());
  gid_t groups[100];
  const int count = getgroups(100, groups);
  printf("%u %u %u, %u %u, %d groups\n", r, e, s, getgid(), getegid(), count);
  struct tms times_now;
  const clock_t ticks = times(&times_now);
  printf("times %ld %ld %ld\n", ticks, times_now.tms_utime, times_now.tms_stime);
  struct rusage usage;
  CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
  printf("%ld.%06ld %ld %ld %ld\n", usage.ru_utime.tv_sec, usage.ru_utime.tv_usec, usage.ru_maxrss,
         usage.ru_minflt, usage.ru_nvcsw);
  struct utsname name;
  CHECK(uname(&name) == 0);
  printf("%s %s %s\n", name.sysname, name.nodename, name.release);
  struct sysinfo info;
  CHECK(sysinfo(&info) == 0);
  printf("up %ld load %lu free %lu\n", info.uptime, info.loads[0], info.freeram);
  cpu_set_t cpus;
  CHECK(sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) > 0);
  printf("%d cpus, on %d, %ld configured\n", CPU_COUNT(&cpus), sched_getcpu() >= 0,
         sysconf(_SC_NPROCESSORS_CONF));
  struct rlimit limit;
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur > 0);
  limit.rlim_cur = 100;
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0 &&
        limit.rlim_cur == 100);
  return 0;
}
