#!/bin/bash
# labels: pvm
# timeout: 180
# What a daemon has to bear: a process that sends nonsense on the task socket, tasks that write
# nonsense into the memory that they share, a receiver that is slow, a limit of descriptors. It goes on,
# and what cannot be done is refused.
. "$(dirname "$0")/pvm_lib.bash"
works() { timeout 60 "$B/tests/pvm/pvmtest_managed" alone >"$W/o" 2>&1 || fail "$1: $(cat "$W/o")"; }

start
works "at first"
for seed in $(seq 1 12); do
  timeout 60 "$B/tests/pvm/pvmtest_garbage" "$W/pvmd.$(id -u).d/sock" "$seed" 3000 >"$W/o" 2>&1 || fail "garbage $seed: $(cat "$W/o")"
  kill -0 $daemon 2>/dev/null || fail "garbage $seed ended the daemon"
done
works "after garbage"
echo "36000 frames of nonsense: the daemon works"
timeout 100 "$B/tests/pvm/pvmtest_flood" >"$W/o" || fail "flood: $(cat "$W/o")"
cat "$W/o"
PVM_NOSHM=1 PVM_EXPORT=PVM_NOSHM timeout 100 "$B/tests/pvm/pvmtest_flood" >"$W/o" || fail "flood by the daemon: $(cat "$W/o")"
echo "by the daemon: $(cat "$W/o")"
for n in 1 2 12; do
  timeout 60 "$B/tests/pvm/pvmtest_boxes" $n 600 >"$W/o" 2>&1 || fail "mailbox: $(cat "$W/o")"
  cat "$W/o"
done
for seed in 1 2 3 4; do
  timeout 60 "$B/tests/pvm/pvmtest_scribbler" $seed >"$W/o" 2>&1 || fail "nonsense in a ring: $(cat "$W/o")"
  grep PASS "$W/o"
done
kill -0 $daemon 2>/dev/null || fail "nonsense in the host page ended the daemon"
stop

# 24 tasks need more descriptors than there are. Some cannot come, and their parent may wait for them;
# the daemon lives, a console still comes in and ends them, and then others are served.
start 40
timeout 10 "$B/tests/pvm/pvmtest_stress" 24 5 1 >"$W/o" 2>&1 && fail "24 tasks with 40 descriptors: the limit was not met"
kill -0 $daemon 2>/dev/null || fail "the daemon ended when it was out of descriptors"
echo reset | timeout 10 "$B/pvm/pvm" >"$W/o" 2>&1 || fail "no console comes in: $(cat "$W/o")"
timeout 20 sh -c "while pgrep -f '$B/tests/pvm/[p]vmtest_stress' >/dev/null; do sleep 0.1; done" || fail "tasks are left"
works "when descriptors are free again"
echo "out of descriptors: it works again"
stop
