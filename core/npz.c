/* Bundles: a zip file of stored (uncompressed) members, each an .npy file, read in place and written.
 *
 *   local header, padding, content 0, local header, padding, content 1, ..., central directory, end
 *
 * Format: PKWARE APPNOTE.TXT 6.3 (4.3.7 local header, 4.3.12 central directory, 4.3.14 to 4.3.16 end
 * records, 4.5.3 zip64). Contents start at multiples of 64: the padding is an extra field of the local
 * header, with the id that Android's zipalign uses for it.
 *
 * All input is hostile. Sizes come from the central directory, offsets from the local headers; members
 * must lie behind each other, inside the file, and have different names. */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  LOCAL = 30,
  CENTRAL = 46,
  END = 22,
  END64 = 56,
  LOCATOR64 = 20, /* sizes of the fixed parts */
  COMMENT_MAX = 65535,
  EXTRA_ZIP64 = 1,
  EXTRA_PADDING = 0xd935,
  ALIGNMENT = 64,
  FLAG_ENCRYPTED = 1,
  FLAG_UTF8 = 1 << 11,
  METHOD_DEFLATE = 8,
  VERSION = 20,
  VERSION64 = 45,
  DATE_1980 = 0x21 /* 1980-01-01, the first day of MS-DOS time */
};
#define MAX32 0xffffffffu
static const uint32_t LOCAL_MAGIC = 0x04034b50, CENTRAL_MAGIC = 0x02014b50, END_MAGIC = 0x06054b50,
                      END64_MAGIC = 0x06064b50, LOCATOR64_MAGIC = 0x07064b50;

/* Written out, or compilers would not make single loads of them. */
static uint32_t load16(const unsigned char *at) { return (uint32_t)at[0] | (uint32_t)at[1] << 8; }

static uint32_t load32(const unsigned char *at) {
  return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint64_t load64(const unsigned char *at) { return load32(at) | (uint64_t)load32(at + 4) << 32; }

/* ---- Reading ---- */

bool sa_zip_is_array(const sharearray_member *member) {
  const uint32_t dot_npy = 0x79706e2e;
  return member->name_length > 4 && load32((const unsigned char *)member->name + member->name_length - 4) == dot_npy;
}

static int corrupt(char *message, const char *reason) { return sa_fail(message, SHAREARRAY_ECORRUPT, "%s", reason); }

static const unsigned char *bytes_at(const struct sa_zip *zip, uint64_t at) { return zip->base + (at - zip->origin); }

/* The end record, from the file's end backwards; behind it a comment of the length it names. */
static const unsigned char *find_end(const struct sa_zip *zip) {
  if (zip->length - zip->origin < END) return NULL;
  uint64_t lowest = zip->length > END + COMMENT_MAX ? zip->length - END - COMMENT_MAX : 0;
  if (lowest < zip->origin) lowest = zip->origin;
  for (uint64_t at = zip->length - END + 1; at-- > lowest;) {
    const unsigned char *record = bytes_at(zip, at);
    if (load32(record) == END_MAGIC && at + END + load16(record + 20) == zip->length) return record;
  }
  return NULL;
}

static bool has_locator(const struct sa_zip *zip, uint64_t end) {
  return end - zip->origin >= LOCATOR64 && load32(bytes_at(zip, end - LOCATOR64)) == LOCATOR64_MAGIC;
}

/* The zip64 end record, if the plain one says that it does not hold the numbers. */
static int read_end64(struct sa_zip *zip, uint64_t end, char *message) {
  if (!has_locator(zip, end)) return corrupt(message, "its zip64 locator is missing");
  if (end - zip->origin < LOCATOR64 + END64) return corrupt(message, "it has no room for its zip64 end record");
  uint64_t at = load64(bytes_at(zip, end - LOCATOR64) + 8);
  if (at < zip->origin || at > end - LOCATOR64 - END64 || load32(bytes_at(zip, at)) != END64_MAGIC)
    return corrupt(message, "its zip64 end record is missing");
  const unsigned char *record = bytes_at(zip, at);
  zip->count = load64(record + 32);
  zip->directory_size = load64(record + 40);
  zip->directory = load64(record + 48);
  if (load32(record + 16) || load32(record + 20)) return corrupt(message, "it is one of several disks");
  if (zip->directory > at || zip->directory_size != at - zip->directory)
    return corrupt(message, "its central directory is not where it says");
  return 0;
}

static int read_end(struct sa_zip *zip, char *message) {
  const unsigned char *record = find_end(zip);
  if (!record) return corrupt(message, "it has no end record of a zip file");
  uint64_t at = zip->origin + (uint64_t)(record - zip->base);
  zip->count = load16(record + 10);
  zip->directory_size = load32(record + 12);
  zip->directory = load32(record + 16);
  /* 65,535 entries may be just that many: Python's zipfile writes no zip64 record for them. */
  if (zip->directory_size == MAX32 || zip->directory == MAX32 || (zip->count == 0xffff && has_locator(zip, at)))
    return read_end64(zip, at, message);
  if (load16(record + 4) || load16(record + 6)) return corrupt(message, "it is one of several disks");
  if (zip->directory > at || zip->directory_size != at - zip->directory)
    return corrupt(message, "its central directory is not where it says");
  return 0;
}

int sa_zip_find(struct sa_zip *zip, char *message) {
  int code = read_end(zip, message);
  /* Before anything is allocated for what it claims: so many entries fit the directory. */
  if (code == 0 && zip->count > zip->directory_size / CENTRAL)
    code = corrupt(message, "its central directory is too short");
  return code;
}

/* The 64-bit values that an extra field holds for those fixed ones that are MAX32, in their order. */
static bool read_extra64(const unsigned char *extra, uint64_t length, uint64_t **values, int wanted) {
  const unsigned char *end = extra + length;
  while (end - extra >= 4) {
    uint64_t id = load16(extra), size = load16(extra + 2);
    extra += 4;
    if (size > (uint64_t)(end - extra)) return false;
    if (id == EXTRA_ZIP64) {
      if (size < (uint64_t)wanted * 8) return false;
      for (int i = 0; i < wanted; i++) *values[i] = load64(extra + 8 * i);
      return true;
    }
    extra += size;
  }
  return wanted == 0;
}

uint64_t sa_zip_local_size(const sharearray_member *member) { return LOCAL + member->name_length; }

int sa_zip_local(const struct sa_zip *zip, const unsigned char *local, const struct sa_packed *packed,
                 sharearray_member *member, char *message) {
  if (load32(local) != LOCAL_MAGIC) return corrupt(message, "a member has no local header");
  uint64_t name_length = load16(local + 26), extra_length = load16(local + 28);
  if (zip->directory - packed->start < LOCAL + name_length + extra_length)
    return corrupt(message, "a local header lies outside the file");
  if (name_length != member->name_length || memcmp(local + LOCAL, member->name, (size_t)name_length) != 0)
    return corrupt(message, "a local header has another name than the central directory");
  member->offset = packed->start + LOCAL + name_length + extra_length;
  if (packed->size > zip->directory - member->offset) return corrupt(message, "a member is longer than the file");
  return 0;
}

int64_t sa_zip_entry(const struct sa_zip *zip, uint64_t at, sharearray_member *member, struct sa_packed *packed,
                     char *message) {
  uint64_t left = zip->directory + zip->directory_size - at;
  const unsigned char *entry = bytes_at(zip, at);
  if (left < CENTRAL || load32(entry) != CENTRAL_MAGIC) return corrupt(message, "its central directory is damaged");
  uint64_t name_length = load16(entry + 28), extra_length = load16(entry + 30);
  uint64_t length = CENTRAL + name_length + extra_length + load16(entry + 32);
  if (length > left) return corrupt(message, "its central directory is cut off");
  if (load16(entry + 8) & FLAG_ENCRYPTED) return sa_fail(message, SHAREARRAY_EUNSUPPORTED, "a member is encrypted");
  uint64_t method = load16(entry + 10), *wanted[3];
  if (method != 0 && method != METHOD_DEFLATE)
    return sa_fail(message, SHAREARRAY_EUNSUPPORTED, "a member is compressed by method %u; save it with numpy.savez",
                   (unsigned)method);
  packed->deflated = method != 0;
  packed->size = load32(entry + 20);
  packed->start = load32(entry + 42);
  int count = 0;
  member->crc = load32(entry + 16);
  member->size = load32(entry + 24);
  if (member->size == MAX32) wanted[count++] = &member->size;
  if (packed->size == MAX32) wanted[count++] = &packed->size;
  if (packed->start == MAX32) wanted[count++] = &packed->start;
  if (!read_extra64(entry + CENTRAL + name_length, extra_length, wanted, count))
    return corrupt(message, "a zip64 field is missing or damaged");
  if (!packed->deflated && packed->size != member->size) return corrupt(message, "a stored member has two sizes");
  member->name = (const char *)entry + CENTRAL;
  member->name_length = (uint32_t)name_length;
  if (name_length == 0 || memchr(member->name, '\0', (size_t)name_length))
    return corrupt(message, "a member has no proper name");
  if (packed->start > zip->directory || zip->directory - packed->start < LOCAL + name_length)
    return corrupt(message, "a member lies outside the file");
  return (int64_t)length;
}

static int compare_names(const void *a, const void *b) {
  const sharearray_member *one = *(const sharearray_member *const *)a, *other = *(const sharearray_member *const *)b;
  uint32_t shorter = one->name_length < other->name_length ? one->name_length : other->name_length;
  int order = memcmp(one->name, other->name, shorter);
  return order ? order : (one->name_length > other->name_length) - (one->name_length < other->name_length);
}

/* Whether it is plain that all names differ: the arrays' are in order, as we write them, and no more than one member is
 * none. */
static bool are_in_order(const sharearray_member *members, uint64_t count) {
  const sharearray_member *last = NULL;
  uint64_t others = 0;
  for (uint64_t i = 0; i < count && others < 2; i++) {
    const sharearray_member *member = &members[i];
    if (!sa_zip_is_array(member)) {
      others++;
      continue;
    }
    if (last && compare_names(&last, &member) >= 0) return false;
    last = member;
  }
  return others < 2;
}

int sa_zip_check_names(const sharearray_member *members, uint64_t count, char *message) {
  if (are_in_order(members, count)) return 0;
  const sharearray_member **sorted = calloc((size_t)count + 1, sizeof *sorted);
  int code = 0;
  if (!sorted) return sa_fail(message, SHAREARRAY_EIO, "out of memory");
  for (uint64_t i = 0; i < count; i++) sorted[i] = &members[i];
  qsort(sorted, (size_t)count, sizeof *sorted, compare_names);
  for (uint64_t i = 1; i < count && code == 0; i++)
    if (compare_names(&sorted[i - 1], &sorted[i]) == 0) code = corrupt(message, "two members have the same name");
  free(sorted);
  return code;
}

/* What the members' headers are read into. */
struct headers {
  sharearray_npy *next;           /* room for as many as there are members */
  const sharearray_member *known; /* the last array so far; NULL: none */
};

/* Whether a member's header is the one of `known`, byte for byte, and its content as long. */
static bool is_alike(const struct sa_zip *zip, const sharearray_member *known, const sharearray_member *member) {
  const sharearray_npy *header = known->array;
  return member->size >= header->offset && member->size - header->offset >= header->nbytes &&
         memcmp(zip->base + member->offset, zip->base + known->offset, (size_t)header->offset) == 0;
}

/* The header of a member that is an .npy file; other members are left as bytes. Those of a thousand arrays are mostly
 * alike, and then read and kept once. */
static int read_array(const struct sa_zip *zip, struct headers *headers, sharearray_member *member, char *message) {
  char reason[SHAREARRAY_MESSAGE];
  member->array = NULL;
  if (!sa_zip_is_array(member)) return 0;
  if (headers->known && is_alike(zip, headers->known, member)) {
    member->array = headers->known->array;
    return 0;
  }
  int code = sa_npy_read(zip->base + member->offset, (size_t)member->size, member->size, headers->next, NULL, reason);
  if (code)
    return sa_fail(message, code, "its member %.*s is not usable: %s",
                   (int)(member->name_length > 80 ? 80 : member->name_length), member->name, reason);
  member->array = headers->next++;
  headers->known = member;
  return 0;
}

int sharearray_npz_read(const void *bytes, uint64_t length, sharearray_member **out, uint64_t *count, char *message) {
  struct sa_zip zip = {.base = bytes, .length = length};
  int code = sa_zip_find(&zip, message);
  if (code) return code;
  /* One block; what of it no header needs is never touched. */
  sharearray_member *members = malloc((size_t)zip.count * (sizeof *members + sizeof(sharearray_npy)) + 1);
  if (!members) return sa_fail(message, SHAREARRAY_EIO, "out of memory");
  struct headers headers = {.next = (sharearray_npy *)(members + zip.count)};
  struct sa_packed packed;
  uint64_t at = zip.directory, free_from = 0;
  for (uint64_t i = 0; i < zip.count && code == 0; i++) {
    int64_t entry = sa_zip_entry(&zip, at, &members[i], &packed, message);
    if (entry < 0) code = (int)entry;
    else if (packed.deflated)
      code = sa_fail(message, SHAREARRAY_EUNSUPPORTED, "a member is compressed; save it with numpy.savez");
    else if (packed.start < free_from) code = corrupt(message, "its members overlap, or are out of order");
    else code = sa_zip_local(&zip, zip.base + packed.start, &packed, &members[i], message);
    if (code) break;
    at += (uint64_t)entry;
    free_from = members[i].offset + members[i].size;
    code = read_array(&zip, &headers, &members[i], message);
  }
  if (code == 0 && at != zip.directory + zip.directory_size)
    code = corrupt(message, "something follows the entries of its central directory");
  if (code == 0) code = sa_zip_check_names(members, zip.count, message);
  if (code) {
    free(members);
    return code;
  }
  *out = members;
  *count = zip.count;
  return 0;
}

/* ---- Writing ---- */

static unsigned char *store(unsigned char *at, int bytes, uint64_t value) {
  while (bytes--) {
    *at++ = (unsigned char)(value & 0xff);
    value >>= 8;
  }
  return at;
}

static bool is_large(uint64_t value) { return value >= MAX32; }

/* Bytes of a local header without its padding. */
static uint64_t local_size(const sharearray_member *member) {
  return LOCAL + member->name_length + (is_large(member->size) ? 20 : 0);
}

static uint64_t central_extra(const sharearray_member *member, uint64_t start) {
  return (is_large(member->size) ? 16 : 0) + (is_large(start) ? 8 : 0);
}

/* Where the local header of member i begins: behind the content before it. */
static uint64_t start_of(const sharearray_member *members, uint64_t i) {
  return i ? members[i - 1].offset + members[i - 1].size : 0;
}

int sharearray_npz_plan(sharearray_member *members, uint64_t count, uint64_t *bytes, char *message) {
  uint64_t directory = 0;
  for (uint64_t i = 0; i < count; i++) {
    uint64_t start = start_of(members, i);
    if (members[i].name_length == 0 || members[i].name_length > 0xfff0)
      return sa_fail(message, SHAREARRAY_EINVAL, "the name of a member is empty or too long");
    /* A padding field has 4 bytes at least. */
    uint64_t least = start + local_size(&members[i]) + 4;
    members[i].offset = (least + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (members[i].offset > INT64_MAX - members[i].size)
      return sa_fail(message, SHAREARRAY_EINVAL, "the bundle is too large");
    uint64_t extra = central_extra(&members[i], start);
    directory += CENTRAL + members[i].name_length + (extra ? 4 + extra : 0);
  }
  uint64_t end = start_of(members, count);
  bool large = is_large(end) || is_large(directory) || count >= 0xffff;
  *bytes = end + directory + (large ? END64 + LOCATOR64 : 0) + END;
  return 0;
}

static void write_local(const sharearray_member *member, uint64_t start, unsigned char *at) {
  bool large = is_large(member->size);
  uint64_t padding = member->offset - start - local_size(member);
  uint64_t size = large ? MAX32 : member->size;
  at = store(at, 4, LOCAL_MAGIC);
  at = store(at, 2, large ? VERSION64 : VERSION);
  at = store(at, 2, FLAG_UTF8);
  at = store(at, 2, 0); /* stored */
  at = store(at, 4, (uint64_t)DATE_1980 << 16);
  at = store(at, 4, member->crc);
  at = store(at, 4, size);
  at = store(at, 4, size);
  at = store(at, 2, member->name_length);
  at = store(at, 2, (large ? 20 : 0) + padding);
  memcpy(at, member->name, member->name_length);
  at += member->name_length;
  if (large) {
    at = store(store(at, 2, EXTRA_ZIP64), 2, 16);
    at = store(store(at, 8, member->size), 8, member->size);
  }
  at = store(store(at, 2, EXTRA_PADDING), 2, padding - 4);
  memset(at, 0, (size_t)(padding - 4));
}

static unsigned char *write_central(const sharearray_member *member, uint64_t start, unsigned char *at) {
  uint64_t extra = central_extra(member, start), size = is_large(member->size) ? MAX32 : member->size;
  at = store(at, 4, CENTRAL_MAGIC);
  at = store(at, 2, 3 << 8 | VERSION64); /* made on Unix */
  at = store(at, 2, extra ? VERSION64 : VERSION);
  at = store(at, 2, FLAG_UTF8);
  at = store(at, 2, 0);
  at = store(at, 4, (uint64_t)DATE_1980 << 16);
  at = store(at, 4, member->crc);
  at = store(at, 4, size);
  at = store(at, 4, size);
  at = store(at, 2, member->name_length);
  at = store(at, 2, extra ? 4 + extra : 0);
  at = store(at, 6, 0);                       /* comment, disk, internal attributes */
  at = store(at, 4, (uint64_t)0100444 << 16); /* a regular file, read-only */
  at = store(at, 4, is_large(start) ? MAX32 : start);
  memcpy(at, member->name, member->name_length);
  at += member->name_length;
  if (extra) at = store(store(at, 2, EXTRA_ZIP64), 2, extra);
  if (is_large(member->size)) at = store(store(at, 8, member->size), 8, member->size);
  if (is_large(start)) at = store(at, 8, start);
  return at;
}

static void write_end(uint64_t count, uint64_t directory, uint64_t size, unsigned char *at) {
  bool large = is_large(directory) || is_large(size) || count >= 0xffff;
  if (large) {
    at = store(store(at, 4, END64_MAGIC), 8, END64 - 12);
    at = store(store(at, 2, 3 << 8 | VERSION64), 2, VERSION64);
    at = store(at, 8, 0); /* disks */
    at = store(store(at, 8, count), 8, count);
    at = store(store(at, 8, size), 8, directory);
    at = store(store(at, 4, LOCATOR64_MAGIC), 4, 0);
    at = store(store(at, 8, directory + size), 4, 1);
  }
  at = store(store(at, 4, END_MAGIC), 4, 0);
  at = store(store(at, 2, large ? 0xffff : count), 2, large ? 0xffff : count);
  at = store(store(at, 4, large ? MAX32 : size), 4, large ? MAX32 : directory);
  store(at, 2, 0);
}

void sharearray_npz_frame(const sharearray_member *members, uint64_t count, uint64_t i, void *bytes) {
  unsigned char *at = bytes;
  if (i < count) {
    write_local(&members[i], start_of(members, i), at);
    return;
  }
  for (uint64_t k = 0; k < count; k++) at = write_central(&members[k], start_of(members, k), at);
  write_end(count, start_of(members, count), (uint64_t)(at - (unsigned char *)bytes), at);
}
