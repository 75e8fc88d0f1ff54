/* Preloaded: a coarse clock that stands still, and random numbers that are always the same, so that nothing a program
 * does depends on how fast it runs, nor on where the strings lie in LuaJIT's tables, whose hash begins with such. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

typedef long six_arguments(long, long, long, long, long, long, long);

EXPORT int clock_gettime(clockid_t clock, struct timespec *time) {
  if (clock != CLOCK_MONOTONIC_COARSE) return (int)syscall(SYS_clock_gettime, clock, time);
  *time = (struct timespec){.tv_sec = 1000};
  return 0;
}

EXPORT long syscall(long number, ...) {
  long a[6];
  va_list list;
  va_start(list, number);
  for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
  va_end(list);
  if (number == SYS_getrandom) {
    memset((void *)a[0], 5, (size_t)a[1]);
    return a[1];
  }
  six_arguments *next = (six_arguments *)dlsym(RTLD_NEXT, "syscall");
  return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
