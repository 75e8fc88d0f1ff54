/* The .npy header: what NumPy writes is read, everything else is refused with its reason. */
#include "../../core/internal.h"
#include "harness.h"

/* A file of version `major` with the given dict and `data` bytes behind it. */
static size_t make(char *file, int major, const char *dict, size_t data) {
  size_t start = major == 1 ? 10 : 12, length = strlen(dict);
  memcpy(file, "\x93NUMPY", 6);
  file[6] = (char)major;
  file[7] = 0;
  memset(file + 8, 0, 4);
  file[8] = (char)(length & 0xff);
  file[9] = (char)(length >> 8);
  memcpy(file + start, dict, length);
  memset(file + start + length, 0, data);
  return start + length + data;
}

/* Reads from memory of exactly the file's size, so that the address sanitizer sees one byte too far. */
static int read_exact(const char *file, size_t size, sharearray_npy *npy, int *is_short, char *message) {
  char *exact = malloc(size ? size : 1);
  memcpy(exact, file, size);
  int code = sharearray_npy_read(exact, size, size, npy, is_short, message);
  free(exact);
  return code;
}

static int read_dict(const char *dict, size_t data, sharearray_npy *npy, char *message) {
  static char file[1 << 16];
  int is_short;
  return read_exact(file, make(file, 1, dict, data), npy, &is_short, message);
}

static const struct {
  const char *dict;
  int ndim, fortran;
  uint64_t nbytes;
} good[] = {
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   \n", 2, 0, 24},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", 2, 0, 24},
    {"{\"shape\":(2L,3L),\"fortran_order\":True,\"descr\":\"<f4\"}", 2, 1, 24},
    {"{'fortran_order' : False , 'shape' : ( 24 , ) , 'descr' : '|u1' }\n", 1, 0, 24},
    {"{'descr': '<c16', 'fortran_order': False, 'shape': (), }", 0, 0, 16},
    {"{'descr': '<i8', 'fortran_order': False, 'shape': (0, 1000000000000), }", 2, 0, 0},
    {"{'descr': '>u1', 'fortran_order': False, 'shape': (3,), }", 1, 0, 3},
    {"{'descr': '=f2', 'fortran_order': False, 'shape': (3,), }", 1, 0, 6},
    {"{'descr': '|b1', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1), }", 8, 0, 1},
    {"{'descr': '|S12', 'fortran_order': False, 'shape': (2,), }", 1, 0, 24},
    {"{'descr': '|S0', 'fortran_order': False, 'shape': (5,), }", 1, 0, 0},
    {"{'descr': '<U3', 'fortran_order': False, 'shape': (2,), }", 1, 0, 24},
    {"{'descr': '<U0', 'fortran_order': False, 'shape': (2,), }", 1, 0, 0},
    {"{'descr': '>U0', 'fortran_order': False, 'shape': (2,), }", 1, 0, 0},
    {"{'descr': '|V2', 'fortran_order': False, 'shape': (12,), }", 1, 0, 24},
    {"{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (3,), }", 1, 0, 24},
    {"{'descr': '<M8', 'fortran_order': False, 'shape': (3,), }", 1, 0, 24},
    {"{'descr': '<m8[25s]', 'fortran_order': False, 'shape': (3,), }", 1, 0, 24},
    {"{'descr': [('a', '<f4'), ('b', '<i8')], 'fortran_order': False, 'shape': (2,), }", 1, 0, 24},
    {"{'descr': [('a', '<f4', (2,)),], 'fortran_order': True, 'shape': (3,), }", 1, 1, 24},
    {"{'descr': [('a', '|u1'), ('', '|V7'), ('b', '|S0')], 'fortran_order': False, 'shape': (3,), }", 1, 0, 24},
    {"{'descr': [(('t', 'a'), [('x', '<U1', (2L, 1L,),)])], 'fortran_order': False, 'shape': (3,), }", 1, 0, 24},
    {"{'descr': [(\"it's\", '<f4'), ('\\x41\\u4e2d\\U0001f600\\\\\\n\\'', '<f4')], 'fortran_order': False, 'shape': "
     "(3,), }",
     1, 0, 24},
    {"{'descr': [('\xe9', '<f4', (0,))], 'fortran_order': False, 'shape': (3,), }", 1, 0, 0},
    {"{'descr': [], 'fortran_order': False, 'shape': (3,), }", 1, 0, 0},
};

static void reads_every_spelling(void) {
  char message[SHAREARRAY_MESSAGE];
  sharearray_npy npy;
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    int code = read_dict(good[i].dict, 24, &npy, message);
    if (code) printf("# %s: %s\n", good[i].dict, message);
    CHECK(code == 0);
    CHECK(npy.ndim == good[i].ndim && npy.fortran == good[i].fortran && npy.nbytes == good[i].nbytes);
    CHECK(npy.offset == 10 + strlen(good[i].dict));
  }
}

static const struct {
  const char *dict;
  int code;
  const char *reason;
} bad[] = {
    {"", SHAREARRAY_ECORRUPT, "no dict"},
    {"[]", SHAREARRAY_ECORRUPT, "no dict"},
    {"{", SHAREARRAY_ECORRUPT, "no dict of names"},
    {"{}", SHAREARRAY_ECORRUPT, "lacks"},
    {"{'descr': '<f4', 'fortran_order': False}", SHAREARRAY_ECORRUPT, "lacks"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'extra': 1}", SHAREARRAY_ECORRUPT, "unknown key"},
    {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "twice"},
    {"{'descr': '<f4' 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "no dict of names"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x", SHAREARRAY_ECORRUPT, "follows"},
    {"{'descr': '<f4', 'fortran_order': Maybe, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "neither"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2)}", SHAREARRAY_ECORRUPT, "no tuple"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': 2}", SHAREARRAY_ECORRUPT, "no tuple"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}", SHAREARRAY_ECORRUPT, "no tuple of sizes"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2 3)}", SHAREARRAY_ECORRUPT, "no tuple of sizes"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2.5,)}", SHAREARRAY_ECORRUPT, "no tuple of sizes"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", SHAREARRAY_ECORRUPT, "sizes"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808,)}", SHAREARRAY_ECORRUPT, "sizes"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", SHAREARRAY_ECORRUPT, "overflows"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (2305843009213693951,)}", SHAREARRAY_ECORRUPT, "overflows"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (0, 4294967296, 4294967296)}", SHAREARRAY_ECORRUPT,
     "overflows"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000,)}", SHAREARRAY_ECORRUPT, "shorter"},
    {"{'descr': '>f4', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "big-endian"},
    {"{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "pickle"},
    {"{'descr': '|O8', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "pickle"},
    {"{'descr': '<f3', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is '<f3'"},
    {"{'descr': '<f16', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is"},
    {"{'descr': '<f99999999999999999999', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype"},
    {"{'descr': '<f4x', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is"},
    {"{'descr': '<f4L', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is"},
    {"{'descr': '|S 10', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is"},
    {"{'descr': '|S\r10', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is"},
    {"{'descr': '<M8[25Ls]', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is"},
    {"{'descr': 'f', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "no dtype"},
    {"{'descr': '<S', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is"},
    {"{'descr': '|S-1', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is"},
    {"{'descr': '|S1073741825', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED,
     "more than 1073741824 bytes"},
    {"{'descr': '<U268435457', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "more than"},
    {"{'descr': '|V99999999999999999999', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is"},
    {"{'descr': '>U1', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "big-endian"},
    {"{'descr': '>M8[ns]', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "big-endian"},
    {"{'descr': '<M4[ns]', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is"},
    {"{'descr': '<M8[]', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is"},
    {"{'descr': '<M8[', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is"},
    {"{'descr': '<M8[xs]', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is"},
    {"{'descr': '<M8[0s]', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is"},
    {"{'descr': '<M8[s]x', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is"},
    {"{'descr': '<M8[s/10]', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is"},
    {"{'descr': '<M8[99999999999s]', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is"},
    {"{'descr': '<f4[s]', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is"},
    {"{'descr': [, 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "field"},
    {"{'descr': [('a', '<f4'), 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "without a name"},
    {"{'descr': ['<f4'], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "without a name"},
    {"{'descr': [()], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "without a name"},
    {"{'descr': [('a',)], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "no dtype"},
    {"{'descr': [('a' '<f4')], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "without a name"},
    {"{'descr': [('a', '<f4', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "no tuple"},
    {"{'descr': [('a', '<f4')('b', '<f4')], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT,
     "no list of fields"},
    {"{'descr': [('a', '<f4', 2)], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "no tuple"},
    {"{'descr': [('a', '<f4', (2))], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "no tuple"},
    {"{'descr': [('a', '<f4', (-1,))], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT,
     "no tuple of sizes"},
    {"{'descr': [('a', '<f4', (2,), 1)], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "no tuple"},
    {"{'descr': [(1, '<f4')], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "without a name"},
    {"{'descr': [(('t',), '<f4')], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "without a name"},
    {"{'descr': [(('t', 'a', 'b'), '<f4')], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT,
     "without a name"},
    {"{'descr': [('', '<f4')], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "without a name"},
    {"{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "pickle"},
    {"{'descr': [('a', [('b', '|O8')])], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "pickle"},
    {"{'descr': [('a', '>f4')], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "big-endian"},
    {"{'descr': [('a', [('b', '<f4'), ('c', '>i2')])], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED,
     "big-endian"},
    {"{'descr': [('a', '<f16')], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is '<f16'"},
    {"{'descr': [('a', ('<f4', (2,)))], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "no dtype"},
    {"{'descr': '<f\x1b[31m', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED, "dtype is '<f?[31m'"},
    {"{'descr': [('a\x1b', '<f4')], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "without a name"},
    {"{'descr': [('a\tb', '<f4')], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "without a name"},
    {"{'descr': [('a\\q', '<f4')], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "without a name"},
    {"{'descr': [('a\\x4', '<f4')], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "without a name"},
    {"{'descr': [('a\\u12', '<f4')], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "without a name"},
    {"{'descr': [('a\\U0001f60', '<f4')], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT,
     "without a name"},
    {"{'descr': [('a, 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "without a name"},
    {"{'descr': [('a\\, 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "without a name"},
    {"{'descr': [('a', '<f4', (4294967296, 4294967296, 4294967296))], 'fortran_order': False, 'shape': (2,)}",
     SHAREARRAY_EUNSUPPORTED, "more than"},
    {"{'descr': [('a', '<f4', (268435457,))], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED,
     "more than"},
    {"{'descr': [('a', '|S1073741824'), ('b', '|u1')], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_EUNSUPPORTED,
     "more than"},
    {"{'descr': [('a', [('b', '|S1000000', (1000,))], (1000,))], 'fortran_order': False, 'shape': (2,)}",
     SHAREARRAY_EUNSUPPORTED, "more than"},
    {"{'descr': [[], 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "without a name"},
    {"{'descr': [('a', [('a', [('a', [('a', [('a', [('a', [('a', [('a', [('a', [('a', [('a', [('a', [('a', [('a', "
     "[('a', [('a', [('a', '<f4')])])])])])])])])])])])])])])])])], 'fortran_order': False, 'shape': (2,)}",
     SHAREARRAY_EUNSUPPORTED, "nested more than 16"},
    {"{'descr': '|S0', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", SHAREARRAY_ECORRUPT, "overflows"},
    {"{'descr': [('a', '<i8')], 'fortran_order': False, 'shape': (2305843009213693951,)}", SHAREARRAY_ECORRUPT,
     "overflows"},
    {"{'descr': '<f4", SHAREARRAY_ECORRUPT, "no dtype"},
    {"{'descr", SHAREARRAY_ECORRUPT, "no dict of names"},
    {"{'descr': '<f\\x34', 'fortran_order': False, 'shape': (2,)}", SHAREARRAY_ECORRUPT, "no dtype"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,"
     "1,1,1,1)}",
     SHAREARRAY_EUNSUPPORTED, "more than 32"},
};

static void refuses_with_the_reason(void) {
  char message[SHAREARRAY_MESSAGE];
  sharearray_npy npy;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    message[0] = '\0';
    int code = read_dict(bad[i].dict, 64, &npy, message);
    if (code != bad[i].code || !strstr(message, bad[i].reason)) printf("# %s -> %d %s\n", bad[i].dict, code, message);
    CHECK(code == bad[i].code && strstr(message, bad[i].reason));
  }
}

static void calls_every_truncation_short(void) {
  static char file[1 << 12];
  size_t size = make(file, 1, good[0].dict, 24);
  for (size_t cut = 0; cut <= size; cut++) {
    sharearray_npy npy;
    int is_short, code = read_exact(file, cut, &npy, &is_short, NULL);
    CHECK(cut == size ? code == 0 && !is_short : code == SHAREARRAY_ECORRUPT && is_short);
  }
}

static void survives_every_changed_byte(void) {
  static char file[1 << 12];
  size_t size = make(file, 2, good[0].dict, 24);
  for (size_t at = 0; at < size - 24; at++)
    for (int value = 0; value < 256; value++) {
      sharearray_npy npy;
      int is_short;
      char kept = file[at];
      file[at] = (char)value;
      if (read_exact(file, size, &npy, &is_short, NULL) == 0) CHECK(npy.offset + npy.nbytes <= size);
      file[at] = kept;
    }
}

static void refuses_versions_and_lengths(void) {
  static char file[1 << 12];
  char message[SHAREARRAY_MESSAGE];
  sharearray_npy npy;
  int is_short;
  size_t size = make(file, 3, good[0].dict, 24);
  CHECK(read_exact(file, size, &npy, &is_short, message) == 0);
  file[6] = 4;
  CHECK(read_exact(file, size, &npy, &is_short, message) == SHAREARRAY_EUNSUPPORTED && strstr(message, "version 4"));
  file[6] = 3;
  file[10] = file[11] = (char)0xff; /* a header of 4 GiB */
  CHECK(read_exact(file, size, &npy, &is_short, message) == SHAREARRAY_ECORRUPT && !is_short);
  CHECK(strstr(message, "claims") != NULL);
  CHECK(read_exact("PK\3\4aaaaaaaaa", 13, &npy, &is_short, message) == SHAREARRAY_ECORRUPT && !is_short);
}

/* What the dict says; or the code of the failure, and its reason. It has less than 256 bytes. */
static void describe(const char *dict, size_t length, char *text, size_t size) {
  char file[512], message[SHAREARRAY_MESSAGE];
  sharearray_npy npy;
  size_t bytes = make(file, 1, "", 0) + length;
  memcpy(file + 10, dict, length);
  file[8] = (char)length;
  int used, code = sharearray_npy_read(file, bytes, 1 << 20, &npy, NULL, message);
  if (code) {
    snprintf(text, size, "%d %s", code, message);
    return;
  }
  used = snprintf(text, size, "%c%c%u %d %u %.*s %llu %x", npy.order, npy.kind, npy.itemsize, npy.fortran, npy.ndim,
                  (int)npy.descr_length, file + npy.descr_offset, (unsigned long long)npy.nbytes, npy.layout);
  for (int i = 0; i < npy.ndim; i++)
    used += snprintf(text + used, size - (size_t)used, " %llu", (unsigned long long)npy.shape[i]);
}

/* Whether the dict says the same with a space in the beginning, which leads to the reader for all spellings; *read counts
 * those that are accepted. */
static bool says_the_same(const char *dict, size_t length, int *read) {
  char spaced[256], theirs[2 * SHAREARRAY_MESSAGE], ours[2 * SHAREARRAY_MESSAGE];
  spaced[0] = dict[0];
  spaced[1] = ' ';
  memcpy(spaced + 2, dict + 1, length - 1);
  describe(dict, length, ours, sizeof ours);
  describe(spaced, length + 1, theirs, sizeof theirs);
  *read += *ours != '-';
  return strcmp(ours, theirs) == 0;
}

/* The usual spelling has a reader of its own. With any byte changed, and with any byte more, both readers agree. */
static void reads_the_usual_spelling_as_any_other(void) {
  static const char *usual[] = {
      "{'descr': '<f4', 'fortran_order': False, 'shape': (60, 784), }                    \n",
      "{'descr': '|u1', 'fortran_order': False, 'shape': (7,), }\n",
      "{'descr': '<M8[25s]', 'fortran_order': False, 'shape': (), }\n",
  };
  char text[256];
  int read = 0;
  for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) {
    size_t length = strlen(usual[i]);
    for (size_t at = 1; at < length; at++)
      for (int value = 0; value < 256; value++) {
        memcpy(text, usual[i], length);
        text[at] = (char)value;
        CHECK(says_the_same(text, length, &read));
        memcpy(text + at + 1, usual[i] + at, length - at);
        CHECK(says_the_same(text, length + 1, &read));
      }
  }
  CHECK(read > 800);
}

static void leaves_what_it_was_given_at_a_failure(void) {
  sharearray_npy npy, before;
  memset(&npy, 0xaa, sizeof npy);
  before = npy;
  CHECK(read_dict("{'descr': '<f4', 'fortran_order': False, 'shape': (2, x), }", 8, &npy, NULL) == SHAREARRAY_ECORRUPT);
  CHECK(read_dict("{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }", 8, &npy, NULL) < 0);
  CHECK(memcmp(&npy, &before, sizeof npy) == 0);
}

/* Cut anywhere, or with any byte changed, a structured type stays within the file. */
static void survives_broken_structures(void) {
  static char file[1 << 12];
  size_t size = make(file, 3,
                     "{'descr': [(('t', 'a\\x41'), '<f4', (2, 1)), ('b', [('c', '<M8[25s]'), ('', '|V3')])], "
                     "'fortran_order': False, 'shape': (1,)}",
                     24);
  sharearray_npy npy;
  int is_short;
  CHECK(read_exact(file, size, &npy, &is_short, NULL) == 0 && npy.itemsize == 19 && npy.kind == 'V');
  CHECK(npy.version == 3 && file[npy.descr_offset] == '[' && file[npy.descr_offset + npy.descr_length - 1] == ']');
  for (size_t at = 8; at < size - 24; at++)
    for (int value = 0; value < 256; value++) {
      char kept = file[at];
      file[at] = (char)value;
      if (read_exact(file, size, &npy, &is_short, NULL) == 0) {
        CHECK(npy.offset + npy.nbytes <= size);
        CHECK(npy.descr_offset + npy.descr_length < npy.offset);
      }
      file[at] = kept;
    }
  for (size_t length = 0; length < size - 36; length++) {
    file[8] = (char)(length & 0xff);
    file[9] = (char)(length >> 8);
    CHECK(read_exact(file, size, &npy, &is_short, NULL) == SHAREARRAY_ECORRUPT);
  }
}

static void writes_what_it_reads(void) {
  char bytes[4096];
  uint64_t shape[32];
  for (int ndim = 0; ndim <= 32; ndim++) {
    for (int i = 0; i < ndim; i++) shape[i] = i % 3 + 1;
    int length = sharearray_npy_write("<f8", ndim, shape, bytes, sizeof bytes);
    CHECK(length > 0 && length % 64 == 0 && bytes[length - 1] == '\n');
    sharearray_npy npy;
    CHECK(sharearray_npy_read(bytes, (size_t)length, 1ull << 62, &npy, NULL, NULL) == 0);
    CHECK(npy.ndim == ndim && npy.offset == (uint64_t)length && memcmp(npy.shape, shape, 8 * (size_t)ndim) == 0);
  }
  sharearray_npy npy;
  int length = sharearray_npy_write("[('a', '<f4'), ('b', '|S3')]", 1, shape, bytes, sizeof bytes);
  CHECK(sharearray_npy_read(bytes, (size_t)length, 1ull << 62, &npy, NULL, NULL) == 0 && npy.itemsize == 7);
  CHECK(npy.descr_length == 28 && memcmp(bytes + npy.descr_offset, "[('a', '<f4'), ('b', '|S3')]", 28) == 0);
  static char descr[10001], large[1 << 14];
  memset(descr, 'x', 10000); /* numpy.load would not read it */
  CHECK(sharearray_npy_write(descr, 1, shape, large, sizeof large) == SHAREARRAY_EINVAL);
  CHECK(sharearray_npy_write("<f8", 33, shape, bytes, sizeof bytes) == SHAREARRAY_EINVAL);
  CHECK(sharearray_npy_write("<f8", 1, shape, bytes, 64) == SHAREARRAY_EINVAL);
}

int main(void) {
  RUN(reads_every_spelling);
  RUN(refuses_with_the_reason);
  RUN(calls_every_truncation_short);
  RUN(survives_every_changed_byte);
  RUN(refuses_versions_and_lengths);
  RUN(reads_the_usual_spelling_as_any_other);
  RUN(leaves_what_it_was_given_at_a_failure);
  RUN(survives_broken_structures);
  RUN(writes_what_it_reads);
  FINISH();
}
