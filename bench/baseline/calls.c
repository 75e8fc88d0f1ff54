/* System calls and processes. */
#define _GNU_SOURCE
#include "baseline.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

double baseline_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int attach(const char *path) {
  char header[1024];
  struct stat st;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &st) != 0 || pread(fd, header, sizeof header, 0) < 0) return -1;
  void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED) return -1;
  munmap(map, (size_t)st.st_size);
  close(fd);
  return 0;
}

#pragma GCC diagnostic ignored "-Wformat-nonliteral"
double baseline_attach(const char *format, const char *directory, int files, int count) {
  char path[PATH_MAX];
  struct stat st;
  double start = baseline_now();
  for (int i = 0; i < count; i++) {
    snprintf(path, sizeof path, format, i % files + 1);
    if (attach(path) != 0) return -1;
    if (directory && stat(directory, &st) != 0) return -1;
  }
  return baseline_now() - start;
}

static int start(char *const argv[], int quiet) {
  posix_spawn_file_actions_t actions;
  pid_t pid;
  posix_spawn_file_actions_init(&actions);
  if (quiet) posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  int error = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
  return error ? -1 : pid;
}

int baseline_start(char *const argv[]) { return start(argv, 0); }

double baseline_run(char *const argv[]) {
  int status;
  double begin = baseline_now();
  int pid = start(argv, 1);
  if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) return -1;
  return baseline_now() - begin;
}

volatile double *baseline_board(const char *path, int count) {
  size_t size = (size_t)count * sizeof(double);
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return NULL;
  void *board = MAP_FAILED;
  if (ftruncate(fd, (off_t)size) == 0) board = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  return board == MAP_FAILED ? NULL : board;
}

double baseline_cpu_time(int pid) {
  char path[64];
  unsigned long long nanoseconds = 0;
  snprintf(path, sizeof path, "/proc/%d/schedstat", pid);
  FILE *file = fopen(path, "re");
  if (!file) return 0;
  if (fscanf(file, "%llu", &nanoseconds) != 1) nanoseconds = 0;
  fclose(file);
  return (double)nanoseconds / 1e9;
}

void baseline_wait(const uint32_t *word, uint32_t value) {
  while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == value) syscall(SYS_futex, word, FUTEX_WAIT, value, NULL, NULL, 0);
}

void baseline_wake(uint32_t *word) {
  __atomic_fetch_add(word, 1, __ATOMIC_RELEASE);
  syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static volatile double *my_board;
static int my_slot;

void baseline_wait_in(volatile double *board, int slot) {
  my_board = board;
  my_slot = slot;
  baseline_now(); /* the first look at the clock is not what is measured */
  board[slot] = -1;
}

int baseline_arrive(void *lua) {
  (void)lua;
  my_board[my_slot] = baseline_now();
  baseline_wait((const uint32_t *)(uintptr_t)my_board + 1, 0);
  return 0;
}
