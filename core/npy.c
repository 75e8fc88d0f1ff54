/* The header of an .npy file, read and written.
 *
 * Format: NumPy's numpy/lib/format.py, NEP 1. Magic "\x93NUMPY", version (major, minor), the header's
 * length (2 bytes little-endian in 1.0, 4 in 2.0 and 3.0), then a Python dict literal with exactly
 * the keys descr, fortran_order and shape, padded with spaces to a newline. Read is every spelling
 * that NumPy's own versions have written: any order, either quote, Python 2's 3L, no trailing comma.
 * All input is hostile: nothing is read behind `end`, products and sums are checked. */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  MAX_HEADER = 64 << 10,
  MAX_WRITTEN = 10000, /* numpy.load refuses longer ones unless told to trust them */
  MAX_NESTING = 16,    /* of structured types */
  MAX_ITEM = 1 << 30,  /* bytes of an element */
  MAX_SWAPS = 1 << 16, /* runs of big-endian numbers in an element */
  ALIGNMENT = 64
};

struct text {
  const char *at, *end;
};

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

static void skip_spaces(struct text *text) {
  static const char spaces[8] = "        "; /* headers are filled up with them: some fifty, of a hundred bytes */
  const char *at = text->at, *end = text->end;
  while (end - at >= 8 && memcmp(at, spaces, sizeof spaces) == 0) at += 8;
  while (at < end && is_space(*at)) at++;
  text->at = at;
}

/* Where there is any, it is one space as a rule. */
static inline void skip_space(struct text *text) {
  if (text->at < text->end && *text->at == ' ') text->at++;
  if (text->at < text->end && *text->at <= ' ') skip_spaces(text);
}

static inline bool next_is(struct text *text, char c) {
  skip_space(text);
  return text->at < text->end && *text->at == c;
}

static inline bool take(struct text *text, char c) {
  if (!next_is(text, c)) return false;
  text->at++;
  return true;
}

static inline bool take_exactly(struct text *text, const char *word) {
  size_t length = strlen(word);
  if ((size_t)(text->end - text->at) < length || memcmp(text->at, word, length) != 0) return false;
  text->at += length;
  return true;
}

static bool take_word(struct text *text, const char *word) {
  skip_space(text);
  return take_exactly(text, word);
}

/* A string without escapes; only the names of fields have some. */
static bool take_string(struct text *text, struct text *string) {
  skip_space(text);
  if (text->at == text->end || (*text->at != '\'' && *text->at != '"')) return false;
  char quote = *text->at;
  const char *start = text->at + 1, *at = start, *end = text->end;
  while (at < end && *at != quote && *at != '\\' && *at != '\n') at++;
  if (at == end || *at != quote) return false;
  *string = (struct text){start, at};
  text->at = at + 1;
  return true;
}

static bool take_digits(struct text *text, uint64_t *number) {
  const char *start = text->at;
  uint64_t value = 0;
  for (; text->at < text->end && *text->at >= '0' && *text->at <= '9'; text->at++)
    if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *text->at - '0', &value))
      return false;
  if (text->at == start) return false;
  *number = value;
  return true;
}

/* Python 2 wrote 3L for what did not fit an int. */
static bool take_number(struct text *text, uint64_t *number) {
  skip_space(text);
  if (!take_digits(text, number)) return false;
  if (text->at < text->end && *text->at == 'L') text->at++;
  return true;
}

static int read_shape(struct text *text, sharearray_npy *npy, char *message) {
  if (!take(text, '(')) return sa_fail(message, SHAREARRAY_ECORRUPT, "its shape is no tuple");
  bool comma = true;
  npy->ndim = 0;
  while (!take(text, ')')) {
    uint64_t n;
    if (!comma || !take_number(text, &n) || n > INT64_MAX)
      return sa_fail(message, SHAREARRAY_ECORRUPT, "its shape is no tuple of sizes");
    if (npy->ndim == SHAREARRAY_MAXDIMS)
      return sa_fail(message, SHAREARRAY_EUNSUPPORTED, "it has more than %d dimensions", SHAREARRAY_MAXDIMS);
    npy->shape[npy->ndim++] = n;
    comma = take(text, ',');
  }
  /* In Python, (3) is a number. */
  if (npy->ndim == 1 && !comma) return sa_fail(message, SHAREARRAY_ECORRUPT, "its shape is no tuple");
  return 0;
}

/* Types. A descr is a string ("<f4") or, for a structured type, a list of fields:
 *
 *   field = (name, type [, shape])   name = string, or (title, name); the name '' with |V4 is padding
 */
struct type {
  char order, kind; /* '>' only where it matters; of a structured type if a field is */
  uint64_t size;    /* bytes of an element, at most MAX_ITEM */
};

/* Byte order. Reading a type can note what in an element is big-endian, and spell it as little-endian:
 * where there are `swaps`, that is, and the text is its caller's to write. Offsets count from the start
 * of the type that is being read. */

static int add_swap(struct sa_swaps *swaps, struct sa_swap swap, char *message) {
  size_t count = swaps->count;
  if (count == MAX_SWAPS)
    return sa_fail(message, SHAREARRAY_EUNSUPPORTED, "its dtype has more than %d big-endian fields", MAX_SWAPS);
  if ((count & (count - 1)) == 0) { /* full: room for 1, 2, 4, 8, ... */
    struct sa_swap *list = realloc(swaps->list, (count ? 2 * count : 1) * sizeof *list);
    if (!list) return sa_fail(message, SHAREARRAY_EIO, "out of memory");
    swaps->list = list;
  }
  swaps->list[swaps->count++] = swap;
  return 0;
}

/* Bytes of the numbers that an element consists of. */
static uint32_t unit_of(const struct type *type) {
  return (uint32_t)(type->kind == 'U' ? 4 : type->kind == 'c' ? type->size / 2 : type->size);
}

static int note_swap(struct sa_swaps *swaps, const char *order, const struct type *type, char *message) {
  uint32_t unit = unit_of(type);
  *(char *)(uintptr_t)order = '<';
  return add_swap(swaps, (struct sa_swap){.count = (uint32_t)(type->size / unit), .unit = unit}, message);
}

/* What was noted of one element from `first` on is in each of `times`, `size` bytes apart. */
static int repeat_swaps(struct sa_swaps *swaps, size_t first, uint64_t size, uint64_t times, char *message) {
  size_t last = swaps->count;
  if (first == last) return 0;
  struct sa_swap *only = &swaps->list[first];
  if (last == first + 1 && only->count * (uint64_t)only->unit == size) {
    only->count *= (uint32_t)times;
    return 0;
  }
  if (times == 0) swaps->count = first;
  for (uint64_t i = 1; i < times; i++)
    for (size_t k = first; k < last; k++) {
      struct sa_swap swap = swaps->list[k];
      swap.offset += (uint32_t)(i * size);
      int code = add_swap(swaps, swap, message);
      if (code) return code;
    }
  return 0;
}

static bool take_hex(struct text *text, int digits) {
  for (; digits > 0; digits--, text->at++)
    if (text->at == text->end || !*text->at || !strchr("0123456789abcdefABCDEF", *text->at)) return false;
  return true;
}

/* A field's name, with the escapes that Python's repr writes. They stay in it; control characters always
 * are written so. */
static bool take_name(struct text *text, struct text *name) {
  skip_space(text);
  if (text->at == text->end || (*text->at != '\'' && *text->at != '"')) return false;
  char quote = *text->at++;
  name->at = text->at;
  while (text->at < text->end && *text->at != quote) {
    char c = *text->at++;
    if ((unsigned char)c < ' ' || c == 0x7f) return false;
    if (c != '\\') continue;
    if (text->at == text->end) return false;
    c = *text->at++;
    int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits ? !take_hex(text, digits) : !c || !strchr("\\'\"nrt", c)) return false;
  }
  if (text->at == text->end) return false;
  name->end = text->at++;
  return true;
}

/* "[ns]", "[25s]": the unit of a date or a time span, to the end of the text. Generic ones have none. */
static bool take_unit(struct text *text) {
  static const char units[][3] = {"Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as"};
  uint64_t multiple = 1;
  if (text->at == text->end) return true;
  if (*text->at++ != '[' || text->at == text->end) return false;
  if (*text->at >= '0' && *text->at <= '9' && !take_digits(text, &multiple)) return false;
  if (multiple == 0 || multiple > INT32_MAX || text->end - text->at < 2 || text->end[-1] != ']') return false;
  size_t length = (size_t)(text->end - text->at) - 1;
  for (size_t i = 0; i < sizeof units / sizeof *units; i++)
    if (strlen(units[i]) == length && memcmp(units[i], text->at, length) == 0) {
      text->at = text->end;
      return true;
    }
  return false;
}

static bool known_type(char kind, uint64_t size) {
  switch (kind) {
  case 'b': return size == 1;
  case 'i':
  case 'u': return size == 1 || size == 2 || size == 4 || size == 8;
  case 'f': return size == 2 || size == 4 || size == 8;
  case 'c': return size == 8 || size == 16;
  case 'M':
  case 'm': return size == 8;
  case 'S':
  case 'U':
  case 'V': return true;
  default: return false;
  }
}

static int too_large(char *message) {
  return sa_fail(message, SHAREARRAY_EUNSUPPORTED, "an element of its dtype has more than %d bytes", MAX_ITEM);
}

static int read_code(struct text code, struct type *type, struct sa_swaps *swaps, char *message) {
  struct text rest = code;
  int shown = (int)(code.end - code.at > 40 ? 40 : code.end - code.at);
  if (code.end - code.at < 2) return sa_fail(message, SHAREARRAY_ECORRUPT, "its descr is no dtype");
  bool ordered = *rest.at == '<' || *rest.at == '>' || *rest.at == '|' || *rest.at == '=';
  type->order = ordered ? *rest.at++ : '|';
  type->kind = *rest.at++;
  if (type->kind == 'O')
    return sa_fail(message, SHAREARRAY_EUNSUPPORTED, "its elements are Python objects (a pickle, never loaded)");
  bool sound = take_digits(&rest, &type->size) && known_type(type->kind, type->size);
  if (sound && (type->kind == 'M' || type->kind == 'm')) sound = take_unit(&rest);
  if (!sound || rest.at != rest.end)
    return sa_fail(message, SHAREARRAY_EUNSUPPORTED, "its dtype is '%.*s'", shown, code.at);
  if (type->size > (type->kind == 'U' ? MAX_ITEM / 4 : MAX_ITEM)) return too_large(message);
  if (type->kind == 'U') type->size *= 4;
  if (type->order == '=') type->order = '<';
  if (type->size < 2 || type->kind == 'S' || type->kind == 'V') type->order = '|';
  return swaps && type->order == '>' ? note_swap(swaps, code.at, type, message) : 0;
}

static int read_type(struct text *text, int depth, struct type *type, struct sa_swaps *swaps, char *message);

static int read_field(struct text *text, int depth, struct type *type, struct sa_swaps *swaps, char *message) {
  struct text name, title;
  sharearray_npy sub = {0}; /* the shape of one that is an array */
  bool named = take(text, '(');
  if (named && take(text, '('))
    named = take_name(text, &title) && take(text, ',') && take_name(text, &name) && take(text, ')');
  else named = named && take_name(text, &name);
  if (!named || !take(text, ',')) return sa_fail(message, SHAREARRAY_ECORRUPT, "its dtype has a field without a name");
  size_t first = swaps ? swaps->count : 0;
  int code = read_type(text, depth, type, swaps, message);
  if (code) return code;
  uint64_t single = type->size;
  if (name.at == name.end && type->kind != 'V')
    return sa_fail(message, SHAREARRAY_ECORRUPT, "its dtype has a field without a name");
  if (take(text, ',') && next_is(text, '(')) {
    code = read_shape(text, &sub, message);
    if (code) return code;
    take(text, ',');
  }
  if (!take(text, ')')) return sa_fail(message, SHAREARRAY_ECORRUPT, "its dtype has a field that is no tuple");
  for (int i = 0; i < sub.ndim; i++)
    if (__builtin_mul_overflow(type->size, sub.shape[i], &type->size) || type->size > MAX_ITEM)
      return too_large(message);
  return swaps && single ? repeat_swaps(swaps, first, single, type->size / single, message) : 0;
}

/* Depth is bounded, and so is the C stack. */
static int read_type(struct text *text, int depth, struct type *type, struct sa_swaps *swaps, char *message) {
  struct text code;
  if (!take(text, '[')) {
    if (take_string(text, &code)) return read_code(code, type, swaps, message);
    return sa_fail(message, SHAREARRAY_ECORRUPT, "its descr is no dtype");
  }
  if (depth == MAX_NESTING)
    return sa_fail(message, SHAREARRAY_EUNSUPPORTED, "its dtype is nested more than %d deep", MAX_NESTING);
  *type = (struct type){.order = '|', .kind = 'V'};
  bool comma = true;
  while (!take(text, ']')) {
    struct type field = {0};
    size_t first = swaps ? swaps->count : 0;
    if (!comma) return sa_fail(message, SHAREARRAY_ECORRUPT, "its dtype is no list of fields");
    int failure = read_field(text, depth + 1, &field, swaps, message);
    if (failure) return failure;
    for (size_t i = first; swaps && i < swaps->count; i++) swaps->list[i].offset += (uint32_t)type->size;
    type->size += field.size; /* neither is more than MAX_ITEM */
    if (type->size > MAX_ITEM) return too_large(message);
    if (field.order == '>') type->order = '>';
    comma = take(text, ',');
  }
  return 0;
}

static void set_type(sharearray_npy *npy, const struct type *type, struct text descr, const char *file) {
  npy->order = type->order;
  npy->kind = type->kind;
  npy->itemsize = (uint32_t)type->size;
  npy->descr_offset = (uint32_t)(descr.at - file);
  npy->descr_length = (uint32_t)(descr.end - descr.at);
}

static int read_descr(struct text *text, const char *file, sharearray_npy *npy, char *message) {
  struct type type;
  skip_space(text);
  const char *start = text->at;
  int code = read_type(text, 0, &type, NULL, message);
  if (code) return code;
  int quotes = *start != '[';
  set_type(npy, &type, (struct text){start + quotes, text->at - quotes}, file);
  return 0;
}

enum { DESCR = 1, FORTRAN = 2, SHAPE = 4 };

/* This very string, in quotes of either kind: what nearly all headers have for keys, without cutting it out first. */
static inline bool take_quoted(struct text *text, const char *word, size_t length) {
  if ((size_t)(text->end - text->at) < length + 2) return false;
  char quote = *text->at;
  if ((quote != '\'' && quote != '"') || text->at[length + 1] != quote) return false;
  if (memcmp(text->at + 1, word, length) != 0) return false;
  text->at += length + 2;
  return true;
}

static int take_key(struct text *text, unsigned *key, char *message) {
  struct text other;
  *key = 0;
  skip_space(text);
  if (take_quoted(text, "descr", 5)) *key = DESCR;
  else if (take_quoted(text, "fortran_order", 13)) *key = FORTRAN;
  else if (take_quoted(text, "shape", 5)) *key = SHAPE;
  if ((!*key && !take_string(text, &other)) || !take(text, ':'))
    return sa_fail(message, SHAREARRAY_ECORRUPT, "its header is no dict of names");
  return *key ? 0 : sa_fail(message, SHAREARRAY_ECORRUPT, "its header has an unknown key");
}

static int read_order(struct text *text, sharearray_npy *npy, char *message) {
  npy->fortran = take_word(text, "True");
  if (npy->fortran || take_word(text, "False")) return 0;
  return sa_fail(message, SHAREARRAY_ECORRUPT, "its fortran_order is neither True nor False");
}

static int read_dict(struct text text, const char *file, sharearray_npy *npy, char *message) {
  unsigned seen = 0, key;
  bool comma = true;
  if (!take(&text, '{')) return sa_fail(message, SHAREARRAY_ECORRUPT, "its header is no dict");
  while (!take(&text, '}')) {
    if (!comma) return sa_fail(message, SHAREARRAY_ECORRUPT, "its header is no dict of names");
    int code = take_key(&text, &key, message);
    if (code == 0 && key == DESCR) code = read_descr(&text, file, npy, message);
    else if (code == 0 && key == SHAPE) code = read_shape(&text, npy, message);
    else if (code == 0) code = read_order(&text, npy, message);
    if (code) return code;
    if (seen & key) return sa_fail(message, SHAREARRAY_ECORRUPT, "its header has a key twice");
    seen |= key;
    comma = take(&text, ',');
  }
  skip_space(&text);
  if (text.at != text.end) return sa_fail(message, SHAREARRAY_ECORRUPT, "something follows the dict of its header");
  if (seen != (DESCR | FORTRAN | SHAPE))
    return sa_fail(message, SHAREARRAY_ECORRUPT, "its header lacks descr, fortran_order or shape");
  return 0;
}

/* The dict as NumPy spells it, and sharearray_npy_write(), of numbers in C order: of nearly all headers, and in a third
 * of the time. False for any other, and for what is wrong with one: read_dict() tells. */
static bool read_usual(struct text text, const char *file, sharearray_npy *npy) {
  struct text code;
  struct type type = {0};
  if (!take_exactly(&text, "{'descr': ") || !take_string(&text, &code)) return false;
  if (!take_exactly(&text, ", 'fortran_order': False, 'shape': ")) return false;
  if (read_code(code, &type, NULL, NULL) != 0) return false;
  if (read_shape(&text, npy, NULL) != 0 || !take_exactly(&text, ", }")) return false;
  set_type(npy, &type, code, file);
  skip_spaces(&text);
  return text.at == text.end;
}

/* nbytes from shape and itemsize. A dimension of 0 makes it 0 whatever the others are, but NumPy
 * refuses others whose product overflows, and so does this. */
static int measure(sharearray_npy *npy, char *message) {
  uint64_t product = npy->itemsize ? npy->itemsize : 1;
  bool empty = npy->itemsize == 0;
  for (int i = 0; i < npy->ndim; i++) {
    if (npy->shape[i] == 0) empty = true;
    else if (__builtin_mul_overflow(product, npy->shape[i], &product) || product > INT64_MAX)
      return sa_fail(message, SHAREARRAY_ECORRUPT, "its shape overflows");
  }
  npy->nbytes = empty ? 0 : product;
  return 0;
}

static int too_short(int *is_short, char *message, const char *reason) {
  if (is_short) *is_short = 1;
  return sa_fail(message, SHAREARRAY_ECORRUPT, "%s", reason);
}

/* All of it but the sizes, of which there are none then: to clear all 32 takes as long as to read the header. */
static void clear(sharearray_npy *npy) {
  memset(npy, 0, offsetof(sharearray_npy, shape));
  memset(&npy->offset, 0, sizeof *npy - offsetof(sharearray_npy, offset));
}

int sa_npy_read_any(const void *bytes, size_t size, uint64_t file_size, sharearray_npy *npy, int *is_short,
                    char *message) {
  static const char magic[6] = "\x93NUMPY";
  const unsigned char *file = bytes;
  clear(npy);
  if (is_short) *is_short = 0;
  if (size > file_size) size = (size_t)file_size;
  if (memcmp(file, magic, size < sizeof magic ? size : sizeof magic) != 0)
    return sa_fail(message, SHAREARRAY_ECORRUPT, "it is no .npy file");
  if (size < 10) return too_short(is_short, message, "it ends inside its magic");
  unsigned major = file[6], minor = file[7];
  if (major < 1 || major > 3 || minor != 0)
    return sa_fail(message, SHAREARRAY_EUNSUPPORTED, "it has .npy format version %u.%u", major, minor);
  npy->version = (uint8_t)major;
  size_t start = major == 1 ? 10 : 12;
  if (size < start) return too_short(is_short, message, "it ends inside its magic");
  uint32_t length = file[8] | (uint32_t)file[9] << 8;
  if (major > 1) length |= (uint32_t)file[10] << 16 | (uint32_t)file[11] << 24;
  if (length > MAX_HEADER) return sa_fail(message, SHAREARRAY_ECORRUPT, "its header claims %u bytes", length);
  if (size - start < length) return too_short(is_short, message, "it ends inside its header");

  struct text text = {(const char *)file + start, (const char *)file + start + length};
  int code = read_usual(text, bytes, npy) ? 0 : read_dict(text, bytes, npy, message);
  if (code == 0) code = measure(npy, message);
  if (code) return code;
  npy->offset = start + length;
  if (npy->nbytes > file_size - npy->offset) return too_short(is_short, message, "it is shorter than its header says");
  npy->layout = sa_layout(npy);
  return 0;
}

int sa_npy_read(const void *bytes, size_t size, uint64_t file_size, sharearray_npy *npy, int *is_short, char *message) {
  int code = sa_npy_read_any(bytes, size, file_size, npy, is_short, message);
  if (code || npy->order != '>') return code;
  if (npy->kind == 'V')
    return sa_fail(message, SHAREARRAY_EUNSUPPORTED,
                   "its dtype has a big-endian field; save it as little-endian, or "
                   "import it");
  const char *descr = (const char *)bytes + npy->descr_offset;
  int shown = (int)(npy->descr_length > 40 ? 40 : npy->descr_length);
  return sa_fail(message, SHAREARRAY_EUNSUPPORTED, "its dtype '%.*s' is big-endian; save it as '<%.*s', or import it",
                 shown, descr, shown - 1, descr + 1);
}

int sharearray_npy_read(const void *bytes, size_t size, uint64_t file_size, sharearray_npy *out, int *is_short,
                        char *message) {
  sharearray_npy npy = {0};
  int code = sa_npy_read(bytes, size, file_size, &npy, is_short, message);
  if (code == 0) *out = npy;
  return code;
}

int sa_npy_turn(void *bytes, const sharearray_npy *npy, struct sa_swaps *swaps, char *message) {
  const char *descr = (const char *)bytes + npy->descr_offset;
  int quotes = *descr != '[';
  struct text text = {descr - quotes, descr + npy->descr_length + quotes};
  struct type type;
  return read_type(&text, 0, &type, swaps, message);
}

int sharearray_npy_write(const char *descr, int ndim, const uint64_t *shape, char *bytes, size_t size) {
  /* 10 bytes before the dict, at most 22 for each dimension, 100 for the rest. */
  char text[MAX_WRITTEN];
  size_t used;
  if (ndim < 0 || ndim > SHAREARRAY_MAXDIMS || strlen(descr) > sizeof text - 22 * SHAREARRAY_MAXDIMS - 100)
    return SHAREARRAY_EINVAL;
  const char *quote = *descr == '[' ? "" : "'";
  used = (size_t)snprintf(text, sizeof text, "{'descr': %s%s%s, 'fortran_order': False, 'shape': (", quote, descr,
                          quote);
  for (int i = 0; i < ndim; i++)
    used += (size_t)snprintf(text + used, sizeof text - used, "%llu%s", (unsigned long long)shape[i],
                             i + 1 < ndim ? ", "
                             : ndim == 1  ? ","
                                          : "");
  used += (size_t)snprintf(text + used, sizeof text - used, "), }");
  size_t total = (10 + used + 1 + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  if (total > size) return SHAREARRAY_EINVAL;
  memcpy(bytes, "\x93NUMPY\x01\x00", 8);
  bytes[8] = (char)((total - 10) & 0xff);
  bytes[9] = (char)((total - 10) >> 8);
  memcpy(bytes + 10, text, used);
  memset(bytes + 10 + used, ' ', total - 10 - used - 1);
  bytes[total - 1] = '\n';
  return (int)total;
}
