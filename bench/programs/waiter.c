/* A process that waits in bare C and then maps: waiter futex|lock BOARD COUNT SLOT PATH view|element
 *
 * Slot 0 of the board has the word that futex waiters sleep on; lock waiters want a read lock on PATH.lock,
 * which the builder holds. Its own slot is -1 while it waits, then the time when it has mapped the file, or looked at an
 * element of it. It stays until all have, which the second word of slot 0 says: its end must not hold others up. */
#define _GNU_SOURCE
#include "../baseline/baseline.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int wait_for_lock(const char *path) {
  char name[4096];
  struct flock range = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
  snprintf(name, sizeof name, "%s.lock", path);
  int fd = open(name, O_RDWR | O_CLOEXEC);
  return fd < 0 || fcntl(fd, F_OFD_SETLKW, &range) != 0 ? -1 : 0;
}

static int attach(const char *path, const char *until) {
  char header[1024];
  struct stat st;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &st) != 0 || pread(fd, header, sizeof header, 0) < 0) return -1;
  const volatile char *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED) return -1;
  close(fd);
  if (strcmp(until, "element") == 0) (void)map[st.st_size - 1];
  return 0;
}

int main(int argc, char **argv) {
  if (argc != 7) return 2;
  volatile double *board = baseline_board(argv[2], atoi(argv[3]));
  int slot = atoi(argv[4]);
  if (!board) return 1;
  const uint32_t *word = (const uint32_t *)(uintptr_t)board;
  uint32_t seen = *word;
  baseline_wait_in(board, slot);
  if (strcmp(argv[1], "lock") == 0) {
    if (wait_for_lock(argv[5]) != 0) return 1;
  } else baseline_wait(word, seen);
  if (attach(argv[5], argv[6]) != 0) return 1;
  baseline_arrive(NULL);
  return 0;
}
