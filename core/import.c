/* Imports: a file from anywhere, .npy or .npz, copied into a draft in the form that can be shared.
 *
 *   sharearray_import_new     reads the header, or the directory and the header of every member
 *   sharearray_import_draft   makes the draft: its size is known by now
 *   sharearray_import_step    content goes through one buffer into the draft, until all is there
 *
 * Elements become little-endian, the order C order, and headers are written anew. Where something is in
 * Fortran order the draft is reserved and mapped, else it is written.
 *
 * All input is hostile. What was read first decides: a file that changes afterwards gives other elements
 * at worst, or fails its checksum. No more of a compressed member is inflated than its headers admit to. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

enum {
  CHUNK = 256 << 10,      /* bytes between two system calls: they stay in the second cache */
  LARGE_CHUNK = 16 << 20, /* Fortran order: the more columns at a time, the more neighbours are written together */
  FIRST_READ = 1024,      /* holds most headers */
  WHOLE_HEADER = (64 << 10) + 12,
  HEADER = 10 << 10,        /* room for a header of ours, or its dtype */
  TAIL = 128 << 10,         /* of a zip file: its end records and 64 KiB of comment, and most directories */
  DIRECTORY_MAX = 64 << 20, /* a million members */
  EXTRA_MAX = 1 << 30,      /* as it stands in the file: the words of a language, say */
  INFLATED_MAX = 64 << 20,  /* a bomb has a thousand times its size */
  NAME_MAX_BYTES = 0xfff0,  /* so that a name and an extra field fit their lengths */
  INFLATE_MAX = 1032        /* deflate: 258 bytes take 2 bits at least */
};

/* An array of the source; or the extra member, whose array.kind is 0. */
struct part {
  sharearray_member from;
  sharearray_npy array; /* its offsets count from the start of the content */
  struct sa_packed packed;
  struct sa_swaps swaps; /* none: little-endian */
  char *header;          /* our own */
  uint64_t header_length;
};

struct sharearray_import {
  struct sa_source source;
  char path[SA_PATH];
  bool bundle;
  bool mapped;              /* the draft has to be */
  unsigned char *directory; /* names lie in it */
  struct part *parts;
  sharearray_member *to; /* the same, as they are in the draft */
  uint64_t count, arrays;
  uint64_t bytes;       /* of the draft */
  uint64_t total, done; /* of the arrays' data */
  char *extra;          /* content of the extra member, which is the last part */
  uint64_t extra_length;
  unsigned char *chunk;
  uint64_t room; /* bytes of it */
  /* What the next step does: */
  enum { BEGIN, COPY, SUM, END } state;
  uint64_t at;                            /* part */
  uint64_t copied, summed;                /* of its data */
  uint32_t header_crc_in, header_crc_out; /* of its header, as read and as written */
  uint32_t crc_in, crc_out;               /* of its data */
  struct sa_fortran order;
  bool framed;
};

static int corrupt(char *message, const char *reason) { return sa_fail(message, SHAREARRAY_ECORRUPT, "%s", reason); }

static int no_memory(char *message) { return sa_fail(message, SHAREARRAY_EIO, "out of memory"); }

static uint32_t crc32_of(const sharearray_import *import, uint32_t crc, const void *bytes, uint64_t size) {
  return (uint32_t)import->source.zlib->crc32_z(crc, bytes, (size_t)size);
}

/* Of two parts, of which the second has `size` bytes. */
static uint32_t crc32_of_both(const sharearray_import *import, uint32_t first, uint32_t second, uint64_t size) {
  return (uint32_t)import->source.zlib->crc32_combine(first, second, (int64_t)size);
}

/* ---- What there is ---- */

static int read_header(sharearray_import *import, struct part *part, char *message) {
  uint64_t size = part->from.size < FIRST_READ ? part->from.size : FIRST_READ;
  uint64_t whole = part->from.size < WHOLE_HEADER ? part->from.size : WHOLE_HEADER;
  sharearray_npy *npy = &part->array;
  int is_short, code = sa_source_begin(&import->source, part->from.offset, &part->packed, message);
  if (code == 0) code = sa_source_read(&import->source, import->chunk, size, message);
  if (code) return code;
  code = sa_npy_read_any(import->chunk, (size_t)size, part->from.size, npy, &is_short, message);
  /* cppcheck-suppress knownConditionTrueFalse ; it takes `code` for the size */
  if (!is_short || size == whole) return code;
  code = sa_source_read(&import->source, import->chunk + size, whole - size, message);
  return code ? code : sa_npy_read_any(import->chunk, (size_t)whole, part->from.size, npy, NULL, message);
}

static int make_header(const sharearray_import *import, struct part *part, char *message) {
  char descr[HEADER], header[HEADER];
  const sharearray_npy *npy = &part->array;
  int code = npy->order == '>' ? sa_npy_turn(import->chunk, npy, &part->swaps, message) : 0;
  if (code) return code;
  int length = sa_spell_dtype(npy, import->chunk, descr, sizeof descr)
                   ? sharearray_npy_write(descr, npy->ndim, npy->shape, header, sizeof header)
                   : -1;
  if (length < 0) return sa_fail(message, SHAREARRAY_EUNSUPPORTED, "its dtype is too long, or not UTF-8");
  char *copy = malloc((size_t)length);
  if (!copy) return no_memory(message);
  memcpy(copy, header, (size_t)length);
  part->header = copy;
  part->header_length = (uint64_t)length;
  return 0;
}

/* Whether there is more in its elements than numbers that are swapped. */
static bool has_gaps(const struct part *part) {
  return part->swaps.count && !sa_swaps_fill(&part->swaps, part->array.itemsize);
}

static int add_array(sharearray_import *import, struct part *part, char *message) {
  const sharearray_npy *npy = &part->array;
  struct sa_fortran order;
  int code = read_header(import, part, message);
  if (code) return code;
  if (import->bundle && npy->offset + npy->nbytes != part->from.size)
    return corrupt(message, "it is longer than its header says");
  if (import->total > INT64_MAX - npy->nbytes) return corrupt(message, "the sizes of the arrays overflow");
  code = make_header(import, part, message);
  if (code) return code;
  bool whole = npy->fortran || has_gaps(part); /* elements, in the chunk */
  if (whole && npy->itemsize > LARGE_CHUNK)
    return sa_fail(message, SHAREARRAY_EUNSUPPORTED, "it has to be converted, with elements of more than 16 MiB");
  if (whole && npy->itemsize > import->room) import->room = LARGE_CHUNK;
  sa_fortran_init(&order, npy, LARGE_CHUNK);
  if (order.ndim) {
    import->mapped = true;
    import->room = LARGE_CHUNK;
  }
  import->to[import->count++].size = part->header_length + npy->nbytes;
  import->total += npy->nbytes;
  import->arrays++;
  return 0;
}

static int check_content(sharearray_import *import, const struct part *part, uint32_t crc, char *message) {
  int code = sa_source_end(&import->source, message);
  if (code == 0 && crc != part->from.crc) code = corrupt(message, "its CRC-32 does not match");
  return code;
}

static int read_extra(sharearray_import *import, const struct part *part, char *message) {
  uint64_t size = part->from.size;
  if (import->extra) return corrupt(message, "there are two of this name");
  uint64_t most = part->packed.deflated ? INFLATED_MAX : EXTRA_MAX;
  if (size > most) return sa_fail(message, SHAREARRAY_EUNSUPPORTED, "it is larger than %u MiB", (unsigned)(most >> 20));
  import->extra = malloc((size_t)size + 1);
  if (!import->extra) return no_memory(message);
  import->extra_length = size;
  int code = sa_source_begin(&import->source, part->from.offset, &part->packed, message);
  if (code == 0) code = sa_source_read(&import->source, import->extra, size, message);
  return code ? code : check_content(import, part, crc32_of(import, 0, import->extra, size), message);
}

static int check_member(const struct part *part, char *message) {
  const sharearray_member *from = &part->from;
  if (from->name_length > NAME_MAX_BYTES || !sa_is_utf8(from->name, from->name_length))
    return sa_fail(message, SHAREARRAY_EUNSUPPORTED, "its name is too long, or not UTF-8");
  if (from->size > INT64_MAX || (part->packed.deflated && from->size / INFLATE_MAX > part->packed.size))
    return corrupt(message, "its compressed data is too short for its size");
  return 0;
}

/* "its member x.npy is not usable: " in front of the reason. */
static int blame(const struct part *part, int code, const char *reason, char *message) {
  int shown = (int)(part->from.name_length > 80 ? 80 : part->from.name_length);
  return sa_fail(message, code, "its member %.*s is not usable: %s", shown, part->from.name, reason);
}

/* Where the content of the member begins, by its local header. */
static int find_content(sharearray_import *import, const struct sa_zip *zip, struct part *part, char *message) {
  uint64_t size = sa_zip_local_size(&part->from); /* less than CHUNK */
  int code = sa_source_read_at(&import->source, import->chunk, size, part->packed.start, message);
  return code ? code : sa_zip_local(zip, import->chunk, &part->packed, &part->from, message);
}

/* Members that are neither an array nor `extra` are passed over. */
static int add_member(sharearray_import *import, struct part *part, const char *extra, struct part *kept,
                      char *message) {
  char reason[SHAREARRAY_MESSAGE];
  const sharearray_member *from = &part->from;
  bool is_array = sa_zip_is_array(from);
  if (!is_array && (from->name_length != strlen(extra) || memcmp(from->name, extra, from->name_length) != 0)) return 0;
  int code = check_member(part, reason);
  if (code == 0) code = is_array ? add_array(import, part, reason) : read_extra(import, part, reason);
  if (code) return blame(part, code, reason, message);
  if (!is_array) *kept = *part;
  return 0;
}

/* The directory into memory: from its start to the end of the file. */
static int read_directory(sharearray_import *import, struct sa_zip *zip, char *message) {
  zip->length = import->source.length;
  zip->origin = zip->length > TAIL ? zip->length - TAIL : 0;
  for (;;) {
    uint64_t size = zip->length - zip->origin;
    free(import->directory);
    zip->base = import->directory = malloc((size_t)size + 1);
    if (!zip->base) return no_memory(message);
    int code = sa_source_read_at(&import->source, import->directory, size, zip->origin, message);
    if (code == 0) code = sa_zip_find(zip, message);
    if (code || zip->directory >= zip->origin) return code;
    if (zip->length - zip->directory > DIRECTORY_MAX)
      return sa_fail(message, SHAREARRAY_EUNSUPPORTED, "its central directory is larger than 64 MiB");
    zip->origin = zip->directory;
  }
}

static int new_parts(sharearray_import *import, uint64_t count, char *message) {
  import->parts = calloc((size_t)count + 1, sizeof *import->parts); /* and one that is being read */
  import->to = calloc((size_t)count + 1, sizeof *import->to);
  return import->parts && import->to ? 0 : no_memory(message);
}

/* The bundle to be: the same names, the extra member behind the arrays. */
static int plan(sharearray_import *import, const struct part *kept, char *message) {
  if (kept->from.name) {
    import->to[import->count].size = kept->from.size;
    import->parts[import->count++] = *kept;
  }
  for (uint64_t i = 0; i < import->count; i++) {
    import->to[i].name = import->parts[i].from.name;
    import->to[i].name_length = import->parts[i].from.name_length;
  }
  int code = sa_zip_check_names(import->to, import->count, message);
  return code ? code : sharearray_npz_plan(import->to, import->count, &import->bytes, message);
}

static int open_npz(sharearray_import *import, const char *extra, char *message) {
  struct sa_zip zip = {0};
  struct part kept = {0};
  int code = sa_zlib(&import->source.zlib, message);
  if (code == 0) code = read_directory(import, &zip, message);
  if (code == 0) code = new_parts(import, zip.count, message);
  if (code) return code;
  import->bundle = true;
  uint64_t at = zip.directory, free_from = 0;
  for (uint64_t i = 0; i < zip.count; i++) {
    struct part *part = &import->parts[import->count];
    *part = (struct part){0};
    int64_t entry = sa_zip_entry(&zip, at, &part->from, &part->packed, message);
    if (entry < 0) return (int)entry;
    if (part->packed.start < free_from) return corrupt(message, "its members overlap, or are out of order");
    code = find_content(import, &zip, part, message);
    if (code == 0) code = add_member(import, part, extra, &kept, message);
    if (code) return code;
    at += (uint64_t)entry;
    free_from = part->from.offset + part->packed.size;
  }
  if (at != zip.directory + zip.directory_size)
    return corrupt(message, "something follows the entries of its central directory");
  if (import->arrays == 0) return sa_fail(message, SHAREARRAY_EUNSUPPORTED, "it is a zip file without .npy members");
  return plan(import, &kept, message);
}

static int open_npy(sharearray_import *import, char *message) {
  int code = new_parts(import, 1, message);
  if (code) return code;
  import->parts->from.size = import->parts->packed.size = import->source.length;
  code = add_array(import, import->parts, message);
  import->bytes = import->to->size;
  return code;
}

static int examine(sharearray_import *import, const char *extra, char *message) {
  char magic[2] = {0};
  int code = sa_source_open(&import->source, import->path, message);
  if (code) return code;
  import->room = CHUNK;
  import->chunk = malloc(CHUNK);
  if (!import->chunk) return no_memory(message);
  if (import->source.length >= sizeof magic) code = sa_source_read_at(&import->source, magic, sizeof magic, 0, message);
  if (code) return code;
  code = memcmp(magic, "PK", 2) == 0 ? open_npz(import, extra, message) : open_npy(import, message);
  if (code || import->room == CHUNK) return code;
  free(import->chunk);
  import->chunk = malloc(import->room);
  return import->chunk ? 0 : no_memory(message);
}

/* "cannot import x.npz: " in front of the reason. */
static int refuse(const sharearray_import *import, int code, const char *reason, char *message) {
  return sa_fail(message, code, "cannot import %.400s: %s", import->path, reason);
}

int sharearray_import_new(const char *path, const char *extra, sharearray_import **out, char *message) {
  char reason[SHAREARRAY_MESSAGE];
  if (strlen(path) >= SA_PATH) return sa_fail(message, SHAREARRAY_EIO, "the path of the file is too long");
  sharearray_import *import = calloc(1, sizeof *import);
  if (!import) return no_memory(message);
  memcpy(import->path, path, strlen(path) + 1);
  int code = examine(import, extra, reason);
  if (code) {
    refuse(import, code, reason, message);
    sharearray_import_delete(import);
    return code;
  }
  *out = import;
  return 0;
}

void sharearray_import_delete(sharearray_import *import) {
  if (!import) return;
  sa_source_close(&import->source);
  free(import->directory);
  for (uint64_t i = 0; import->parts && i <= import->count; i++) {
    free(import->parts[i].header);
    free(import->parts[i].swaps.list);
  }
  free(import->parts);
  free(import->to);
  free(import->extra);
  free(import->chunk);
  free(import);
}

const char *sharearray_import_extra(const sharearray_import *import, uint64_t *length) {
  *length = import->extra_length;
  return import->extra;
}

const sharearray_member *sharearray_import_members(const sharearray_import *import, uint64_t *count) {
  *count = import->arrays;
  return import->to;
}

void sharearray_import_progress(const sharearray_import *import, uint64_t *done, uint64_t *total) {
  *done = import->done;
  *total = import->total;
}

/* ---- Copying ---- */

int sharearray_import_draft(const sharearray_import *import, sharearray_store *store, sharearray_draft **draft,
                            char *message) {
  char reason[SHAREARRAY_MESSAGE];
  int code = sharearray_draft_new(store, import->bytes, draft, reason);
  return code ? refuse(import, code, reason, message) : 0;
}

static char *memory_at(const sharearray_draft *draft, uint64_t offset) {
  return (char *)draft->map->public.base + offset;
}

static int put(sharearray_draft *draft, uint64_t offset, const void *bytes, uint64_t size, char *message) {
  if (draft->map) {
    memcpy(memory_at(draft, offset), bytes, (size_t)size);
    return 0;
  }
  draft->written = offset;
  return sharearray_draft_write(draft, bytes, size, message);
}

/* One piece more of a draft that has to be mapped. */
static int reserve(sharearray_draft *draft, char *message) {
  sharearray_map *map;
  int code = sharearray_draft_reserve(draft, SA_PIECE, message);
  if (code) return code < 0 ? code : 0;
  code = sharearray_draft_map(draft, &map, message);
  if (code == 0) sharearray_unref(map); /* the draft has its own reference */
  return code;
}

/* Where the data of the present part goes. */
static uint64_t data_offset(const sharearray_import *import) {
  return import->to[import->at].offset + import->parts[import->at].header_length;
}

/* Past the header of the source, and our own in its place. */
static int begin_array(sharearray_import *import, sharearray_draft *draft, char *message) {
  const struct part *part = &import->parts[import->at];
  const sharearray_npy *npy = &part->array;
  int code = sa_source_begin(&import->source, part->from.offset, &part->packed, message);
  if (code == 0) code = sa_source_read(&import->source, import->chunk, npy->offset, message);
  if (code) return code;
  if (import->bundle) {
    import->header_crc_in = crc32_of(import, 0, import->chunk, npy->offset);
    import->header_crc_out = crc32_of(import, 0, part->header, part->header_length);
  }
  import->copied = import->summed = 0;
  import->crc_in = import->crc_out = 0;
  sa_fortran_init(&import->order, npy, LARGE_CHUNK);
  import->state = npy->nbytes ? COPY : END;
  return put(draft, import->to[import->at].offset, part->header, part->header_length, message);
}

/* Up to a multiple of CHUNK in the draft, where data begins at one of 64: no number is cut in two. Or
 * whole elements; in Fortran order a piece of that. */
static uint64_t chunk_size(const sharearray_import *import, const struct part *part) {
  const sharearray_npy *npy = &part->array;
  if (import->order.ndim) return npy->itemsize * sa_fortran_piece(&import->order, import->copied / npy->itemsize);
  uint64_t left = npy->nbytes - import->copied, size = CHUNK - (data_offset(import) + import->copied) % CHUNK;
  if (has_gaps(part)) size = import->room / npy->itemsize * npy->itemsize;
  return size < left ? size : left;
}

static int copy_chunk(sharearray_import *import, sharearray_draft *draft, uint64_t *moved, char *message) {
  const struct part *part = &import->parts[import->at];
  const sharearray_npy *npy = &part->array;
  uint64_t size = chunk_size(import, part), offset = data_offset(import);
  int code = sa_source_read(&import->source, import->chunk, size, message);
  if (code) return code;
  if (import->bundle) import->crc_in = crc32_of(import, import->crc_in, import->chunk, size);
  bool swapped = part->swaps.count > 0;
  if (swapped) sa_swap(import->chunk, size, npy->itemsize, &part->swaps);
  if (import->order.ndim) {
    sa_fortran_scatter(&import->order, import->copied / npy->itemsize, import->chunk, memory_at(draft, offset));
  } else {
    if (import->bundle)
      import->crc_out = swapped ? crc32_of(import, import->crc_out, import->chunk, size) : import->crc_in;
    code = put(draft, offset + import->copied, import->chunk, size, message);
  }
  import->copied += size;
  import->done += size;
  *moved += size;
  if (import->copied == npy->nbytes) import->state = import->bundle && import->order.ndim ? SUM : END;
  return code;
}

/* The checksum of what was scattered over memory. */
static void sum_chunk(sharearray_import *import, const sharearray_draft *draft, uint64_t *moved) {
  uint64_t nbytes = import->parts[import->at].array.nbytes, left = nbytes - import->summed;
  uint64_t size = left < CHUNK ? left : CHUNK;
  const char *data = memory_at(draft, data_offset(import) + import->summed);
  import->crc_out = crc32_of(import, import->crc_out, data, size);
  import->summed += size;
  *moved += size;
  if (import->summed == nbytes) import->state = END;
}

static int end_array(sharearray_import *import, char *message) {
  const struct part *part = &import->parts[import->at];
  uint64_t nbytes = part->array.nbytes;
  int code = 0;
  if (import->bundle) {
    uint32_t crc = crc32_of_both(import, import->header_crc_in, import->crc_in, nbytes);
    code = check_content(import, part, crc, message);
    import->to[import->at].crc = crc32_of_both(import, import->header_crc_out, import->crc_out, nbytes);
  }
  import->at++;
  import->state = BEGIN;
  return code;
}

static int put_extra(sharearray_import *import, sharearray_draft *draft, char *message) {
  sharearray_member *to = &import->to[import->at];
  to->crc = import->parts[import->at++].from.crc;
  return put(draft, to->offset, import->extra, import->extra_length, message);
}

/* All that stands between the members and behind them. */
static int put_frames(sharearray_import *import, sharearray_draft *draft, char *message) {
  uint64_t from = 0;
  for (uint64_t i = 0; i <= import->count; i++) {
    const sharearray_member *member = &import->to[i];
    uint64_t size = (i < import->count ? member->offset : import->bytes) - from;
    char *frame = malloc((size_t)size);
    if (!frame) return no_memory(message);
    sharearray_npz_frame(import->to, import->count, i, frame);
    int code = put(draft, from, frame, size, message);
    free(frame);
    if (code) return code;
    from = i < import->count ? member->offset + member->size : from;
  }
  import->framed = true;
  return 0;
}

static int advance_part(sharearray_import *import, sharearray_draft *draft, uint64_t *moved, char *message) {
  switch (import->state) {
  case BEGIN:
    if (import->parts[import->at].array.kind == 0) return put_extra(import, draft, message);
    return begin_array(import, draft, message);
  case COPY: return copy_chunk(import, draft, moved, message);
  case SUM: sum_chunk(import, draft, moved); return 0;
  default: return end_array(import, message);
  }
}

/* Does one thing more: 1 while there may be another, 0 when all is done. */
static int advance(sharearray_import *import, sharearray_draft *draft, uint64_t *moved, char *message) {
  char reason[SHAREARRAY_MESSAGE];
  int code;
  if (import->mapped && !draft->map) {
    *moved += SA_PIECE;
    code = reserve(draft, message);
  } else if (import->at < import->count) {
    const struct part *part = &import->parts[import->at];
    code = advance_part(import, draft, moved, reason);
    if (code == SHAREARRAY_ECORRUPT && import->bundle) return blame(part, code, reason, message);
    if (code) return sa_fail(message, code, "%s", reason);
  } else if (import->bundle && !import->framed) code = put_frames(import, draft, message);
  else return 0;
  return code ? code : 1;
}

int sharearray_import_step(sharearray_import *import, sharearray_draft *draft, uint64_t step, char *message) {
  char reason[SHAREARRAY_MESSAGE];
  uint64_t moved = 0;
  int more = 1;
  if (draft->bytes != import->bytes)
    return sa_fail(message, SHAREARRAY_EINVAL, "this draft was not made for this import");
  while (more > 0 && moved < step) more = advance(import, draft, &moved, reason);
  return more < 0 ? refuse(import, more, reason, message) : more;
}
