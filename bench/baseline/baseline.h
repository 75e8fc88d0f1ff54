/* What C can do on this machine: the loops and system calls that the benchmarks compare with. Times are
 * seconds of CLOCK_MONOTONIC; a negative one means that the system refused something. */
#ifndef BASELINE_H
#define BASELINE_H

#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(default)

double baseline_now(void);

/* calls.c. `count` times what it takes to get at an array: open, fstat, pread of the header, mmap, munmap,
 * close. `format` has one %d for the number of the file, 1 to `files`. And a stat of
 * the `directory` each time, if it is not NULL. */
double baseline_attach(const char *format, const char *directory, int files, int count);
/* Runs a program to its end, its output to /dev/null. */
double baseline_run(char *const argv[]);
/* Starts one and returns its pid. */
int baseline_start(char *const argv[]);
/* `count` doubles in a file that all processes of a benchmark map; NULL if it cannot be had. */
volatile double *baseline_board(const char *path, int count);
/* CPU time that a process has used so far, seconds. */
double baseline_cpu_time(int pid);
/* FUTEX_WAIT until the word is not `value`, and FUTEX_WAKE of all. */
void baseline_wait(const uint32_t *word, uint32_t value);
void baseline_wake(uint32_t *word);
/* Says in a slot of the board that this process is about to wait: -1. */
void baseline_wait_in(volatile double *board, int slot);
/* Notes there when it has what it waited for, and sleeps until the second word of slot 0 says that all have. One call,
 * as it holds up those who have not; and a function as Lua calls them (lua_CFunction): by FFI it would take a process
 * with cold caches 2 us more than in C. Returns 0, which is how many values it has for Lua. */
int baseline_arrive(void *lua);

/* memory.c: 1 GiB and more. */
double baseline_write(const char *path, const void *bytes, size_t size);
/* A new file, reserved in full and mapped outside of the time; then filled with floats. */
double baseline_fill(const char *path, size_t count);
/* The same with the reservation and the mapping inside of it. */
double baseline_reserve_and_fill(const char *path, size_t count);
/* A new file on a tmpfs with huge=advise, mapped with MADV_HUGEPAGE: copied into, or filled with floats. */
double baseline_copy_huge(const char *path, const void *bytes, size_t size);
double baseline_fill_huge(const char *path, size_t count);
/* Reads one byte of each page. */
double baseline_scan(const void *bytes, size_t size);

/* loops.c, at -O2: each at four places in a line of the cache. */
#define BASELINE_LOOPS(place)                                                                                          \
  double baseline_sum_##place(const float *x, size_t count);                                                           \
  double baseline_sum_guarded_##place(const float *x, size_t size, size_t count);                                      \
  double baseline_gather_##place(const float *x, const int32_t *index, size_t count);                                  \
  double baseline_gather_guarded_##place(const float *x, uint32_t size, const int32_t *index, size_t indices,          \
                                         size_t count);                                                                \
  double baseline_sum_rows_##place(const float *x, size_t rows, size_t columns);
BASELINE_LOOPS(0)
BASELINE_LOOPS(1)
BASELINE_LOOPS(2)
BASELINE_LOOPS(3)

#pragma GCC visibility pop
#endif
