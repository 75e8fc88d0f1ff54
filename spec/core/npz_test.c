/* Bundles: what is written is read; each way in which a zip file can lie is refused with its reason. */
#include "../../core/internal.h"
#include "harness.h"

enum { MEMBERS = 3 };

static unsigned char sound[1 << 14]; /* a bundle of three arrays */
static uint64_t sound_size;
static sharearray_member planned[MEMBERS];

static void put(unsigned char *at, int bytes, uint64_t value) {
  for (int i = 0; i < bytes; i++) at[i] = (unsigned char)(value >> 8 * i);
}

static uint64_t get(const unsigned char *at, int bytes) {
  uint64_t value = 0;
  while (bytes--) value = value << 8 | at[bytes];
  return value;
}

static void make(const char *const names[MEMBERS]) {
  unsigned char contents[MEMBERS][256];
  uint64_t shape[1] = {5}, end = 0;
  for (int i = 0; i < MEMBERS; i++) {
    int header = sharearray_npy_write("<i4", 1, shape, (char *)contents[i], sizeof contents[i]);
    for (int k = 0; k < 5; k++) put(contents[i] + header + 4 * k, 4, (uint64_t)(i * 10 + k));
    planned[i].name = names[i];
    planned[i].name_length = (uint32_t)strlen(names[i]);
    planned[i].size = (uint64_t)header + 20;
    CHECK(sharearray_crc32(contents[i], planned[i].size, &planned[i].crc, NULL) == 0);
  }
  CHECK(sharearray_npz_plan(planned, MEMBERS, &sound_size, NULL) == 0);
  for (uint64_t i = 0; i <= MEMBERS; i++) {
    sharearray_npz_frame(planned, MEMBERS, i, sound + end);
    if (i == MEMBERS) break;
    memcpy(sound + planned[i].offset, contents[i], planned[i].size);
    end = planned[i].offset + planned[i].size;
  }
}

static void make_sound(void) { make((const char *const[MEMBERS]){"a.npy", "deep/b.npy", "c.npy"}); }

/* Reads from memory of exactly this size, so that the address sanitizer sees one byte too far. */
static int read_exact(const unsigned char *file, uint64_t size, char *message) {
  unsigned char *exact = malloc(size ? size : 1);
  sharearray_member *members = NULL;
  uint64_t count = 0;
  memcpy(exact, file, size);
  int code = sharearray_npz_read(exact, size, &members, &count, message);
  if (code == 0)
    for (uint64_t i = 0; i < count; i++) {
      CHECK(members[i].offset + members[i].size <= size);
      if (members[i].array) CHECK(members[i].array->offset + members[i].array->nbytes <= members[i].size);
    }
  free(members);
  free(exact);
  return code;
}

static void reads_what_it_writes(void) {
  sharearray_member *members = NULL;
  uint64_t count = 0;
  make_sound();
  CHECK(sharearray_npz_read(sound, sound_size, &members, &count, NULL) == 0 && count == MEMBERS);
  for (int i = 0; i < MEMBERS && members; i++) {
    CHECK(members[i].offset == planned[i].offset && members[i].offset % 64 == 0);
    CHECK(members[i].array->offset % 64 == 0 && members[i].array->kind == 'i' && members[i].crc == planned[i].crc);
    CHECK(get(sound + members[i].offset + members[i].array->offset + 16, 4) == (uint64_t)i * 10 + 4);
  }
  free(members);
}

static void refuses_every_truncation(void) {
  for (uint64_t size = 0; size < sound_size; size++) {
    char message[SHAREARRAY_MESSAGE] = "";
    CHECK(read_exact(sound, size, message) == SHAREARRAY_ECORRUPT && message[0]);
  }
}

static void survives_every_changed_byte(void) {
  unsigned char file[sizeof sound];
  for (uint64_t at = 0; at < sound_size; at++)
    for (int value = 0; value < 256; value += value < 8 || value > 246 ? 1 : 34) {
      memcpy(file, sound, sound_size);
      file[at] = (unsigned char)value;
      read_exact(file, sound_size, NULL); /* any answer, inside the file: checked there */
    }
}

/* Offsets of the fixed parts: the end record, entry i of the directory, local header i. */
static uint64_t end_at(void) { return sound_size - 22; }

static uint64_t entry_at(int wanted) {
  uint64_t at = get(sound + end_at() + 16, 4);
  for (int i = 0; i < wanted; i++) at += 46 + get(sound + at + 28, 2) + get(sound + at + 30, 2);
  return at;
}

static uint64_t local_at(int i) { return get(sound + entry_at(i) + 42, 4); }

enum base { END, ENTRY0, ENTRY1, ENTRY2, LOCAL0, LOCAL1, CONTENT0 };

static uint64_t base_of(enum base base) {
  switch (base) {
  case END: return end_at();
  case ENTRY0: return entry_at(0);
  case ENTRY1: return entry_at(1);
  case ENTRY2: return entry_at(2);
  case LOCAL0: return local_at(0);
  case LOCAL1: return local_at(1);
  case CONTENT0: return planned[0].offset;
  }
  return 0;
}

/* A lie: bytes of a field, relative to a record, and what it has to be called. */
static const struct {
  const char *name;
  enum base base;
  int offset, bytes;
  uint64_t value;
  int code;
  const char *reason;
} lies[] = {
    {"end record without its magic", END, 0, 4, 0, SHAREARRAY_ECORRUPT, "no end record"},
    {"comment longer than the file", END, 20, 2, 9, SHAREARRAY_ECORRUPT, "no end record"},
    {"second disk", END, 4, 2, 1, SHAREARRAY_ECORRUPT, "disks"},
    {"directory on another disk", END, 6, 2, 1, SHAREARRAY_ECORRUPT, "disks"},
    {"fewer entries than there are", END, 10, 2, 2, SHAREARRAY_ECORRUPT, "follows the entries"},
    {"more entries than there are", END, 10, 2, 4, SHAREARRAY_ECORRUPT, "directory"},
    {"more entries than fit", END, 10, 2, 60000, SHAREARRAY_ECORRUPT, "too short"},
    {"directory shorter than it is", END, 12, 4, 10, SHAREARRAY_ECORRUPT, "not where it says"},
    {"directory longer than the file", END, 12, 4, 1 << 20, SHAREARRAY_ECORRUPT, "not where it says"},
    {"directory behind the file", END, 16, 4, 1 << 30, SHAREARRAY_ECORRUPT, "not where it says"},
    {"directory at 0", END, 16, 4, 0, SHAREARRAY_ECORRUPT, "not where it says"},
    {"zip64 count without a locator", END, 10, 2, 0xffff, SHAREARRAY_ECORRUPT, "too short"},
    {"zip64 size without a locator", END, 12, 4, 0xffffffff, SHAREARRAY_ECORRUPT, "locator"},
    {"zip64 directory without a locator", END, 16, 4, 0xffffffff, SHAREARRAY_ECORRUPT, "locator"},
    {"entry without its magic", ENTRY1, 0, 4, 0x04034b50, SHAREARRAY_ECORRUPT, "damaged"},
    {"encrypted member", ENTRY1, 8, 2, 1, SHAREARRAY_EUNSUPPORTED, "encrypted"},
    {"deflated member", ENTRY1, 10, 2, 8, SHAREARRAY_EUNSUPPORTED, "compressed"},
    {"member packed by an unknown method", ENTRY1, 10, 2, 99, SHAREARRAY_EUNSUPPORTED, "compressed"},
    {"packed size unlike the size", ENTRY1, 20, 4, 7, SHAREARRAY_ECORRUPT, "two sizes"},
    {"size unlike the packed size", ENTRY1, 24, 4, 7, SHAREARRAY_ECORRUPT, "two sizes"},
    {"zip64 size without its field", ENTRY1, 24, 4, 0xffffffff, SHAREARRAY_ECORRUPT, "zip64 field"},
    {"zip64 offset without its field", ENTRY1, 42, 4, 0xffffffff, SHAREARRAY_ECORRUPT, "zip64 field"},
    {"empty name", ENTRY2, 28, 2, 0, SHAREARRAY_ECORRUPT, ""},
    {"name longer than the directory", ENTRY2, 28, 2, 60000, SHAREARRAY_ECORRUPT, "cut off"},
    {"extra longer than the directory", ENTRY2, 30, 2, 60000, SHAREARRAY_ECORRUPT, "cut off"},
    {"comment longer than the directory", ENTRY2, 32, 2, 60000, SHAREARRAY_ECORRUPT, "cut off"},
    {"NUL in a name", ENTRY1, 46, 1, 0, SHAREARRAY_ECORRUPT, "proper name"},
    {"other name than in the local header", ENTRY1, 46, 1, 'z', SHAREARRAY_ECORRUPT, "another name"},
    {"local header behind the file", ENTRY2, 42, 4, 1 << 30, SHAREARRAY_ECORRUPT, "outside"},
    {"local header inside the directory", ENTRY2, 42, 4, 640, SHAREARRAY_ECORRUPT, ""},
    {"two entries for one local header", ENTRY1, 42, 4, 0, SHAREARRAY_ECORRUPT, "overlap"},
    {"local header inside a content", ENTRY1, 42, 4, 100, SHAREARRAY_ECORRUPT, "overlap"},
    {"local header without its magic", LOCAL1, 0, 4, 0, SHAREARRAY_ECORRUPT, "no local header"},
    {"local name of another length", LOCAL1, 26, 2, 3, SHAREARRAY_ECORRUPT, "another name"},
    {"local name beyond the file", LOCAL1, 26, 2, 60000, SHAREARRAY_ECORRUPT, "outside"},
    {"local extra beyond the file", LOCAL1, 28, 2, 60000, SHAREARRAY_ECORRUPT, "outside"},
    {"local extra that moves the content", LOCAL0, 28, 2, 0, SHAREARRAY_ECORRUPT, "no .npy file"},
    {"content that is no array", CONTENT0, 0, 4, 0, SHAREARRAY_ECORRUPT, "a.npy is not usable: it is no .npy"},
    {"array of another version", CONTENT0, 6, 1, 9, SHAREARRAY_EUNSUPPORTED, "version 9"},
    {"array header beyond the member", CONTENT0, 8, 2, 0x7fff, SHAREARRAY_ECORRUPT, "ends inside its header"},
};

static void refuses_each_lie(void) {
  unsigned char file[sizeof sound];
  for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
    char message[SHAREARRAY_MESSAGE] = "";
    memcpy(file, sound, sound_size);
    put(file + base_of(lies[i].base) + lies[i].offset, lies[i].bytes, lies[i].value);
    int code = read_exact(file, sound_size, message);
    if (code != lies[i].code || !strstr(message, lies[i].reason)) printf("# %s: %d %s\n", lies[i].name, code, message);
    CHECK(code == lies[i].code && strstr(message, lies[i].reason));
  }
}

static void refuses_a_name_twice(void) {
  static const char *const twice[][MEMBERS] = {{"a.npy", "b.npy", "a.npy"}, {"b.npy", "a.npy", "a.npy"},
                                               {"a.npy", "a.npy", "b.npy"}, {"a.npy", "b.npy", "b.npy"},
                                               {"a.npy", "x", "a.npy"},     {"x", "a.npy", "x"},
                                               {"x", "x", "a.npy"},         {"a.npy.npy", "a.npy", "a.npy.npy"}};
  for (size_t i = 0; i < sizeof twice / sizeof *twice; i++) {
    char message[SHAREARRAY_MESSAGE] = "";
    make(twice[i]);
    CHECK(read_exact(sound, sound_size, message) == SHAREARRAY_ECORRUPT && strstr(message, "same name"));
  }
}

static void reads_names_in_any_order(void) {
  static const char *const orders[][MEMBERS] = {
      {"a.npy", "b.npy", "c.npy"},  {"c.npy", "b.npy", "a.npy"}, {"b.npy", "a.npy", "x"},    {"y", "x", "a.npy"},
      {"a.npy", "a.npy.npy", "aa"}, {"a", "a.npy", "npy"},       {"aa.npy", "a.npy", ".npy"}};
  for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
    make(orders[i]);
    CHECK(read_exact(sound, sound_size, NULL) == 0);
  }
}

/* Members whose headers are alike share it, whatever lies between; one that is shorter than its header says does not. */
static void shares_headers_that_are_alike(void) {
  sharearray_member *members = NULL;
  uint64_t count = 0;
  char message[SHAREARRAY_MESSAGE] = "";
  make((const char *const[MEMBERS]){"a.npy", "x", "b.npy"});
  CHECK(sharearray_npz_read(sound, sound_size, &members, &count, NULL) == 0 && count == MEMBERS);
  if (members) CHECK(members[0].array && !members[1].array && members[0].array == members[2].array);
  free(members);
  make_sound();
  put(sound + entry_at(2) + 20, 4, planned[2].size - 1);
  put(sound + entry_at(2) + 24, 4, planned[2].size - 1);
  CHECK(read_exact(sound, sound_size, message) == SHAREARRAY_ECORRUPT && strstr(message, "c.npy"));
}

static void reads_a_comment_and_bytes_in_front_of_nothing(void) {
  unsigned char file[sizeof sound] = {0};
  make_sound();
  memcpy(file, sound, sound_size);
  put(file + end_at() + 20, 2, 5);
  memcpy(file + sound_size, "hello", 5);
  CHECK(read_exact(file, sound_size + 5, NULL) == 0);
  CHECK(read_exact(file, sound_size + 4, NULL) == SHAREARRAY_ECORRUPT);
  /* An end record alone is an empty zip. */
  memset(file, 0, 22);
  memcpy(file, "PK\5\6", 4);
  CHECK(read_exact(file, 22, NULL) == 0);
}

/* Members and offsets past 32 bits: planned and framed, without the bytes between. */
static void goes_past_32_bits(void) {
  sharearray_member members[3] = {
      {.name = "huge.npy", .name_length = 8, .size = 5ull << 30, .crc = 1},
      {.name = "small.npy", .name_length = 9, .size = 10, .crc = 2},
      {.name = "last.npy", .name_length = 8, .size = 1, .crc = 3},
  };
  uint64_t bytes;
  CHECK(sharearray_npz_plan(members, 3, &bytes, NULL) == 0);
  CHECK(members[0].offset % 64 == 0 && members[1].offset > (5ull << 30) && members[1].offset % 64 == 0);
  uint64_t tail = members[2].offset + 1;
  sharearray_map *map = NULL;
  CHECK(sharearray_private(bytes, &map, NULL) == 0);
  unsigned char *base = map->base;
  sharearray_npz_frame(members, 3, 0, base);
  sharearray_npz_frame(members, 3, 1, base + members[0].offset + members[0].size);
  sharearray_npz_frame(members, 3, 2, base + members[1].offset + members[1].size);
  sharearray_npz_frame(members, 3, 3, base + tail);
  CHECK(get(base + bytes - 22, 4) == 0x06054b50); /* the plan's size is the file's */
  sharearray_member *read = NULL;
  uint64_t count;
  char message[SHAREARRAY_MESSAGE];
  /* The contents are zeros, no arrays: the directory has been accepted when that is found out. */
  CHECK(sharearray_npz_read(base, bytes, &read, &count, message) == SHAREARRAY_ECORRUPT);
  CHECK(strstr(message, "huge.npy is not usable") != NULL);
  uint64_t shape[1] = {(5ull << 30) - 128};
  CHECK(sharearray_npy_write("|u1", 1, shape, (char *)base + members[0].offset, 128) == 128);
  CHECK(sharearray_npz_read(base, bytes, &read, &count, message) == SHAREARRAY_ECORRUPT);
  CHECK(strstr(message, "small.npy is not usable") != NULL);
  put(base + tail + 46 + 8, 2, 0x5455); /* another extra field in its place: a time stamp */
  CHECK(sharearray_npz_read(base, bytes, &read, &count, message) == SHAREARRAY_ECORRUPT);
  CHECK(strstr(message, "zip64 field is missing") != NULL);
  sharearray_unref(map);
}

/* The zip64 end record, and the locator behind it, each with a lie. */
static void check_end64(unsigned char *file, uint64_t bytes) {
  sharearray_member *read = NULL;
  uint64_t count, locator = bytes - 22 - 20, end64 = locator - 56;
  char message[SHAREARRAY_MESSAGE];
  put(file + end64 + 40, 8, get(file + end64 + 40, 8) + 1);
  CHECK(sharearray_npz_read(file, bytes, &read, &count, message) == SHAREARRAY_ECORRUPT);
  CHECK(strstr(message, "not where it says") != NULL);
  put(file + locator + 8, 8, 0);
  CHECK(sharearray_npz_read(file, bytes, &read, &count, message) == SHAREARRAY_ECORRUPT);
  CHECK(strstr(message, "zip64 end record is missing") != NULL);
}

/* A file of `count` members of 4 bytes, and its size: to be freed. */
static unsigned char *make_many(int count, uint64_t *bytes) {
  sharearray_member *members = calloc((size_t)count, sizeof *members);
  char(*names)[16] = calloc((size_t)count, sizeof *names);
  uint64_t end = 0;
  for (int i = 0; i < count; i++) {
    snprintf(names[i], sizeof names[i], "m%d", i);
    members[i] = (sharearray_member){.name = names[i], .name_length = (uint32_t)strlen(names[i]), .size = 4};
  }
  CHECK(sharearray_npz_plan(members, (uint64_t)count, bytes, NULL) == 0);
  unsigned char *file = calloc(1, *bytes);
  for (int i = 0; i <= count; i++) {
    sharearray_npz_frame(members, (uint64_t)count, (uint64_t)i, file + end);
    if (i < count) end = members[i].offset + members[i].size;
  }
  free(names);
  free(members);
  return file;
}

static void counts_past_16_bits(void) {
  static const int counts[] = {65534, 65535, 65536, 70000};
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
    uint64_t bytes, count = 0;
    unsigned char *file = make_many(counts[i], &bytes);
    sharearray_member *read = NULL;
    CHECK(sharearray_npz_read(file, bytes, &read, &count, NULL) == 0 && count == (uint64_t)counts[i]);
    free(read);
    if (counts[i] > 65535) check_end64(file, bytes);
    free(file);
  }
}

/* As Python writes them: 0xffff entries, and no zip64 record that says so again. */
static void counts_to_16_bits_without_zip64(void) {
  uint64_t bytes, count = 0;
  unsigned char *file = make_many(65535, &bytes);
  sharearray_member *read = NULL;
  unsigned char *end = file + bytes - 22, *end64 = end - 20 - 56;
  put(end + 12, 4, get(end64 + 40, 8));
  put(end + 16, 4, get(end64 + 48, 8));
  memmove(end64, end, 22);
  CHECK(sharearray_npz_read(file, bytes - 20 - 56, &read, &count, NULL) == 0 && count == 65535);
  free(read);
  free(file);
}

int main(void) {
  RUN(reads_what_it_writes);
  RUN(refuses_every_truncation);
  RUN(survives_every_changed_byte);
  RUN(refuses_each_lie);
  RUN(refuses_a_name_twice);
  RUN(reads_names_in_any_order);
  RUN(shares_headers_that_are_alike);
  RUN(reads_a_comment_and_bytes_in_front_of_nothing);
  RUN(goes_past_32_bits);
  RUN(counts_past_16_bits);
  RUN(counts_to_16_bits_without_zip64);
  FINISH();
}
