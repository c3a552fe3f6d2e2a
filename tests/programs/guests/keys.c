// Keys of the kernel: made, described, read with too little room, found, gone. And namespaces of one's own.
#include <linux/keyctl.h>
#include <sched.h>
#include <sys/syscall.h>

#include "check.h"

static long key_call(int operation, long a, long b, long c, long d) {
  return syscall(SYS_keyctl, operation, a, b, c, d);
}

int main(void) {
  const long key = syscall(SYS_add_key, "user", "aftercheck", "payload", 7, KEY_SPEC_PROCESS_KEYRING);
  if (key < 0) {
    printf("no keys here: %s\n", strerror(errno));
    CHECK(errno == ENOSYS || errno == EPERM || errno == EDQUOT || errno == EACCES);
    return 0;
  }
  char text[100];
  memset(text, '-', sizeof text);
  const long length = key_call(KEYCTL_DESCRIBE, key, (long)text, sizeof text, 0);
  CHECK(length > 5 && text[length - 1] == 0 && text[length] == '-' && strncmp(text, "user;", 5) == 0);
  printf("%s\n", text);
  CHECK(key_call(KEYCTL_DESCRIBE, key, 0, 0, 0) == length);
  memset(text, '-', sizeof text);
  CHECK(key_call(KEYCTL_READ, key, (long)text, 3, 0) == 7);
  printf("with room for 3: %.8s\n", text);
  CHECK(key_call(KEYCTL_READ, key, (long)text, sizeof text, 0) == 7 && memcmp(text, "payload-", 8) == 0);
  CHECK(key_call(KEYCTL_UPDATE, key, (long)"another one", 11, 0) == 0);
  CHECK(key_call(KEYCTL_READ, key, (long)text, sizeof text, 0) == 11 && memcmp(text, "another one", 11) == 0);
  CHECK(key_call(KEYCTL_SEARCH, KEY_SPEC_PROCESS_KEYRING, (long)"user", (long)"aftercheck", 0) == key);
  CHECK_ERRNO(key_call(KEYCTL_SEARCH, KEY_SPEC_PROCESS_KEYRING, (long)"user", 8, 0), EFAULT);
  CHECK_ERRNO(key_call(KEYCTL_READ, key, 8, 100, 0), EFAULT);
  char room[10];
  memset(room, '-', sizeof room);
  const long known = key_call(KEYCTL_CAPABILITIES, (long)room, sizeof room, 0, 0);
  if (known >= 0) {  // and the rest is zeroed
    CHECK(known <= (long)sizeof room);
    for (long i = known; i < (long)sizeof room; ++i) CHECK(room[i] == 0);
    memset(room, '-', sizeof room);
    CHECK(key_call(KEYCTL_CAPABILITIES, (long)room, 1, 0, 0) == known && room[0] != '-' && room[1] == '-');
  }
  const long ring = syscall(SYS_add_key, "keyring", "restricted", NULL, 0, KEY_SPEC_PROCESS_KEYRING);
  CHECK(ring >= 0);
  CHECK_ERRNO(key_call(KEYCTL_RESTRICT_KEYRING, ring, 8, 8, 0), EFAULT);
  CHECK_ERRNO(key_call(KEYCTL_RESTRICT_KEYRING, ring, 0, (long)"without a type", 0), EINVAL);
  CHECK(key_call(KEYCTL_RESTRICT_KEYRING, ring, 0, 0, 0) == 0);  // nothing can be linked to it now
  CHECK_ERRNO(syscall(SYS_add_key, "user", "aftercheck", "payload", 7, ring), EPERM);
  CHECK(key_call(KEYCTL_UNLINK, ring, KEY_SPEC_PROCESS_KEYRING, 0, 0) == 0);
  CHECK(key_call(KEYCTL_UNLINK, key, KEY_SPEC_PROCESS_KEYRING, 0, 0) == 0);
  CHECK_ERRNO(key_call(9999, 0, 0, 0, 0), EOPNOTSUPP);
  printf("names of its own: %s\n", unshare(CLONE_NEWUTS) == 0 ? "yes" : strerror(errno));
  return 0;
}
