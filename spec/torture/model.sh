#!/bin/sh
# Checks spec/torture/protocol.pml with spin: the protocol in several casts, then each of its mutants,
# in which spin has to find the invariant that breaks. Prints cases as the C harnesses do.
set -eu
cd "$(dirname "$0")/../.."
folder=${BUILD:-build}/model
mkdir -p "$folder"
failed=0
total=0

# explore OPTIMIZATION PAN-FLAGS DEFINES...: the verifier's output, in $folder/out
explore() {
  optimization=$1 flags=$2
  shift 2
  (
    cd "$folder"
    spin -a "$@" "$OLDPWD/spec/torture/protocol.pml" >spin.log 2>&1 || { cat spin.log; exit 1; }
    case $flags in *-l*) kind='-DNP -DNFAIR=3' ;; *) kind='-DSAFETY' ;; esac
    # shellcheck disable=SC2086 # words on purpose
    ${CC:-cc} "$optimization" -w $kind -DCOLLAPSE -DVECTORSZ=2048 -DMEMLIM=4000 -o pan pan.c
    # shellcheck disable=SC2086
    ./pan -m100000 $flags
  ) >"$folder/out" 2>&1 || :
}

number() { sed -nE "s/^ *([0-9.e+]+) $1.*/\1/p" "$folder/out" | head -n 1; }
fail() { failed=1; echo "not ok $1: $2"; }

# holds NAME PAN-FLAGS DEFINES...
holds() {
  name=$1 flags=$2
  shift 2
  explore -O2 "$flags" "$@"
  states=$(number 'states, stored')
  echo "# $name: ${states:-no} states, $(sed -nE 's/^pan: elapsed time //p' "$folder/out" || :)"
  if ! grep -q 'errors: 0$' "$folder/out"; then fail "$name" "$(grep -m 1 -E 'assertion violated|invalid end|non-progress|[Ee]rror' "$folder/out")"
  elif grep -q 'max search depth too small' "$folder/out"; then fail "$name" 'the search was cut short'
  else echo "ok $name"
  fi
  total=$((total + $(printf '%.0f' "${states:-0}")))
}

# breaks MUTANT PATTERN DEFINES...: what spin has to say of it
breaks() {
  mutant=$1 pattern=$2
  shift 2
  explore -O0 '' "-D$mutant" "$@"
  if grep -qE "$pattern" "$folder/out"; then echo "ok spin catches $mutant"
  else fail "spin catches $mutant" "$(grep -m 1 -E 'errors:|assertion violated|invalid end|[Ee]rror' "$folder/out")"
  fi
}

holds 'two builders, a refresh, a crash' '' -DREFRESHERS=1
holds 'two builders and a Python builder, a crash' '' -DPYTHONS=1
holds 'a refresh, a free and a list, a crash' '' -DBUILDERS=0 -DREFRESHERS=1 -DFREERS=1 -DSWEEPERS=1
holds "a builder, a refresh, a Python builder, Python's free" '' \
  -DBUILDERS=1 -DREFRESHERS=1 -DPYTHONS=1 -DPYTHON_FREERS=1 -DCRASHES=0
holds "two refreshes, Python's free between any two calls, a crash" '' \
  -DBUILDERS=0 -DREFRESHERS=2 -DPYTHON_FREERS=1 -DBETWEEN
holds 'no endless loop: two builders, a crash' '-l -f'
[ "${QUICK:-}" ] || holds 'a builder, a refresh, a free and a list, a crash' '' \
  -DBUILDERS=1 -DREFRESHERS=1 -DFREERS=1 -DSWEEPERS=1
echo "# $total states in all"

breaks NO_COMPARISON 'building==1' -DREFRESHERS=1
breaks NO_BORN_LOCKED 'holder\[lock_name\]==_pid' -DREFRESHERS=1
breaks NO_SECOND_LOOK 'refresh\|\|\(entry!='
breaks NO_INHERITANCE 'invalid end state'
breaks NO_BURIAL 'lock_name==0\)&&\(fresh==0' -DREFRESHERS=1
breaks NO_SECOND_LEASE 'maker_dead' -DPYTHONS=1
breaks NO_CARE_AT_RELEASE 'holder\[lock_name\]==_pid' -DREFRESHERS=1 -DPYTHON_FREERS=1
breaks NO_LOOK_AT_PUBLICATION 'refresh\|\|\(entry!=' -DPYTHONS=1 -DPYTHON_FREERS=1
breaks NO_LOOK_BEFORE_REPLACING 'refresh\|\|\(entry!=' -DBUILDERS=1 -DPYTHONS=1 -DPYTHON_FREERS=1 -DCRASHES=0
breaks NO_EXCLUSIVE_LINK 'assertion violated \(entry!=' -DBUILDERS=1 -DPYTHONS=1 -DPYTHON_FREERS=1 -DCRASHES=0
breaks NO_FRESH_LOCK 'fresh==_pid' -DBUILDERS=0 -DREFRESHERS=2 -DPYTHON_FREERS=1 -DCRASHES=0 -DBETWEEN
breaks NO_LOCK_FOR_SWEEPING 'fresh==_pid' -DBUILDERS=0 -DREFRESHERS=1 -DSWEEPERS=1 -DCRASHES=0
exit $failed
