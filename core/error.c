/* Failures: a code for programs and a line for people; and what would be worse than one, another ABI. */
#include "internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int sharearray_abi(void) { return SHAREARRAY_ABI; }

const char *sharearray_code(int code) {
  switch (code) {
  case SHAREARRAY_EABSENT: return "absent";
  case SHAREARRAY_ENOSPACE: return "no_space";
  case SHAREARRAY_ECORRUPT: return "corrupt";
  case SHAREARRAY_EUNTRUSTED: return "untrusted";
  case SHAREARRAY_EDENIED: return "denied";
  case SHAREARRAY_EUNSUPPORTED: return "unsupported";
  case SHAREARRAY_ERECURSIVE: return "recursive";
  case SHAREARRAY_EINVAL: return "argument";
  default: return "io";
  }
}

/* Parts of a message come from files: it stays one line, and nothing in it commands a terminal. */
static void make_plain(char *message) {
  for (; *message; message++)
    if ((unsigned char)*message < ' ' || *message == 0x7f) *message = '?';
}

int(sa_fail)(char *message, int code, const char *format, ...) {
  if (message) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, SHAREARRAY_MESSAGE, format, arguments);
    va_end(arguments);
    make_plain(message);
  }
  return code;
}

/* What a person can do about it. */
static const char *advice(int error) {
  switch (error) {
  case EMFILE: return " (this process has no descriptor left: raise `ulimit -n`, or close files)";
  case ENFILE: return " (the machine has no descriptor left: see fs.file-max)";
  case ENOMEM: return " (no memory or address space left: see `ulimit -v` and vm.max_map_count)";
  case ENOSPC: return " (the file system is full: free entries, or make it larger)";
  case EDQUOT: return " (the quota is used up: free entries)";
  case EACCES:
  case EPERM: return " (this user may not: see the permissions of the file and of its directory)";
  case EROFS: return " (the file system is mounted read-only)";
  case ENOENT: return " (make the directory, or name another one with the option shm_path)";
  default: return "";
  }
}

int(sa_fail_errno)(char *message, const char *format, ...) {
  int error = errno;
  int code = error == ENOSPC || error == EDQUOT                    ? SHAREARRAY_ENOSPACE
             : error == EACCES || error == EPERM || error == EROFS ? SHAREARRAY_EDENIED
                                                                   : SHAREARRAY_EIO;
  if (message) {
    char text[SHAREARRAY_MESSAGE / 2];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    snprintf(message, SHAREARRAY_MESSAGE, "%s: %s%s", text, strerror(error), advice(error));
    make_plain(message);
  }
  return code;
}
