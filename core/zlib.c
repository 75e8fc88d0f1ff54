/* zlib, loaded when it is first needed: most processes attach arrays, and would spend 4 to 8 % of their start on it.
 *
 * It is a dependency all the same. A note says so to the tools that collect a package's, as others who load libraries
 * this way have it: https://uapi-group.org/specifications/specs/elf_dlopen_metadata/ */
#include "internal.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>

#define LIBRARY "libz.so.1"
#define NOTE                                                                                                           \
  "[{\"feature\":\"npz\",\"description\":\"Bundles, and .npz files\",\"priority\":\"recommended\","                    \
  "\"soname\":[\"" LIBRARY "\"]}]"

__attribute__((used, aligned(4), section(".note.dlopen"))) static const struct {
  uint32_t owner_size, text_size, type;
  char owner[4];
  char text[(sizeof NOTE + 3) / 4 * 4];
} note = {sizeof "FDO", sizeof NOTE, 0x407c0c0a, "FDO", NOTE};

/* Kept as long as the process: what was loaded is not unloaded. */
static _Atomic(const struct sa_zlib *) loaded;

static const struct sa_zlib *load(void) {
  void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  struct sa_zlib *zlib = library ? malloc(sizeof *zlib) : NULL;
  if (!zlib) return NULL;
  /* The way that POSIX has to make a function of what dlsym() returns. */
  struct {
    void *function;
    const char *name;
  } wanted[] = {
      {&zlib->crc32_z, "crc32_z"},
      {&zlib->crc32_combine, "crc32_combine64"},
      {&zlib->inflate_init, "inflateInit2_"},
      {&zlib->inflate_reset, "inflateReset"},
      {&zlib->inflate, "inflate"},
      {&zlib->inflate_end, "inflateEnd"},
  };
  for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
    void *found = dlsym(library, wanted[i].name);
    *(void **)wanted[i].function = found;
    if (found) continue;
    free(zlib);
    return NULL;
  }
  return zlib;
}

int sa_zlib(const struct sa_zlib **out, char *message) {
  const struct sa_zlib *zlib = atomic_load(&loaded), *other = NULL;
  if (!zlib) zlib = load();
  if (!zlib) {
    const char *problem = dlerror();
    return sa_fail(message, SHAREARRAY_EIO, "zlib cannot be loaded: %s (Debian's package is zlib1g)",
                   problem ? problem : "out of memory");
  }
  /* Two threads may be the first. */
  if (!atomic_compare_exchange_strong(&loaded, &other, zlib) && other != zlib) {
    free((void *)zlib);
    zlib = other;
  }
  *out = zlib;
  return 0;
}

int sharearray_crc32(const void *bytes, uint64_t size, uint32_t *crc, char *message) {
  const struct sa_zlib *zlib = NULL;
  int code = sa_zlib(&zlib, message);
  if (code == 0) *crc = (uint32_t)zlib->crc32_z(*crc, bytes, (size_t)size);
  return code;
}
