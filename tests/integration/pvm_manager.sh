#!/bin/bash
# labels: integration pvm
# timeout: 120
# beside: yes
# Debian's srm.pvm, a resource manager (pvm_reg_rm), as packaged: the calls of tasks go to it and work
# as without; there is one at a time; when it dies the daemons serve again, also those who knew it.
set -u
build=${PANGAEA_BUILD:?}
B=$build/pvm
[ -x /usr/bin/srm.pvm ] || { echo "Debian's pvm-examples are not installed"; exit 77; }
work=$(mktemp -d)
export PVM_ARCH=LINUX64 HOME=$work PVM_ROOT=$work PVM_TMP=$work PVM_DPATH=$B/pvmd3 PVM_PATH=$B:/usr/bin LD_LIBRARY_PATH=$B
manager=
stop() {
  [ -n "$manager" ] && kill "$manager" 2>/dev/null
  echo halt | timeout 10 "$B/pvm" >/dev/null 2>&1
  rm -rf "$work"
}
trap 'case $BASHPID in $$) stop ;; esac' EXIT
fail() { echo "FAILED: $1"; shift; cat "$@" 2>/dev/null; tail -n 5 "$work"/pvml.* 2>/dev/null; exit 1; }
timeout 20 "$B/pvm" </dev/null >"$work/first" 2>&1 || fail "no daemon" "$work/first"
managed() { timeout 60 "$build/tests/pvm/pvmtest_managed" "$@" >"$work/out" 2>&1; }
managed alone || fail "without a manager" "$work/out"
srm.pvm >"$work/srm" 2>&1 & manager=$!
timeout 20 sh -c "until echo names | '$B/pvm' | grep -q PVM_RM; do sleep 0.1; done" || fail "srm.pvm did not register" "$work/srm"
managed || fail "under the manager" "$work/out"
timeout 20 hello.pvm >"$work/out" 2>&1 && grep -q 'hello, world' "$work/out" || fail "hello.pvm" "$work/out"
printf 'conf\nps -ax\n' | timeout 20 "$B/pvm" >"$work/out" 2>&1
grep -q '1 host' "$work/out" && grep -q '(cons)' "$work/out" || fail "the console" "$work/out"
timeout 20 srm.pvm >"$work/out" 2>&1
grep -q 'Error registering' "$work/out" || fail "a second manager" "$work/out"
echo "tasks and console work under srm.pvm"
# The console was told of the manager when it enrolled.
mkfifo "$work/in"
timeout 60 "$B/pvm" <"$work/in" >"$work/out" 2>&1 & console=$!
exec 3>"$work/in"
echo conf >&3
timeout 20 sh -c "until grep -q '1 host' '$work/out'; do sleep 0.1; done" || fail "the console's first look" "$work/out"
kill $manager; wait $manager 2>/dev/null; manager=
echo conf >&3; echo quit >&3; exec 3>&-
wait $console || fail "the console after the manager's end" "$work/out"
[ "$(grep -c '1 host' "$work/out")" = 2 ] || fail "the console after the manager's end" "$work/out"
managed alone || fail "after the manager" "$work/out"
echo "and after its end"
