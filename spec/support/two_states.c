/* Two Lua states in two threads of one process, which run the program given as the first argument.
 * Each has its number in the global STATE, and says its lines to standard output. */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static const char *program;

static void *run(void *number) {
  lua_State *state = luaL_newstate();
  luaL_openlibs(state);
  lua_pushinteger(state, *(int *)number);
  lua_setglobal(state, "STATE");
  if (luaL_loadstring(state, program) || lua_pcall(state, 0, 0, 0)) {
    printf("error %s\n", lua_tostring(state, -1));
    exit(1);
  }
  lua_close(state);
  return NULL;
}

int main(int count, char **arguments) {
  pthread_t threads[2];
  int numbers[2] = {1, 2};
  if (count < 2) return 2;
  program = arguments[1];
  for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, run, &numbers[i]);
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  puts("joined");
  return 0;
}
