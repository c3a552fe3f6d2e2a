// System V shared memory: two views of a segment, addresses of the program's choice, protections, parts, and
// what stays when it is attached again.
#include <sched.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>

#include "check.h"

enum { kPage = 4096, kSize = 5 * kPage };

// Segments outlive the program that made them.
static int made[5], made_count;
static void remove_made(void) {
  while (made_count > 0) shmctl(made[--made_count], IPC_RMID, NULL);
}
static int make(size_t size) {
  const int segment = shmget(IPC_PRIVATE, size, IPC_CREAT | 0600);
  CHECK(segment >= 0);
  return made[made_count++] = segment;
}

static void* attached(int segment, const void* at, int flags) {
  void* memory = shmat(segment, at, flags);
  CHECK(memory != (void*)-1);
  return memory;
}

static unsigned long users(int segment) {
  struct shmid_ds status;
  CHECK(shmctl(segment, IPC_STAT, &status) == 0);
  return status.shm_nattch;
}

// The same identifier is another segment in another namespace.
static void namespaces(void) {
  enum { kNamespaces = 3 };
  char* memory[kNamespaces];
  for (int i = 0; i < kNamespaces; ++i) {
    if (i > 0) {
      if (unshare(CLONE_NEWIPC) != 0) {
        CHECK(i == 1 && errno == EPERM);
        return;
      }
      made_count = 0;  // gone with the namespace, or not to be reached any more
    }
    const int segment = make(kSize);
    memory[i] = attached(segment, NULL, 0);
    CHECK(users(segment) == 1 && memory[i][0] == 0);
    memory[i][0] = (char)(i + 1);
    CHECK(shmctl(segment, IPC_RMID, NULL) == 0);
    for (int j = 0; j <= i; ++j) CHECK(memory[j][0] == j + 1);
  }
  CHECK(shmdt(memory[1]) == 0 && memory[0][0] == 1 && memory[2][0] == 3);
}

int main(void) {
  before_failure = remove_made;
  CHECK(atexit(remove_made) == 0);
  const int segment = make(kSize - 100);
  struct shmid_ds status;
  CHECK(shmctl(segment, IPC_STAT, &status) == 0 && status.shm_segsz == kSize - 100 && status.shm_nattch == 0);
  printf("segment made, mode %o\n", status.shm_perm.mode);

  char* one = attached(segment, NULL, 0);
  for (int i = 0; i < kSize; ++i) CHECK(one[i] == 0);
  strcpy(one + kPage, "seen from the other view");
  char* two = attached(segment, NULL, SHM_RDONLY);
  CHECK(one != two && users(segment) == 2);
  CHECK(strcmp(two + kPage, "seen from the other view") == 0);
  one[3 * kPage] = 42;
  CHECK(two[3 * kPage] == 42);
  CHECK_ERRNO(mprotect(two, kPage, PROT_READ | PROT_WRITE), EACCES);

  // At an address: free, taken, not a page's, rounded, replaced.
  char* const room = mmap(NULL, 4 * kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(room != MAP_FAILED);
  CHECK_ERRNO((long)shmat(segment, room, 0), EINVAL);
  CHECK_ERRNO((long)shmat(segment, NULL, SHM_REMAP), EINVAL);
  CHECK_ERRNO((long)shmat(segment, room + 1, 0), EINVAL);
  strcpy(room, "private");
  char* three = attached(segment, room, SHM_REMAP);
  CHECK(three == room && three[3 * kPage] == 42 && three[0] == 0 && room[kSize] == 0);
  CHECK(munmap(room + 2 * kSize, kSize) == 0);
  char* four = attached(segment, room + 2 * kSize + 77, SHM_RND);
  CHECK(four == room + 2 * kSize && users(segment) == 4);
  four[4 * kPage] = 7;
  CHECK(one[4 * kPage] == 7 && two[4 * kPage] == 7 && three[4 * kPage] == 7);

  // The kernel writes into it.
  int ends[2];
  CHECK(pipe(ends) == 0 && write(ends[1], "by a call", 9) == 9 && read(ends[0], four + 2 * kPage, 9) == 9);
  CHECK(memcmp(two + 2 * kPage, "by a call", 9) == 0);

  // A part of a view is unmapped; shmdt takes what is left.
  CHECK(munmap(four + kPage, kPage) == 0);
  CHECK_ERRNO(shmdt(four + kPage), EINVAL);
  CHECK(shmdt(four) == 0);
  CHECK_ERRNO(shmdt(four), EINVAL);
  CHECK_ERRNO(shmdt(four + 1), EINVAL);
  CHECK(users(segment) == 3);
  CHECK(mprotect(one, kPage, PROT_READ) == 0 && one[0] == 0);
  CHECK(shmdt(three) == 0 && shmdt(two) == 0 && shmdt(one) == 0 && users(segment) == 0);
  CHECK(room[kSize] == 0);  // what lay behind it is there still

  // Attached again it has what was written, by whatever view.
  one = attached(segment, NULL, 0);
  CHECK(one[3 * kPage] == 42 && one[4 * kPage] == 7 && strcmp(one + kPage, "seen from the other view") == 0);
  CHECK(memcmp(one + 2 * kPage, "by a call", 9) == 0);
  // Marked to go away, it lives as long as it is attached.
  CHECK(shmctl(segment, IPC_RMID, NULL) == 0);
  one[10] = 10;
  CHECK(one[10] == 10 && users(segment) == 1);
  CHECK(shmdt(one) == 0);
  CHECK_ERRNO(shmctl(segment, IPC_STAT, &status), EINVAL);
  CHECK_ERRNO((long)shmat(segment, NULL, 0), EINVAL);

  // To be executed, which needs a permission of its own where one needs any.
  const int code = make(kPage);
  one = shmat(code, NULL, SHM_EXEC | SHM_RDONLY);
  if (geteuid() == 0)
    CHECK(one != (void*)-1 && one[0] == 0 && shmdt(one) == 0);
  else
    CHECK(one == (void*)-1 && errno == EACCES);
  // Huge pages are there or not; what is attached is as large as it looks.
  const int huge = shmget(IPC_PRIVATE, kPage, IPC_CREAT | SHM_HUGETLB | 0600);
  if (huge >= 0) made[made_count++] = huge;
  CHECK(huge >= 0 || errno == ENOMEM || errno == EPERM || errno == ENOSYS || errno == EINVAL);
  CHECK_ERRNO(shmget(0x7e57, kPage, SHM_HUGETLB), ENOENT);
  CHECK_ERRNO(shmget(IPC_PRIVATE, 0, IPC_CREAT | SHM_HUGETLB), EINVAL);

  // A large one costs what is used of it.
  const int large = make((size_t)1 << 30);
  char* wide = attached(large, NULL, 0);
  wide[(size_t)700 << 20] = 1;
  CHECK(shmdt(wide) == 0);
  wide = attached(large, NULL, 0);
  CHECK(wide[(size_t)700 << 20] == 1 && wide[(size_t)300 << 20] == 0);
  CHECK(shmctl(large, IPC_RMID, NULL) == 0);
  CHECK(shmget(0x7e57, kSize, 0) == -1 && errno == ENOENT);
  remove_made();
  namespaces();
  // Left attached when the program ends.
  return 0;
}
