#!/bin/bash
# labels: integration pvm
# timeout: 60
# The daemon is killed while tasks are spawned, talk and end, a little later each time: whoever waits for it
# is told, and no task stays behind.
# shellcheck source=tests/integration/pvm_lib.bash
. "$(dirname "$0")/pvm_lib.bash"
cp "$B/tests/pvm/pvmtest_crowd" "$W/crowd"
told=0
for step in 0 1 2 3 4 6 8 12 16 24; do
  start
  timeout 20 "$W/crowd" 60 >"$W/o" 2>&1 & job=$!
  sleep "$(printf '0.%03d' $((step * 12)))"
  kill -9 "$daemon"; wait "$daemon" 2>/dev/null; daemon=
  wait $job; rc=$?
  [ $rc = 0 ] || [ $rc = 1 ] || [ $rc = 2 ] || fail "step $step: the parent ended with $rc: $(cat "$W/o")"
  told=$((told + (rc != 0)))
  timeout 15 sh -c "while pgrep -f '^$W/crowd' >/dev/null; do sleep 0.05; done" || fail "step $step: tasks stay behind: $(pgrep -af "^$W/crowd" | head -3)"
done
[ $told -gt 0 ] || fail "the daemon always died too late"
start
timeout 20 "$W/crowd" 3 || fail "the next daemon"
stop
echo "killed 10 times, noticed by the parent $told times"
