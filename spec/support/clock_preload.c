/* Preloaded: a coarse clock that stands still, so that nothing a program does depends on how fast it runs. */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

__attribute__((visibility("default"))) int clock_gettime(clockid_t clock, struct timespec *time) {
  if (clock != CLOCK_MONOTONIC_COARSE) return (int)syscall(SYS_clock_gettime, clock, time);
  *time = (struct timespec){.tv_sec = 1000};
  return 0;
}
