# Everything that is built goes to build/. `make help` lists the targets.

CFLAGS ?= -O2 -g
LUAJIT ?= luajit
PREFIX ?= /usr/local
BUILD = build
LDLIBS += -ldl

MAKEFLAGS += --no-print-directory

# What the sources need, whatever CFLAGS says.
flags = -std=c11 -fPIC -pthread -fvisibility=hidden -Wall -Wextra -Werror $(CFLAGS)
# nodelete: LuaJIT unloads libraries at an error exit, perhaps before the last finalizer calls into
# this one. defs: a name that is nowhere defined fails here and not at the user's. now: libc's functions
# are looked up at the start, not by all waiters at once when an array is there. noseparate-code: fewer pages to map.
shared = -shared -Wl,-z,nodelete -Wl,-z,defs -Wl,-z,now -Wl,-z,noseparate-code

core = $(BUILD)/lib/sharearray/core.so
objects = $(patsubst core/%.c,$(BUILD)/core/%.o,$(wildcard core/*.c))
lua_files = $(shell find lua -name '*.lua')
commands = $(wildcard bin/*)

# Programs of the specs: harnesses contain the core, hidden functions included.
harnesses = $(patsubst spec/core/%.c,$(BUILD)/spec/core/%,$(wildcard spec/core/*.c))
tortures = $(patsubst spec/torture/%.c,$(BUILD)/spec/torture/%,$(wildcard spec/torture/*.c))
support = $(wildcard spec/support/*.c)
preloads = $(patsubst spec/support/%.c,$(BUILD)/spec/%.so,$(filter %_preload.c,$(support)))
programs = $(patsubst spec/support/%.c,$(BUILD)/spec/%,$(filter-out %_preload.c,$(support)))

# The checkout first, then what the user has, then Debian's folders, which a LuaJIT of one's own does
# not know.
lua_path = $(CURDIR)/lua/?.lua;$(CURDIR)/lua/?/init.lua
lua_cpath = $(CURDIR)/$(BUILD)/lib/?.so
debian = /usr/share/lua/5.1
here = LUAJIT='$(LUAJIT)' \
  LUA_PATH='$(lua_path);$(CURDIR)/spec/?.lua;$(CURDIR)/bench/?.lua;$(LUA_PATH);;$(debian)/?.lua;$(debian)/?/init.lua' \
  LUA_CPATH='$(lua_cpath);$(LUA_CPATH);;$(firstword $(wildcard /usr/lib/*/lua/5.1))/?.so'

.PHONY: all help test demo serve lint sanitize valgrind analyze fuzz torture soak coverage tsan model bench cluster install env clean
.SUFFIXES:

all: $(core) ## build the library (the default)
	@:

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 10

test: ## run the C harnesses, and the specs under both LuaJITs; SPEC=spec/x_spec.lua runs one spec
	@ls $(SPEC) >/dev/null
	@$(here) .ci/setup test
	@$(MAKE) run-tests

demo: ## train on Fashion-MNIST with four processes that share one copy
	@$(here) .ci/setup demo
	@$(MAKE) all
	@$(here) $(LUAJIT) examples/fashion_mnist.lua

# As root, nginx's workers go on as the user whose model it is.
serve: ## serve the demo's model with nginx, at http://127.0.0.1:8080/status
	@$(here) .ci/setup demo serve
	@$(MAKE) all
	@$(here) bin/sharearray stat fashion_mnist.model >/dev/null 2>&1 || $(here) $(LUAJIT) examples/fashion_mnist.lua
	@mkdir -p $(BUILD)/serve
	@$(here) bin/sharearray save --force fashion_mnist.model $(BUILD)/serve/model.npz
	@echo 'serving at http://127.0.0.1:8080/status (Ctrl-C ends it)'
	@$(here) nginx -p '$(CURDIR)/$(BUILD)/serve/' -c '$(CURDIR)/examples/openresty/nginx.conf' \
	  $(if $(filter 0,$(shell id -u)),-g 'user root;')

# A private directory in shared memory, which goes with the run however that ends. What is measured is an
# installed copy: what users have, bytecode and all.
bench: installed = $(CURDIR)/$(BUILD)/installed
bench: lua_path = $(installed)/share/lua/5.1/?.lua;$(installed)/share/lua/5.1/?/init.lua
bench: lua_cpath = $(installed)/lib/lua/5.1/?.so
bench: ## measure it against what people use today; QUICK=1 takes two minutes, WORK='hit wake' some of it
	@$(here) .ci/setup bench
	@$(MAKE) $(BUILD)/bench/baseline.so $(BUILD)/bench/link_clock.so $(BUILD)/bench/waiter
	@$(MAKE) install DESTDIR= PREFIX='$(installed)' | sed -n '/^without/p'
	@$(here) BENCH_BUILD='$(CURDIR)/$(BUILD)/bench' BENCH_QUICK='$(QUICK)' .ci/bench $(WORK)

cluster: ## three machines in small, with a Redis and with a Redis Cluster: one build in all
	@$(here) .ci/setup cluster
	@$(MAKE) all
	@$(here) examples/cluster/run
	@$(here) examples/cluster/run --cluster

lint: ## luacheck, clang-format, and a build with gcc and with clang
	@.ci/setup lint
	@$(MAKE) --keep-going lint-lua lint-format lint-gcc lint-clang

# The instrumented code draws warnings that the plain one does not.
sanitize: ## run the C harnesses and the specs under AddressSanitizer and UBSan
	@$(here) .ci/setup test
	@$(MAKE) all $(preloads) $(programs)
	@.ci/tally start
	@.ci/tally group 'sanitized harnesses' $(MAKE) run-harnesses $(sanitized)
	@.ci/tally group 'sanitized specs' $(MAKE) all run-specs $(sanitized) UNDER='$(asan)'
	@.ci/tally sum
sanitized = BUILD=$(BUILD)/sanitize \
  CFLAGS='-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all -Wno-error'
# LuaJIT itself is not instrumented, so its own memory is never called leaked; what was freed is not kept
# long, since some specs measure memory.
asan = env LD_PRELOAD=$(shell $(CC) -print-file-name=libasan.so) \
  ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0:abort_on_error=1:quarantine_size_mb=1

# What valgrind says goes to a file for each process: most are killed, or end with a status that says nothing.
valgrind: ## run the specs, and the processes they start, under valgrind; QUICK=1 takes a few of them
	@$(here) .ci/setup test analyze
	@$(MAKE) all $(preloads) $(programs)
	@rm -rf $(BUILD)/valgrind
	@mkdir -p $(BUILD)/valgrind && mkdir -m 1777 $(BUILD)/valgrind/said
	@printf '#!/bin/sh\nexec %s -q --vgdb=no --error-exitcode=99 --log-file="$$(%s %s/XXXXXX)" %s "$$@"\n' \
	  "$$(command -v valgrind)" "$$(command -v mktemp)" '$(CURDIR)/$(BUILD)/valgrind/said' "$$(command -v $(LUAJIT))" \
	  >$(BUILD)/valgrind/luajit
	@chmod +x $(BUILD)/valgrind/luajit
	@.ci/tally start
	@$(MAKE) run-specs LUAJIT='$(CURDIR)/$(BUILD)/valgrind/luajit' \
	  $(if $(QUICK),SPEC='$(addprefix spec/,view_spec.lua array_spec.lua struct_spec.lua memory_spec.lua cache_spec.lua)')
	@.ci/tally step 'valgrind has nothing to say of any process' sh -c '! grep -rh . $(BUILD)/valgrind/said'
	@.ci/tally sum

analyze: ## read the core with gcc's -fanalyzer, clang-tidy and cppcheck
	@.ci/setup analyze
	@.ci/tally start
	@for tool in gcc tidy cppcheck; do .ci/tally step "analyze with $$tool" $(MAKE) analyze-$$tool; done
	@.ci/tally sum

MINUTES ?= 30
soak: ## kills, refreshes, frees, bundles, nginx workers and Python peers together; MINUTES=30
	@$(here) .ci/setup test
	@$(MAKE) all
	@.ci/tally start
	@$(MAKE) run-soak
	@.ci/tally sum

# Each program of spec/torture is one harness. The full sweep takes minutes.
torture: ## kill and fail the core at every step; QUICK=1 takes the short cut that CI takes
	@$(here) .ci/setup test
	@.ci/tally start
	@$(MAKE) run-torture
	@.ci/tally sum

# Killed processes leave no counts. The harnesses make the files of the counts, then all users may write.
coverage: ## which lines of the core the harnesses, the torture programs and the specs run
	@$(here) .ci/setup test
	@$(MAKE) all $(preloads) $(programs)
	@rm -f $(BUILD)/coverage/core/*.gcda
	@mkdir -p $(BUILD)/coverage
	@echo 'running all that there is; what it says goes to $(BUILD)/coverage/log'
	@export QUICK=1 TALLY=$(BUILD)/coverage/tally; for part in all run-harnesses open-counts run-torture run-specs; do \
	  $(MAKE) BUILD=$(BUILD)/coverage CFLAGS='$(counting)' $$part; \
	done >$(BUILD)/coverage/log 2>&1
	@.ci/coverage $(BUILD)/coverage/core spec/torture/uncovered.txt
counting = -O0 -g --coverage -fprofile-update=atomic -fprofile-filter-files=^core/

# Races that threads of one process may have with each other: the random operations see them all.
tsan: ## run the random operations under ThreadSanitizer; QUICK=1 runs fewer
	@.ci/tally start
	@$(MAKE) run-tsan BUILD=$(BUILD)/tsan CFLAGS='-O1 -g -fsanitize=thread -Wno-error'
	@.ci/tally sum

model: ## check the protocol of lock and publication with spin, and that spin finds each planted fault
	@.ci/setup model
	@.ci/tally start
	@BUILD='$(BUILD)' CC='$(CC)' .ci/tally harness 'the model of the protocol' spec/torture/model.sh
	@.ci/tally sum

# Programs may start meanwhile: each file, and the folder of the Lua modules, gets its name when it is complete, and the
# core and the modules, which have to fit, do so together. Sources keep their times. Who interrupts may do so again, as
# `timeout` does: that must not end the `rm`.
install: all ## install to DESTDIR/PREFIX (/usr/local)
	@set -e; prefix='$(PREFIX)' && prefix=$${prefix%/}; to='$(DESTDIR)'$$prefix; modules=share/lua/5.1/sharearray; \
	new= folder=; trap 'trap "" HUP INT TERM; rm -rf "$$new" "$$folder"' EXIT; \
	trap 'trap "" HUP INT TERM; exit 130' HUP INT TERM; \
	begin() { \
	  ! [ "$$1" -ef "$$to/$$2" ] || { echo "$$to/$$2 is this checkout's own: nothing more is installed" >&2; exit 1; }; \
	  new="$$to/$$2.$$$$.new"; rm -rf "$$new"; $(say) "install $$to/$$2"; \
	}; \
	put() { begin "$$2" "$$3"; install -D -p -m "$$1" "$$2" "$$new"; mv -fT "$$new" "$$to/$$3"; }; \
	begin lua/sharearray $$modules; folder=$$new; \
	for file in $(lua_files); do install -D -p -m 644 "$$file" "$$folder/$${file#lua/sharearray/}"; done; \
	(umask 022; $(here) LUA_INIT= $(LUAJIT) .ci/startup "$$folder" "$$prefix/$$modules") || \
	  echo 'without bytecode for $(LUAJIT): each start takes longer'; \
	put 644 core/sharearray.h include/sharearray.h; \
	for file in $(commands); do put 755 "$$file" "$$file"; done; \
	put 755 $(core) lib/lua/5.1/sharearray/core.so; \
	.ci/exchange "$$folder" "$$to/$$modules" '$(LUAJIT)'

say = $(if $(findstring s,$(filter-out -%,$(firstword $(MAKEFLAGS)))),:,echo)

# Seeds and what was found stay in spec/fuzz/corpus; what a run finds beyond them goes to build/.
FUZZ_SECONDS ?= 600
fuzzers = npy npz import
fuzz: ## feed the readers of .npy, bundles and imports with libFuzzer; FUZZ_SECONDS=600 for each
	@.ci/setup lint
	@.ci/tally start
	@for name in $(fuzzers); do .ci/tally step "fuzz $$name" $(MAKE) fuzz-$$name; done
	@.ci/tally sum

# Whatever the user's paths are, they stay, and end with Lua's own.
env: ## lines for the shell that put this checkout into its paths: eval "$(make -s env)"
	$(info export LUA_PATH='$(lua_path);'"$${LUA_PATH:+$${LUA_PATH%;;};};")
	$(info export LUA_CPATH='$(lua_cpath);'"$${LUA_CPATH:+$${LUA_CPATH%;;};};")
	$(if $(commands),$(info export PATH='$(CURDIR)/bin':"$$PATH"))
	@:

clean: ## remove build/, and what luarocks leaves in a checkout
	rm -rf $(BUILD) core/*.o sharearray/core.so
	rmdir sharearray 2>/dev/null || :

$(core): $(objects)
	@mkdir -p $(@D)
	$(CC) $(flags) $(shared) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/core/%.o: core/%.c
	@mkdir -p $(@D)
	$(CC) $(flags) $(CPPFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/spec/core/%: spec/core/%.c $(objects)
	@mkdir -p $(@D)
	$(CC) $(flags) $(CPPFLAGS) -Icore -MMD -MP $(LDFLAGS) -o $@ $< $(objects) -lz $(LDLIBS)

$(BUILD)/spec/torture/%: spec/torture/%.c $(objects)
	@mkdir -p $(@D)
	$(CC) $(flags) $(CPPFLAGS) -Icore -MMD -MP $(LDFLAGS) $(wrapped:%=-Wl,--wrap=%) -o $@ $< $(objects) $(LDLIBS)

# What can fail although it is no call of the table in core/sys.h.
$(BUILD)/spec/torture/fail: wrapped = malloc calloc realloc strdup free fdopendir readdir dlsym \
  pthread_atfork clock_gettime

$(BUILD)/spec/%_preload.so: spec/support/%_preload.c
	@mkdir -p $(@D)
	$(CC) $(flags) $(CPPFLAGS) -MMD -MP -shared $(LDFLAGS) -o $@ $< $(LDLIBS)

# All may embed LuaJIT; as-needed keeps it out of those that do not.
$(BUILD)/spec/%: spec/support/%.c
	@mkdir -p $(@D)
	$(CC) $(flags) $(CPPFLAGS) -Icore $$(pkg-config --cflags luajit) -MMD -MP $(LDFLAGS) -o $@ $< \
	  -Wl,--as-needed $$(pkg-config --libs luajit) $(LDLIBS)

# now: who waits for a wake would else look libc's names up after it, which is no part of what is measured.
$(BUILD)/bench/baseline.so: $(wildcard bench/baseline/*.[ch])
	@mkdir -p $(@D)
	$(CC) $(flags) -O2 -shared -Wl,-z,now $(LDFLAGS) -o $@ $(filter %.c,$^)

$(BUILD)/bench/waiter: bench/programs/waiter.c $(wildcard bench/baseline/*.[ch])
	@mkdir -p $(@D)
	$(CC) $(flags) -O2 -Wl,-z,now $(LDFLAGS) -o $@ $(filter %.c,$^)

$(BUILD)/bench/link_clock.so: bench/programs/link_clock.c
	@mkdir -p $(@D)
	$(CC) $(flags) -O2 -shared $(LDFLAGS) -o $@ $<

-include $(wildcard $(BUILD)/core/*.d $(BUILD)/spec/*.d $(BUILD)/spec/core/*.d $(BUILD)/spec/torture/*.d)

# The parts of test and lint: no set-up here. `.ci/tally` counts, and fails in `sum` only.
.SECONDARY:
fuzz-%: $(BUILD)/fuzz/%_fuzz
	@mkdir -p $(BUILD)/fuzz/$*
	$< -max_total_time=$(FUZZ_SECONDS) -max_len=65536 -verbosity=0 -print_final_stats=1 \
	  -artifact_prefix=$(BUILD)/fuzz/ $(BUILD)/fuzz/$* spec/fuzz/corpus/$*

$(BUILD)/fuzz/%_fuzz: spec/fuzz/%_fuzz.c $(wildcard core/*.[ch])
	@mkdir -p $(@D)
	clang -std=c11 -g -O1 -pthread -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -o $@ $< core/*.c $(LDLIBS)

.PHONY: run-tests run-harnesses run-torture run-soak open-counts run-specs run-other-specs compile lint-lua run-tsan lint-format lint-gcc lint-clang

run-tests: all $(preloads) $(programs)
	@.ci/tally start
	@$(if $(SPEC),,.ci/tally group 'C harnesses' $(MAKE) run-harnesses)
	@$(MAKE) run-specs
	@$(if $(SPEC),,$(MAKE) run-other-specs)
	@.ci/tally sum

run-harnesses: $(harnesses)
	@for harness in $^; do .ci/tally harness "$$harness" "$$harness"; done

run-torture: all $(tortures) $(BUILD)/spec/fail_preload.so
	@for program in $(tortures); do .ci/tally harness "$$program" "$$program"; done
	@$(here) .ci/tally harness 'faults under Lua' env LD_PRELOAD=$(BUILD)/spec/fail_preload.so $(LUAJIT) spec/torture/faults.lua

open-counts:
	@chmod -R a+rwX $(BUILD)

run-tsan: $(BUILD)/spec/torture/random
	@.ci/tally harness 'random operations under ThreadSanitizer' "$<"

# $(call busted,NAME,INTERPRETER). Specs start their workers with the interpreter they run under.
busted = $(here) SHAREARRAY_TEST_LUAJIT="$$(realpath "$$(command -v $(2))")" .ci/tally busted '$(1)' \
  $(UNDER) $(2) spec/support/busted.lua --ignore-lua --cpath='$(CURDIR)/$(BUILD)/lib/?.so' --helper=spec/support/tally.lua --output=TAP $(SPEC)

run-soak:
	@$(here) .ci/tally harness soak $(LUAJIT) spec/torture/soak.lua $(MINUTES) $(SEED)

# gcc loses sight of what hangs on a pointer's pointer: the headers of an import's parts, which
# sharearray_import_delete() frees, and the path of a map, which sharearray_unref() does.
analyze-gcc: $(addprefix analyze-gcc-,$(notdir $(wildcard core/*.c)))
analyze-gcc-import.c analyze-gcc-entry.c analyze-gcc-build.c: flags += -Wno-analyzer-malloc-leak
analyze-gcc-%:
	gcc $(flags) -O2 -fanalyzer -DSHAREARRAY_ANALYZE -c -o /dev/null core/$*

analyze-tidy:
	clang-tidy --quiet --warnings-as-errors='*' $(wildcard core/*.c) -- -std=c11 -pthread -DSHAREARRAY_ANALYZE

# What is in Torch's struct is for Torch to use, and what is in the note for packagers.
analyze-cppcheck:
	cppcheck --quiet --std=c11 --enable=warning,performance,portability,style --inline-suppr --error-exitcode=1 \
	  --suppress=unusedStructMember:core/torch.c --suppress=unusedStructMember:core/zlib.c core

run-specs:
	@$(call busted,specs,$(LUAJIT))

run-other-specs: other = $(BUILD)/other-luajit
run-other-specs:
	@if why=$$($(here) .ci/other-luajit $(other) 2>&1); \
	then $(call busted,specs under the other LuaJIT,$(other)/luajit); \
	else .ci/tally skip 'specs under the other LuaJIT' "$$why"; fi

lint-lua:
	luacheck --quiet $(wildcard lua spec examples bench) $(wildcard rockspec/*)

lint-format:
	clang-format --dry-run -Werror $(wildcard core/*.[ch] $(addsuffix /*.[ch],$(wildcard spec/*)) bench/*/*.[ch])

lint-gcc lint-clang: lint-%:
	@$(MAKE) CC=$* BUILD=$(BUILD)/$* compile

compile: all $(harnesses) $(tortures) $(preloads) $(programs) $(BUILD)/bench/baseline.so $(BUILD)/bench/link_clock.so $(BUILD)/bench/waiter
