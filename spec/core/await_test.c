/* sharearray_await(): what a waiter is given, and the view that is filled in for it. */
#include "../../core/internal.h"
#include "harness.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static char directory[] = "/dev/shm/core_test.XXXXXX";
static char message[SHAREARRAY_MESSAGE];
static sharearray_store *store;
static sharearray_ticket ticket;
static const uint8_t sealed = 1;

/* As the LuaJIT binding lays out rows of int32. */
struct view {
  const void *map;
  const uint8_t *sealed;
  uint64_t lent;
  const int32_t *elements;
  int32_t count, n0;
};

static struct view other, row;
static const sharearray_blank blanks[2] = {{&other, 'f' << 24 | 8 << 16 | 1 << 8, 0},
                                           {&row, 'i' << 24 | 4 << 16 | 1 << 8, 0}};

/* A child that builds `id` and publishes {7, 8}, or a bundle of nothing, when it is told to. */
struct builder {
  pid_t child;
  int told;
};

static void publish(sharearray_build *build, bool bundle) {
  char bytes[256];
  uint64_t shape[1] = {2}, size = 22;
  int32_t values[2] = {7, 8};
  sharearray_draft *draft;
  sharearray_map *map;
  if (bundle) sharearray_npz_frame(NULL, 0, 0, bytes);
  else size = (uint64_t)sharearray_npy_write("<i4", 1, shape, bytes, sizeof bytes);
  if (!bundle) memcpy(bytes + size, values, sizeof values);
  size += bundle ? 0 : sizeof values;
  if (sharearray_draft_new(store, size, &draft, message) || sharearray_draft_write(draft, bytes, size, message))
    _exit(2);
  if (sharearray_publish(build, draft, &map, message) != SHAREARRAY_READY) _exit(3);
}

static struct builder start_builder(const char *id, bool bundle) {
  sharearray_build *build;
  int ready[2], told[2];
  char byte;
  CHECK(pipe(ready) == 0 && pipe(told) == 0);
  pid_t child = fork();
  if (child == 0) {
    if (sharearray_attach(store, id, 0, &ticket, NULL, &build, message) != SHAREARRAY_BUILD) _exit(1);
    if (write(ready[1], "", 1) != 1 || read(told[0], &byte, 1) != 1) _exit(1);
    publish(build, bundle);
    sharearray_build_delete(build);
    _exit(0);
  }
  CHECK(read(ready[0], &byte, 1) == 1);
  close(ready[0]);
  close(ready[1]);
  close(told[0]);
  return (struct builder){child, told[1]};
}

static void tell(struct builder builder) {
  int status = -1;
  CHECK(write(builder.told, "", 1) == 1);
  waitpid(builder.child, &status, 0);
  CHECK(status == 0);
  close(builder.told);
}

/* Waits for `id` from before its builder publishes; what is there at last. */
static int await(const char *id, bool bundle, uint32_t count, sharearray_map **map) {
  sharearray_build *build;
  struct builder builder = start_builder(id, bundle);
  CHECK(sharearray_attach(store, id, 0, &ticket, map, &build, message) == SHAREARRAY_WAIT);
  CHECK(sharearray_await(store, id, 0, &ticket, 0.01, blanks, count, &sealed, map, message) == SHAREARRAY_WAIT);
  CHECK(sharearray_await(store, id, 0, &ticket, 0, blanks, count, &sealed, map, message) == SHAREARRAY_WAIT);
  tell(builder);
  return sharearray_await(store, id, 0, &ticket, 60, blanks, count, &sealed, map, message);
}

static void fills_the_blank_of_the_layout(void) {
  sharearray_map *map = NULL;
  memset(&other, 0, sizeof other);
  CHECK(await("filled", false, 2, &map) == SHAREARRAY_FILLED + 1);
  CHECK(row.map == map && row.sealed == &sealed && row.lent == 0 && row.count == 2 && row.n0 == 2);
  CHECK(row.elements[0] == 7 && row.elements[1] == 8);
  CHECK(other.map == NULL && other.elements == NULL);
  CHECK(((struct sa_map *)map)->references == 1); /* the view's */
  sharearray_release(&row, sizeof row);
  CHECK(row.map == NULL && row.count == 0);
}

static void fills_nothing_of_another_layout(void) {
  sharearray_map *map = NULL;
  const char *const ids[3] = {"none", "others", "bundle"};
  for (uint32_t i = 0; i < 3; i++) {
    memset(&row, 0, sizeof row);
    CHECK(await(ids[i], i == 2, i, &map) == SHAREARRAY_READY);
    CHECK(row.map == NULL && other.map == NULL && ((struct sa_map *)map)->references == 1);
    CHECK((ticket.layout == 0) == (i == 2));
    sharearray_unref(map);
  }
}

/* It is left to sharearray_attach(), for a caller whom a signal ends in between. */
static void takes_no_build(void) {
  sharearray_map *map = NULL;
  sharearray_build *build = NULL;
  struct builder builder = start_builder("killed", false);
  CHECK(sharearray_attach(store, "killed", 0, &ticket, &map, &build, message) == SHAREARRAY_WAIT);
  kill(builder.child, SIGKILL);
  waitpid(builder.child, NULL, 0);
  close(builder.told);
  CHECK(sharearray_await(store, "killed", 0, &ticket, 60, blanks, 2, &sealed, &map, message) == SHAREARRAY_WAIT);
  CHECK(sharearray_attach(store, "killed", 0, &ticket, &map, &build, message) == SHAREARRAY_BUILD && map == NULL);
  sharearray_build_delete(build);
}

int main(void) {
  sharearray_options options = {.shm_path = mkdtemp(directory), .prefix = "", .mode = -1, .owner = -1};
  char command[64];
  CHECK(options.shm_path && sharearray_store_new(&options, &store, message) == 0);
  RUN(fills_the_blank_of_the_layout);
  RUN(fills_nothing_of_another_layout);
  RUN(takes_no_build);
  sharearray_store_delete(store);
  snprintf(command, sizeof command, "rm -r %s", directory);
  CHECK(system(command) == 0);
  FINISH();
}
