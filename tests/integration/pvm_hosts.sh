#!/bin/bash
# labels: root pvm
# timeout: 120
# Three PVM hosts in namespaces: add, spawn over all, messages, ends; then the host that began the
# virtual machine dies by kill, and another falls silent: the rest is told within 5 s and goes on.
# shellcheck source=tests/integration/pvm_net_lib.bash
. "$(dirname "$0")/pvm_net_lib.bash" 10.91.7
"$S" upnet 4 || fail "namespaces"
"$S" run 1 setsid "$B/pvm/pvmd3" >"$W/d1" 2>&1 </dev/null &
until_text "$W/d1" sock
timeout 30 "$S" run 1 "$B/tests/pvm/pvmtest_twohosts" h2 h3 h4 >"$W/o" || fail "$(cat "$W/o")"
cat "$W/o"
# With all tasks gone the daemons have little to say to each other.
turns() { awk '/ctxt/ {n += $2} END {print n}' "/proc/$1/status"; }
for h in 1 4; do
  p=$("$S" procs $h | awk '/pvmd3/ {print $2; exit}')
  before=$(turns "$p"); sleep 1; n=$(($(turns "$p") - before))
  [ $n -lt 300 ] || fail "the daemon of h$h does not come to rest: $n turns in a second"
done
for h in 1 4; do
  for c in 'conf -l' 'ps -a'; do
    timeout 20 "$S" run $h sh -c "echo $c | '$B/pvm/pvm'" >"$W/o" 2>&1
    [ "$(grep -cE ' h[1-4] .* [0-9]+ +[0-9]+\.[0-9]+ +[0-9]+$' "$W/o")" = 4 ] || fail "load as $c of h$h shows it: $(cat "$W/o")"
  done
done
# The daemon that began it dies; h2 coordinates now.
timeout 20 "$S" run 2 "$B/tests/pvm/pvmtest_hostwatch" 40000 >"$W/w1" &
w=$!
until_text "$W/w1" waiting
t0=$(date +%s%N); "$S" crash 1
wait $w || fail "after the death of h1: $(cat "$W/w1")"
echo "death of h1 told after $((($(date +%s%N) - t0) / 1000000)) ms: $(tail -1 "$W/w1")"
# h4 falls silent: its cable is pulled.
timeout 20 "$S" run 3 "$B/tests/pvm/pvmtest_hostwatch" 100000 >"$W/w2" &
w=$!
until_text "$W/w2" waiting
t0=$(date +%s%N)
nsenter -t "$(cat "$W/n/sw.pid")" -n ip link set v4 down
wait $w || fail "after the cut of h4: $(cat "$W/w2")"
ms=$((($(date +%s%N) - t0) / 1000000))
echo "silence of h4 told after $ms ms: $(tail -1 "$W/w2")"
[ $ms -lt 5500 ] || fail "too late"
grep -q ' 2 left' "$W/w2" || fail "who is left: $(cat "$W/w2")"
timeout 30 "$S" run 2 "$B/tests/pvm/pvmtest_twohosts" >"$W/o" || fail "survivors: $(cat "$W/o")"
echo "survivors: $(tail -1 "$W/o")"
# A daemon that another one started ends by SIGTERM, and with it the rest: it coordinates.
p=$("$S" procs 2 | awk '/pvmd3 -s/ {print $2; exit}')
kill -TERM "$p" || fail "no daemon on h2"
timeout 10 sh -c "while [ -d /proc/$p ]; do sleep 0.05; done" || fail "SIGTERM does not end a daemon that was started by another"
echo "SIGTERM ends h2"
