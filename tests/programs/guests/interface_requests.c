// ioctl requests with pointers and lengths of their own: network interfaces, extents of a file, terminals.
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/sockios.h>
#include <linux/vt.h>
#include <net/if.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"

static void interfaces(void) {
  const int socket_fd = socket(AF_INET, SOCK_DGRAM, 0);
  CHECK(socket_fd >= 0);
  struct ifconf list = {0};
  CHECK(ioctl(socket_fd, SIOCGIFCONF, &list) == 0);  // how much there is
  const int all = list.ifc_len;
  CHECK(all >= 0 && all % (int)sizeof(struct ifreq) == 0);
  struct ifreq entries[64];
  list.ifc_len = sizeof entries;
  list.ifc_req = entries;
  CHECK(ioctl(socket_fd, SIOCGIFCONF, &list) == 0 && list.ifc_len <= (int)sizeof entries);
  const int count = list.ifc_len / (int)sizeof entries[0];
  for (int i = 0; i < count; ++i) printf("interface %s\n", entries[i].ifr_name);
  memset(entries, 0x55, sizeof entries);
  list.ifc_len = sizeof entries[0] - 1;  // room for none
  CHECK(ioctl(socket_fd, SIOCGIFCONF, &list) == 0 && list.ifc_len == 0);
  CHECK(entries[0].ifr_name[0] == 0x55);
  CHECK_ERRNO(ioctl(socket_fd, SIOCGIFCONF, NULL), EFAULT);

  struct ifreq request = {.ifr_name = "lo"};
  struct ethtool_drvinfo driver = {.cmd = ETHTOOL_GDRVINFO};
  request.ifr_data = (void*)&driver;
  int result = ioctl(socket_fd, SIOCETHTOOL, &request);
  printf("driver: %d %s\n", result, result == 0 ? driver.driver : strerror(errno));
  struct ethtool_value link = {.cmd = ETHTOOL_GLINK};
  request.ifr_data = (void*)&link;
  result = ioctl(socket_fd, SIOCETHTOOL, &request);
  printf("link: %d %u\n", result, result == 0 ? link.data : 0);
  struct {
    struct ethtool_link_settings settings;
    uint32_t masks[3 * 127];
  } settings = {.settings = {.cmd = ETHTOOL_GLINKSETTINGS}};
  request.ifr_data = (void*)&settings;
  result = ioctl(socket_fd, SIOCETHTOOL, &request);
  printf("settings: %d %d\n", result, settings.settings.link_mode_masks_nwords);
  request.ifr_data = (void*)8;
  CHECK_ERRNO(ioctl(socket_fd, SIOCETHTOOL, &request), EFAULT);
}

static void extents(void) {
  const int fd = open("extents", O_RDWR | O_CREAT, 0600);
  char block[4096];
  memset(block, 'x', sizeof block);
  CHECK(fd >= 0 && pwrite(fd, block, sizeof block, 0) > 0 && pwrite(fd, block, sizeof block, 1 << 20) > 0);
  CHECK(fsync(fd) == 0);
  enum { kRoom = 10 };
  struct fiemap* map = malloc(sizeof *map + kRoom * sizeof map->fm_extents[0]);
  memset(map, 0, sizeof *map + kRoom * sizeof map->fm_extents[0]);
  map->fm_length = FIEMAP_MAX_OFFSET;
  const int counted = ioctl(fd, FS_IOC_FIEMAP, map);
  if (counted == 0) {
    printf("%u extents\n", map->fm_mapped_extents);
    map->fm_extent_count = kRoom;
    CHECK(ioctl(fd, FS_IOC_FIEMAP, map) == 0 && map->fm_extent_count == kRoom);
    for (unsigned i = 0; i < map->fm_mapped_extents; ++i)
      printf("%llu bytes at %llu\n", (unsigned long long)map->fm_extents[i].fe_length,
             (unsigned long long)map->fm_extents[i].fe_logical);
    map->fm_flags = 0x8000;
    CHECK_ERRNO(ioctl(fd, FS_IOC_FIEMAP, map), EBADR);  // and says which flags
    CHECK(map->fm_flags == 0x8000);
  } else {
    CHECK(errno == EOPNOTSUPP);
  }
  CHECK_ERRNO(ioctl(fd, FS_IOC_FIEMAP, (void*)8), counted == 0 ? EFAULT : EOPNOTSUPP);
  // Of a file without extents the kernel looks at nothing.
  int ends[2];
  struct fiemap* fixed = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(pipe(ends) == 0 && fixed != MAP_FAILED);
  CHECK_ERRNO(ioctl(ends[0], FS_IOC_FIEMAP, fixed), EOPNOTSUPP);
  CHECK_ERRNO(ioctl(ends[0], FS_IOC_FIEMAP, (void*)8), EOPNOTSUPP);
  CHECK_ERRNO(ioctl(-1, FS_IOC_FIEMAP, fixed), EBADF);
  map->fm_extent_count = ~0u;
  CHECK_ERRNO(ioctl(ends[0], FS_IOC_FIEMAP, map), EOPNOTSUPP);
  CHECK_ERRNO(ioctl(fd, FS_IOC_FIEMAP, map), counted == 0 ? EINVAL : EOPNOTSUPP);
  struct {
    struct file_dedupe_range range;
    struct file_dedupe_range_info info[2];
  } same = {.range = {.src_length = 4096, .dest_count = 2}};
  same.info[0] = (struct file_dedupe_range_info){.dest_fd = fd, .dest_offset = 1 << 20};
  same.info[1] = (struct file_dedupe_range_info){.dest_fd = -1};
  if (ioctl(fd, FIDEDUPERANGE, &same) == 0)
    printf("same: %d, %d\n", same.info[0].status, same.info[1].status);
  else
    printf("same: %s\n", strerror(errno));
  // A number that is not open is the entry's error alone; among the highest are the recorder's.
  struct rlimit limit;
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  for (long number = (long)limit.rlim_cur; number < (long)limit.rlim_cur + 100; ++number) {
    same.info[0] = (struct file_dedupe_range_info){.dest_fd = number, .dest_offset = 1 << 20};
    same.info[1] = (struct file_dedupe_range_info){.dest_fd = -1};
    if (ioctl(fd, FIDEDUPERANGE, &same) != 0) {
      CHECK(errno == EOPNOTSUPP);
      break;
    }
    CHECK(same.info[0].status == -EBADF && same.info[0].dest_fd == number && same.info[1].status == -EBADF);
  }
  free(map);
}

static void terminals(void) {
  const int master = posix_openpt(O_RDWR | O_NOCTTY);
  if (master < 0) return;
  int on = 1, value = -1;
  CHECK(ioctl(master, TIOCPKT, &on) == 0 && ioctl(master, TIOCGPKT, &value) == 0 && value == 1);
  CHECK(ioctl(master, TIOCGEXCL, &value) == 0 && value == 0);
  CHECK(ioctl(master, TIOCEXCL) == 0 && ioctl(master, TIOCGEXCL, &value) == 0 && value == 1);
  CHECK(ioctl(master, TIOCGDEV, &value) == 0 && value != 1);
  struct vt_stat state;
  CHECK_ERRNO(ioctl(master, VT_GETSTATE, &state), ENOTTY);
}

int main(void) {
  interfaces();
  extents();
  terminals();
  return 0;
}
