#!/bin/bash
# labels: pvm
# timeout: 120
# A task and a daemon that have not enough memory: a clear code, nothing hangs, nothing leaks.
. "$(dirname "$0")/pvm_lib.bash"
case $(ldd "$B/pvm/pvmd3" 2>/dev/null) in *libasan*|*libtsan*) echo "sanitizers take all addresses"; exit 77 ;; esac
run() { timeout 60 "$B/tests/pvm/pvmtest_memory" "$@" >"$W/o" 2>&1 || fail "$*: $(cat "$W/o")"; cat "$W/o"; }
start
run task
run lost
grep -q 'no memory' "$W"/pvml* || fail "the loss was not told"
stop
(ulimit -v 131072; exec "$B/pvm/pvmd3") >"$W/out" 2>&1 </dev/null &
daemon=$!
timeout 20 sh -c "until grep -q sock '$W/out' 2>/dev/null; do sleep 0.05; done" || fail "a daemon with 128 MiB did not start: $(cat "$W/out")"
run daemon
kill -0 $daemon || fail "the daemon ended"
stop
