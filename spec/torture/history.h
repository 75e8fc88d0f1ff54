/* What several workers did to a few ids, with times; and whether the model of a store allows it.
 *
 * The model is one register an id: a version, or absent. Every version is published once, under one
 * id, so each operation says something about one moment between its begin and its end:
 *
 *   READ v       v was there                       ABSENT   nothing was there
 *   REPLACE v    v came, over whatever stood there REMOVE   an entry, if any, went
 *   LINK v       v came where nothing was          WRITTEN v  a Python process wrote v in place: v came, unless it
 *                                                            was removed half-way
 *
 * The history is accepted if no two of these contradict each other. A version that was there at two
 * moments was there all the time between them, since it comes only once: these intervals, from the first
 * end to the last begin of all that was seen of one version, may not overlap, nor contain a whole
 * operation that saw something else (after Gibbons and Korach, "Testing shared memories", 1997). And
 * nothing comes where something stood, unless somebody removed that. */
#ifndef HISTORY_H
#define HISTORY_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum operation { NOTHING, READ, ABSENT, LINK, REPLACE, WRITTEN, REMOVE };

struct record {
  uint64_t begin, end; /* ns */
  uint32_t version;
  uint16_t id;
  uint8_t operation, worker;
};

struct history {
  struct record *records; /* all workers', in any order */
  size_t count;
  uint32_t versions; /* they are 1 to this */
  unsigned ids;
};

/* All that is known of one version. */
struct life {
  uint64_t begin, end;            /* of its publication; end 0: never published */
  uint64_t first_end, last_begin; /* over all that saw it */
  uint16_t id;
};

struct span {
  uint64_t begin, end;
};

struct spans {
  struct span *list;
  size_t count;
};

static int by_begin(const void *a, const void *b) {
  uint64_t x = ((const struct span *)a)->begin, y = ((const struct span *)b)->begin;
  return (x > y) - (x < y);
}

static int by_end(const void *a, const void *b) {
  uint64_t x = ((const struct span *)a)->end, y = ((const struct span *)b)->end;
  return (x > y) - (x < y);
}

static void *history_alloc(size_t count, size_t size) {
  void *memory = calloc(count + 1, size);
  if (!memory) abort();
  return memory;
}

/* The last of `spans`, sorted by begin, that begins before `time`; NULL: none. */
static const struct span *last_before(const struct spans *spans, uint64_t time) {
  size_t low = 0, high = spans->count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (spans->list[middle].begin < time) low = middle + 1;
    else high = middle;
  }
  return low ? &spans->list[low - 1] : NULL;
}

/* Whether all of begin..end lies within one of the intervals, which do not overlap. */
static int is_within(const struct spans *spans, uint64_t begin, uint64_t end) {
  const struct span *span = last_before(spans, begin);
  return span && end < span->end;
}

static char history_problem[256];

static int refuse(const char *what, const struct record *record) {
  snprintf(history_problem, sizeof history_problem, "%s: id %u, version %u, worker %u, %llu to %llu ns", what,
           record->id, record->version, record->worker, (unsigned long long)record->begin,
           (unsigned long long)record->end);
  return -1;
}

static int is_publication(const struct record *record) {
  return record->operation == LINK || record->operation == REPLACE || record->operation == WRITTEN;
}

static int read_lives(const struct history *history, struct life *lives) {
  for (size_t i = 0; i < history->count; i++) {
    const struct record *record = &history->records[i];
    if (!is_publication(record)) continue;
    struct life *life = &lives[record->version];
    if (life->end) return refuse("a version was published twice", record);
    *life = (struct life){record->begin, record->end, record->end, record->begin, record->id};
    /* Unless somebody sees it, it may never have been there. */
    if (record->operation == WRITTEN) life->first_end = UINT64_MAX, life->last_begin = 0;
  }
  for (size_t i = 0; i < history->count; i++) {
    const struct record *record = &history->records[i];
    if (record->operation != READ) continue;
    if (record->version == 0 || record->version > history->versions || !lives[record->version].end)
      return refuse("a version was read that nobody published", record);
    struct life *life = &lives[record->version];
    if (life->id != record->id) return refuse("a version was read under another id", record);
    if (record->end < life->begin) return refuse("a version was read before it was published", record);
    if (record->end < life->first_end) life->first_end = record->end;
    if (record->begin > life->last_begin) life->last_begin = record->begin;
  }
  return 0;
}

/* When each version of `id` was there for certain; no two at once. */
static int certain_spans(const struct history *history, const struct life *lives, unsigned id, struct spans *spans) {
  spans->list = history_alloc(history->versions, sizeof *spans->list);
  spans->count = 0;
  for (uint32_t version = 1; version <= history->versions; version++) {
    const struct life *life = &lives[version];
    if (life->end && life->id == id && life->first_end < life->last_begin)
      spans->list[spans->count++] = (struct span){life->first_end, life->last_begin};
  }
  qsort(spans->list, spans->count, sizeof *spans->list, by_begin);
  for (size_t i = 1; i < spans->count; i++)
    if (spans->list[i].begin < spans->list[i - 1].end) {
      snprintf(history_problem, sizeof history_problem,
               "two versions were there at once: id %u, from %llu and from %llu ns", id,
               (unsigned long long)spans->list[i - 1].begin, (unsigned long long)spans->list[i].begin);
      return -1;
    }
  return 0;
}

/* What was there for a moment only, and what found nothing, needs a place between those. */
static int check_moments(const struct history *history, const struct life *lives, unsigned id,
                         const struct spans *spans) {
  for (size_t i = 0; i < history->count; i++) {
    const struct record *record = &history->records[i];
    if (record->id != id || record->operation == NOTHING) continue;
    if (record->operation == READ || is_publication(record)) {
      const struct life *life = &lives[record->version];
      if (life->first_end >= life->last_begin && life->first_end != UINT64_MAX &&
          is_within(spans, life->last_begin, life->first_end))
        return refuse("a version was there while another one was", record);
    }
    /* A removal leaves a moment of nothing, and a link needs one. */
    if (record->operation == ABSENT || record->operation == REMOVE || record->operation == LINK)
      if (is_within(spans, record->begin, record->end)) return refuse("absent while a version was there", record);
  }
  return 0;
}

static struct spans spans_of(const struct history *history, unsigned id, int removals) {
  struct spans spans = {history_alloc(history->count, sizeof(struct span)), 0};
  for (size_t i = 0; i < history->count; i++) {
    const struct record *record = &history->records[i];
    int wanted = removals ? record->operation == REMOVE
                          : record->operation == READ || record->operation == LINK || record->operation == REPLACE;
    if (record->id == id && wanted) spans.list[spans.count++] = (struct span){record->begin, record->end};
  }
  return spans;
}

/* A link needs a removal after whatever was there last. */
static int check_links(const struct history *history, unsigned id) {
  struct spans seen = spans_of(history, id, 0), removals = spans_of(history, id, 1);
  int result = 0;
  qsort(seen.list, seen.count, sizeof *seen.list, by_end);
  for (size_t i = 1; i < seen.count; i++)
    if (seen.list[i].begin < seen.list[i - 1].begin) seen.list[i].begin = seen.list[i - 1].begin;
  qsort(removals.list, removals.count, sizeof *removals.list, by_begin);
  for (size_t i = 1; i < removals.count; i++)
    if (removals.list[i].end < removals.list[i - 1].end) removals.list[i].end = removals.list[i - 1].end;
  for (size_t i = 0; i < history->count && result == 0; i++) {
    const struct record *record = &history->records[i];
    if (record->id != id || record->operation != LINK) continue;
    size_t low = 0, high = seen.count;
    while (low < high) {
      size_t middle = (low + high) / 2;
      if (seen.list[middle].end < record->begin) low = middle + 1;
      else high = middle;
    }
    if (low == 0) continue; /* the first of all */
    const struct span *removal = last_before(&removals, record->end);
    if (!removal || removal->end < seen.list[low - 1].begin)
      result = refuse("a version was linked over another one that nobody removed", record);
  }
  free(seen.list);
  free(removals.list);
  return result;
}

/* 0 if the model allows the history, else -1 and history_problem. */
static int history_check(const struct history *history) {
  struct life *lives = history_alloc(history->versions, sizeof *lives);
  int result = read_lives(history, lives);
  for (unsigned id = 0; id < history->ids && result == 0; id++) {
    struct spans spans;
    result = certain_spans(history, lives, id, &spans);
    if (result == 0) result = check_moments(history, lives, id, &spans);
    if (result == 0) result = check_links(history, id);
    free(spans.list);
  }
  free(lives);
  return result;
}

#endif
