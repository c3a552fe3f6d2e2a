// A program for 32-bit processors, which the kernel runs and we can't: no error that a shell would take for a
// script's.
// expect: exit 69
// says: a 32-bit program
#include <elf.h>
#include <fcntl.h>

#include "check.h"

int main(void) {
  Elf32_Ehdr header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
                       .e_type = ET_EXEC,
                       .e_machine = EM_386,
                       .e_version = EV_CURRENT,
                       .e_ehsize = sizeof header,
                       .e_phentsize = sizeof(Elf32_Phdr)};
  const int fd = open("old", O_CREAT | O_WRONLY | O_TRUNC, 0755);
  CHECK(fd >= 0 && write(fd, &header, sizeof header) == sizeof header && ftruncate(fd, 4096) == 0 &&
        close(fd) == 0);
  char* arguments[] = {"old", NULL};
  execv("./old", arguments);
  return 1;
}
