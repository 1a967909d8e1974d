#!/bin/bash
# labels: pvm
# timeout: 120
# Tasks of one host send each other thousands of messages of all sizes; then a task dies in the
# middle, and the daemon: nobody hangs.
. "$(dirname "$0")/pvm_lib.bash"
start
for a in "2 200 1" "4 60 2" "16 10 3" "1 50 4"; do
  timeout 60 "$B/tests/pvm/pvmtest_stress" $a >"$W/o" || fail "stress $a: $(grep -vE 'BEGIN|END' "$W/o")"
  tail -1 "$W/o"
done
timeout 60 "$B/tests/pvm/pvmtest_forks" || fail "a task that forks"
echo "by the daemon only:"
PVM_NOSHM=1 PVM_EXPORT=PVM_NOSHM timeout 60 "$B/tests/pvm/pvmtest_stress" 3 60 5 >"$W/o" || fail "stress without shared memory: $(tail -3 "$W/o")"
tail -1 "$W/o"
# The daemon dies under the tasks: they end with an error, none hangs.
timeout 60 "$B/tests/pvm/pvmtest_stress" 4 100000 6 >"$W/o" 2>&1 &
p=$!
timeout 10 sh -c "until [ \$(grep -c BEGIN '$W/o') -ge 4 ]; do sleep 0.05; done" || fail "did not begin"
kill -9 $daemon; wait $daemon 2>/dev/null
wait $p; rc=$?
[ $rc != 124 ] && [ $rc != 0 ] || fail "the parent returned $rc after the death of the daemon"
echo "parent after the death of the daemon: $rc"
timeout 20 sh -c "while pgrep -f '$B/tests/pvm/[p]vmtest_stress' >/dev/null; do sleep 0.1; done" || fail "tasks are left: $(pgrep -af pvmtest_stress)"
start
timeout 60 "$B/tests/pvm/pvmtest_stress" 2 20 7 >"$W/o" || fail "after the restart: $(tail -3 "$W/o")"
echo "after the restart: $(tail -1 "$W/o")"
