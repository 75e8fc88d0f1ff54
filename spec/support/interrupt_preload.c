/* Preloaded into a worker: sends it SIGINT as it is about to sleep for the first time, on a futex. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/syscall.h>

#pragma GCC visibility push(default)

long syscall(long number, ...) {
  static long (*next)(long number, ...);
  static int told;
  long arguments[6];
  va_list list;
  va_start(list, number);
  for (int i = 0; i < 6; i++) arguments[i] = va_arg(list, long);
  va_end(list);
  if (!next) *(void **)&next = dlsym(RTLD_NEXT, "syscall");
  if (number == SYS_futex && !told++) raise(SIGINT);
  return next(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
}
