/* A few lines of test harness: each case prints "ok NAME" or "not ok NAME: why". */
#ifndef HARNESS_H
#define HARNESS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *harness_case;
static int harness_failures, harness_case_failed;

#define CHECK(condition)                                                                                               \
  do {                                                                                                                 \
    if (!(condition) && !harness_case_failed++)                                                                        \
      printf("not ok %s: %s:%d: %s\n", harness_case, __FILE__, __LINE__, #condition);                                  \
  } while (0)

#define RUN(function)                                                                                                  \
  do {                                                                                                                 \
    harness_case = #function;                                                                                          \
    harness_case_failed = 0;                                                                                           \
    function();                                                                                                        \
    if (harness_case_failed) harness_failures++;                                                                       \
    else printf("ok %s\n", harness_case);                                                                              \
    fflush(stdout);                                                                                                    \
  } while (0)

#define FINISH() return harness_failures != 0

#endif
