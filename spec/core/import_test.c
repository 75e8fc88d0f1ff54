/* Imports: the transposition against a plain one, and hostile files, each byte of them. */
#include "../../core/internal.h"
#include "../../core/sys.h"
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static char directory[64], path[96];
static char message[SHAREARRAY_MESSAGE];
static sharearray_store *store;

/* ---- Fortran order ---- */

static uint32_t next_random(void) {
  static uint32_t state = 2463534242u;
  state ^= state << 13;
  state ^= state >> 17;
  state ^= state << 5;
  return state;
}

/* Element `at` of the file, as an index of C order. */
static uint64_t place_of(const sharearray_npy *npy, uint64_t at) {
  uint64_t place = 0, index[32];
  for (int axis = 0; axis < npy->ndim; axis++) {
    index[axis] = at % npy->shape[axis];
    at /= npy->shape[axis];
  }
  for (int axis = 0; axis < npy->ndim; axis++) place = place * npy->shape[axis] + index[axis];
  return place;
}

static void transpose(const sharearray_npy *npy, uint64_t room) {
  uint64_t count = npy->nbytes / npy->itemsize, size = npy->itemsize;
  struct sa_fortran order;
  sa_fortran_init(&order, npy, room);
  unsigned char *from = malloc(npy->nbytes), *to = malloc(npy->nbytes), *piece = malloc(room);
  for (uint64_t i = 0; i < npy->nbytes; i++) from[i] = (unsigned char)next_random();
  memset(to, 0, npy->nbytes);
  if (order.ndim == 0) memcpy(to, from, npy->nbytes);
  for (uint64_t at = 0, step; order.ndim && at < count; at += step) {
    step = sa_fortran_piece(&order, at);
    CHECK(step > 0 && step <= count - at && step * size <= room);
    memcpy(piece, from + at * size, step * size); /* so that a read behind the piece is seen */
    sa_fortran_scatter(&order, at, piece, to);
  }
  bool equal = true;
  for (uint64_t i = 0; i < count; i++) equal &= memcmp(to + place_of(npy, i) * size, from + i * size, size) == 0;
  CHECK(equal);
  free(from);
  free(to);
  free(piece);
}

static void transposes_in_pieces_of_any_size(void) {
  static const uint16_t sizes[] = {1, 2, 3, 4, 8, 12, 16};
  for (int round = 0; round < 3000; round++) {
    sharearray_npy npy = {.fortran = 1, .ndim = (uint8_t)(next_random() % 7)};
    npy.itemsize = sizes[next_random() % 7];
    uint64_t count = 1;
    for (int axis = 0; axis < npy.ndim; axis++) {
      uint64_t most = round % 3 == 0 ? 4 : 150;
      npy.shape[axis] = count > 3000 ? next_random() % 3 + 1 : next_random() % most + 1;
      count *= npy.shape[axis];
    }
    npy.nbytes = count * npy.itemsize;
    transpose(&npy, npy.itemsize * (uint64_t)(next_random() % (round % 2 ? 40 : 20000) + 1));
  }
}

static void swaps_every_unit(void) {
  unsigned char bytes[16], expected[16];
  for (unsigned unit = 1; unit <= 8; unit *= 2) {
    struct sa_swap swap = {.count = 2, .unit = unit};
    for (unsigned i = 0; i < sizeof bytes; i++) {
      bytes[i] = (unsigned char)i;
      expected[i] = (unsigned char)(i / unit * unit + (unit - 1 - i % unit));
    }
    sa_swap(bytes, sizeof bytes, 2 * unit, &(struct sa_swaps){&swap, 1});
    CHECK(memcmp(bytes, expected, sizeof bytes) == 0);
  }
}

/* What is to be swapped in an element of a dtype: "offset:count*unit ...". */
static void expect_swaps(const char *descr, const char *spelled, const char *expected) {
  char file[512], got[256] = "";
  sharearray_npy npy;
  struct sa_swaps swaps = {0};
  int length = sharearray_npy_write(descr, 0, NULL, file, sizeof file);
  CHECK(sa_npy_read_any(file, (size_t)length, 1 << 20, &npy, NULL, message) == 0);
  CHECK(sa_npy_turn(file, &npy, &swaps, message) == 0);
  for (size_t i = 0; i < swaps.count; i++)
    sprintf(got + strlen(got), "%u:%u*%u ", swaps.list[i].offset, swaps.list[i].count, swaps.list[i].unit);
  if (strcmp(got, expected) != 0) printf("# %s: %s\n", descr, got);
  CHECK(strcmp(got, expected) == 0);
  CHECK(npy.descr_length == strlen(spelled) && memcmp(file + npy.descr_offset, spelled, strlen(spelled)) == 0);
  free(swaps.list);
}

static void finds_what_is_big_endian(void) {
  expect_swaps(">i4", "<i4", "0:1*4 ");
  expect_swaps(">c16", "<c16", "0:2*8 ");
  expect_swaps(">U3", "<U3", "0:3*4 ");
  expect_swaps(">M8[ns]", "<M8[ns]", "0:1*8 ");
  expect_swaps("[('a', '>i2'), ('b', '<i4'), ('>i4', '>f8')]", "[('a', '<i2'), ('b', '<i4'), ('>i4', '<f8')]",
               "0:1*2 6:1*8 ");
  expect_swaps("[('a', '|S3'), ('b', '>i2', (2, 3))]", "[('a', '|S3'), ('b', '<i2', (2, 3))]", "3:6*2 ");
  expect_swaps("[('', '|V1'), (('>', 'a'), [('x', '>i2'), ('y', '|u1')], (2,))]",
               "[('', '|V1'), (('>', 'a'), [('x', '<i2'), ('y', '|u1')], (2,))]", "1:1*2 4:1*2 ");
  expect_swaps("[('a', [('x', '>i2', (2,))], (3,)), ('none', [('x', '>i2'), ('y', '>i4')], (0,))]",
               "[('a', [('x', '<i2', (2,))], (3,)), ('none', [('x', '<i2'), ('y', '<i4')], (0,))]", "0:6*2 ");
}

static void bounds_what_it_notes(void) {
  char file[512];
  sharearray_npy npy;
  struct sa_swaps swaps = {0};
  int length = sharearray_npy_write("[('a', [('x', '>i2'), ('y', '|u1')], (65537,))]", 0, NULL, file, sizeof file);
  CHECK(sa_npy_read_any(file, (size_t)length, 1 << 20, &npy, NULL, message) == 0);
  CHECK(sa_npy_turn(file, &npy, &swaps, message) == SHAREARRAY_EUNSUPPORTED && strstr(message, "65536 big-endian"));
  free(swaps.list);
}

/* ---- Files ---- */

static void write_file(const void *bytes, size_t size) {
  int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
  CHECK(fd >= 0 && write(fd, bytes, size) == (ssize_t)size && close(fd) == 0);
}

/* Imports the file at `path`. Whatever it holds, a complete draft is one that can be mapped. */
static int import_file(void) {
  sharearray_import *import = NULL;
  sharearray_draft *draft = NULL;
  struct sa_map *map = NULL;
  int more = 1, code = sharearray_import_new(path, "form.json", &import, message);
  if (code) {
    CHECK(!import);
    return code;
  }
  code = sharearray_import_draft(import, store, &draft, message);
  while (code == 0 && more > 0) more = sharearray_import_step(import, draft, 1 << 20, message);
  if (code == 0) code = more;
  if (code == 0) {
    uint64_t done, total;
    sharearray_import_progress(import, &done, &total);
    CHECK(done == total);
    struct stat st;
    CHECK(fstat(draft->file.fd, &st) == 0 && (uint64_t)st.st_size == draft->bytes);
    CHECK(sa_map_file(draft->file.fd, draft->bytes, &st, &map, message) == 0);
    code = sa_map_read(map, message);
    CHECK(code == 0);
    sharearray_unref(&map->public);
  }
  sharearray_draft_delete(draft);
  sharearray_import_delete(import);
  return code;
}

static size_t make_npy(char *bytes, char order, bool fortran) {
  size_t at = 128;
  memset(bytes, ' ', at);
  memcpy(bytes, "\x93NUMPY\1\0\166\0", 10);
  at = 10 + (size_t)sprintf(bytes + 10, "{'descr': '%ci4', 'fortran_order': %s, 'shape': (2, 3), }", order,
                            fortran ? "True" : "False");
  bytes[at] = ' ';
  bytes[127] = '\n';
  for (int i = 0; i < 24; i++) bytes[128 + i] = (char)(i * 7);
  return 128 + 24;
}

static unsigned char *put(unsigned char *at, int bytes, uint64_t value) {
  for (; bytes--; value >>= 8) *at++ = (unsigned char)value;
  return at;
}

static size_t pack(const void *bytes, size_t size, unsigned char *packed, size_t room) {
  z_stream z = {0};
  CHECK(deflateInit2(&z, 9, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  z.next_in = (unsigned char *)(uintptr_t)bytes;
  z.avail_in = (uInt)size;
  z.next_out = packed;
  z.avail_out = (uInt)room;
  CHECK(deflate(&z, Z_FINISH) == Z_STREAM_END);
  size_t used = z.total_out;
  deflateEnd(&z);
  return used;
}

struct entry {
  const char *name;
  const void *bytes;
  size_t size;
  int method;
  uint64_t claim; /* what the directory says of the size, if not 0 */
};

static size_t make_zip(const struct entry *entries, int count, unsigned char *zip) {
  static unsigned char packed[1 << 16], central[1 << 12];
  unsigned char *at = zip, *end = central;
  for (int i = 0; i < count; i++) {
    const struct entry *entry = &entries[i];
    const void *content = entry->bytes;
    size_t size = entry->size, name = strlen(entry->name);
    uint64_t claim = entry->claim ? entry->claim : entry->size;
    uint32_t crc = 0;
    CHECK(sharearray_crc32(entry->bytes, entry->size, &crc, NULL) == 0);
    if (entry->method == 8) {
      size = pack(entry->bytes, entry->size, packed, sizeof packed);
      content = packed;
    }
    uint64_t start = (uint64_t)(at - zip);
    end = put(put(put(end, 4, 0x02014b50), 4, 20 | 20 << 16), 2, 0);
    end = put(put(put(end, 2, (uint64_t)entry->method), 4, 0), 4, crc);
    end = put(put(put(put(end, 4, size), 4, claim), 2, name), 4, 0);
    end = put(put(put(end, 4, 0), 4, 0), 4, start);
    memcpy(end, entry->name, name);
    end += name;
    at = put(put(put(at, 4, 0x04034b50), 4, 20), 2, (uint64_t)entry->method);
    at = put(put(put(put(at, 4, 0), 4, crc), 4, size), 4, claim);
    at = put(put(at, 2, name), 2, 0);
    memcpy(at, entry->name, name);
    memcpy(at + name, content, size);
    at += name + size;
  }
  uint64_t start = (uint64_t)(at - zip), length = (uint64_t)(end - central);
  memcpy(at, central, length);
  at = put(put(at + length, 4, 0x06054b50), 4, 0);
  at = put(put(put(at, 2, (uint64_t)count), 2, (uint64_t)count), 4, length);
  at = put(put(at, 4, start), 2, 0);
  return (size_t)(at - zip);
}

static bool is_refusal(int code) { return code == SHAREARRAY_ECORRUPT || code == SHAREARRAY_EUNSUPPORTED; }

/* Every truncation is refused; every changed byte is, or gives a sound draft. */
static void torment(unsigned char *bytes, size_t size) {
  write_file(bytes, size);
  int code = import_file();
  if (code) printf("# %s\n", message);
  CHECK(code == 0);
  for (size_t cut = 0; cut < size; cut++) {
    write_file(bytes, cut);
    CHECK(is_refusal(import_file()));
  }
  for (size_t at = 0; at < size; at++)
    for (int bit = 0; bit < 8; bit++) {
      bytes[at] ^= (unsigned char)(1 << bit);
      write_file(bytes, size);
      code = import_file();
      if (code && !is_refusal(code)) printf("# byte %zu bit %d: %d %s\n", at, bit, code, message);
      /* A larger array, or one that no file system has room for, may be what the header says now. */
      CHECK(code == 0 || is_refusal(code) || code == SHAREARRAY_ENOSPACE);
      bytes[at] ^= (unsigned char)(1 << bit);
    }
}

static void survives_every_change_of_an_npy_file(void) {
  char bytes[256];
  for (int kind = 0; kind < 4; kind++) {
    size_t size = make_npy(bytes, kind & 1 ? '>' : '<', kind & 2);
    torment((unsigned char *)bytes, size);
  }
}

static void survives_every_change_of_an_npz_file(void) {
  static unsigned char zip[1 << 16];
  char one[256], other[256];
  size_t size = make_npy(one, '<', true), other_size = make_npy(other, '>', false);
  for (int method = 0; method <= 8; method += 8) {
    const struct entry entries[] = {{"a.npy", one, size, method, 0},
                                    {"README", "text", 4, method, 0},
                                    {"form.json", "{}", 2, method, 0},
                                    {"b.npy", other, other_size, method, 0}};
    torment(zip, make_zip(entries, 4, zip));
  }
}

static void expect(const struct entry *entries, int count, int code, const char *reason) {
  static unsigned char zip[1 << 18];
  write_file(zip, make_zip(entries, count, zip));
  int got = import_file();
  if (got != code || !strstr(message, reason)) printf("# %s -> %d %s\n", reason, got, message);
  CHECK(got == code && strstr(message, reason));
}

static void refuses_with_the_reason(void) {
  static char large[1 << 15];
  char npy[256], longer[256];
  size_t size = make_npy(npy, '<', false);
  memcpy(longer, npy, size);
  longer[size] = 0;
  const char *damaged = "x.npy is not usable: it ";
  expect(&(struct entry){"x.npy", longer, size + 1, 8, 0}, 1, SHAREARRAY_ECORRUPT, "it is longer than its header says");
  expect(&(struct entry){"x.npy", npy, size, 8, size + 1}, 1, SHAREARRAY_ECORRUPT, damaged);
  expect(&(struct entry){"x.npy", longer, size + 1, 8, size}, 1, SHAREARRAY_ECORRUPT, "inflates to more than its size");
  expect(&(struct entry){"x.npy", npy, size - 1, 8, size}, 1, SHAREARRAY_ECORRUPT, "inflates to less than its size");
  expect(&(struct entry){"x.npy", npy, size, 8, 1 << 30}, 1, SHAREARRAY_ECORRUPT, "too short for its size");
  expect(&(struct entry){"x.npy", large, sizeof large, 8, 0}, 1, SHAREARRAY_ECORRUPT, "no .npy file");
  expect(&(struct entry){"x.npy", npy, size, 12, 0}, 1, SHAREARRAY_EUNSUPPORTED, "method 12");
  expect(&(struct entry){"\xff.npy", npy, size, 0, 0}, 1, SHAREARRAY_EUNSUPPORTED, "not UTF-8");
  expect(&(struct entry){"\xed\xa0\x80.npy", npy, size, 0, 0}, 1, SHAREARRAY_EUNSUPPORTED, "not UTF-8");
  expect(&(struct entry){"readme", npy, size, 0, 0}, 1, SHAREARRAY_EUNSUPPORTED, "without .npy members");
  const struct entry twice[] = {{"x.npy", npy, size, 0, 0}, {"x.npy", npy, size, 0, 0}};
  expect(twice, 2, SHAREARRAY_ECORRUPT, "the same name");
  const struct entry forms[] = {{"x.npy", npy, size, 0, 0}, {"form.json", "{}", 2, 0, 0}, {"form.json", "{}", 2, 0, 0}};
  expect(forms, 3, SHAREARRAY_ECORRUPT, "two of this name");
  expect(&(struct entry){"\xc3\xa4\xe2\x82\xac.npy", npy, size, 8, 0}, 1, 0, "");
}

/* A header longer than what is read at first. */
static void reads_a_long_header(void) {
  char npy[4096];
  make_npy(npy, '<', false);
  memmove(npy + 3000, npy + 128, 24);
  memset(npy + 127, ' ', 3000 - 127);
  npy[8] = (char)((3000 - 10) & 0xff);
  npy[9] = (char)((3000 - 10) >> 8);
  npy[2999] = '\n';
  write_file(npy, 3024);
  CHECK(import_file() == 0);
}

/* So many members that their directory is longer than what is read of the file's end at first. */
static void reads_a_long_directory(void) {
  enum { COUNT = 3000 };
  static sharearray_member members[COUNT];
  static char names[COUNT][16];
  char npy[256];
  uint64_t size = make_npy(npy, '<', false), bytes, end = 0;
  for (int i = 0; i < COUNT; i++) {
    snprintf(names[i], sizeof names[i], "m%07d.npy", i);
    members[i] = (sharearray_member){.name = names[i], .name_length = 12, .size = size};
    CHECK(sharearray_crc32(npy, size, &members[i].crc, message) == 0);
  }
  CHECK(sharearray_npz_plan(members, COUNT, &bytes, message) == 0);
  char *file = calloc(1, bytes);
  for (uint64_t i = 0; i < COUNT; i++) {
    sharearray_npz_frame(members, COUNT, i, file + end);
    memcpy(file + members[i].offset, npy, size);
    end = members[i].offset + size;
  }
  sharearray_npz_frame(members, COUNT, COUNT, file + end);
  write_file(file, bytes);
  free(file);
  CHECK(import_file() == 0);
}

/* Sparse files that claim more than is taken on. */
static void refuses_what_is_too_large(void) {
  unsigned char end[22] = {0};
  char npy[256];
  uint64_t length = 65 << 20;
  put(put(put(put(end, 4, 0x06054b50), 4, 0), 2, 1), 2, 1);
  put(end + 12, 4, length);
  write_file("PK\3\4", 4);
  int fd = open(path, O_WRONLY);
  CHECK(pwrite(fd, end, sizeof end, (off_t)length) == sizeof end && close(fd) == 0);
  CHECK(import_file() == SHAREARRAY_EUNSUPPORTED && strstr(message, "larger than 64 MiB"));
  make_npy(npy, '<', true);
  memset(npy + 10, ' ', 117);
  sprintf(npy + 10, "{'descr': '|V%d', 'fortran_order': True, 'shape': (2, 2), }", (16 << 20) + 1);
  npy[10 + strlen(npy + 10)] = ' ';
  write_file(npy, 128);
  CHECK(truncate(path, 128 + 4 * ((16 << 20) + 1)) == 0);
  CHECK(import_file() == SHAREARRAY_EUNSUPPORTED && strstr(message, "more than 16 MiB"));
}

static void refuses_another_imports_draft(void) {
  char npy[256];
  sharearray_import *import = NULL;
  sharearray_draft *draft = NULL;
  write_file(npy, make_npy(npy, '<', false));
  CHECK(sharearray_import_new(path, "", &import, message) == 0);
  CHECK(sharearray_draft_new(store, 100, &draft, message) == 0);
  CHECK(sharearray_import_step(import, draft, 1, message) == SHAREARRAY_EINVAL && strstr(message, "not made for"));
  sharearray_draft_delete(draft);
  sharearray_import_delete(import);
}

static int calls;

static ssize_t pread_shorter(int fd, void *bytes, size_t size, off_t offset) {
  if (++calls % 3 == 0) {
    errno = EINTR;
    return -1;
  }
  return pread(fd, bytes, size > 5 ? 5 : size, offset);
}

static ssize_t pread_failing(int fd, void *bytes, size_t size, off_t offset) {
  if (++calls < 3) return pread(fd, bytes, size, offset);
  errno = EIO;
  return -1;
}

static void reads_in_whatever_pieces_the_kernel_gives(void) {
  char npy[256];
  struct sa_sys kept = sys;
  write_file(npy, make_npy(npy, '>', true));
  sys.pread = pread_shorter;
  CHECK(import_file() == 0);
  sys.pread = pread_failing;
  calls = 0;
  CHECK(import_file() == SHAREARRAY_EIO && strstr(message, "cannot be read"));
  sys = kept;
}

int main(void) {
  snprintf(directory, sizeof directory, "/dev/shm/core_test.XXXXXX");
  if (!mkdtemp(directory)) return perror(directory), 1;
  snprintf(path, sizeof path, "%s/source", directory);
  sharearray_options options = {.shm_path = directory, .prefix = "t_", .mode = -1, .owner = -1};
  if (sharearray_store_new(&options, &store, message) != 0) return puts(message), 1;
  RUN(transposes_in_pieces_of_any_size);
  RUN(swaps_every_unit);
  RUN(finds_what_is_big_endian);
  RUN(bounds_what_it_notes);
  RUN(survives_every_change_of_an_npy_file);
  RUN(survives_every_change_of_an_npz_file);
  RUN(refuses_with_the_reason);
  RUN(reads_a_long_header);
  RUN(reads_a_long_directory);
  RUN(refuses_what_is_too_large);
  RUN(refuses_another_imports_draft);
  RUN(reads_in_whatever_pieces_the_kernel_gives);
  sharearray_store_delete(store);
  unlink(path);
  snprintf(path, sizeof path, "%s/t_.changes.%u", directory, geteuid());
  unlink(path);
  /* Nothing may be left. */
  if (rmdir(directory) != 0) {
    printf("not ok nothing_is_left: %s is not empty\n", directory);
    harness_failures++;
  }
  FINISH();
}
