#!/bin/bash
# labels: agent kvm
# timeout: 240
# Post-copy between two agents: a guest that checks all its memory runs at the destination before its
# memory is there; a link that breaks pauses it, and one command lets it go on; a source that dies
# takes it along.
if ! [ -r /dev/kvm ] || ! [ -w /dev/kvm ]; then echo "no /dev/kvm"; exit 77; fi
. "$(dirname "$0")/agent_lib.bash"
. "$(dirname "$0")/migrate_lib.bash"

make_cluster a b
start_agent a; start_agent b
wait_event "b is reachable" --node a; wait_event "a is reachable" --node b --agent b

expect 0 running "$pangaea" vm run move -k "$guests/dirty" -m 128M -c 'mib=32 rate=16 passes=8' --node a
expect 0 "MiB written" "$pangaea" vm console move --until "MiB written" --timeout 60
expect 0 "on node b" "$pangaea" vm migrate move --to b --mode postcopy
[ "$(where move)" = "b running" ] || fail "after the move: $(where move)"
expect_journal b move 'filling complete'
expect 0 "on node a" "$pangaea" vm migrate move --to a --mode auto --postcopy-after 1 --max-downtime 1 --encrypt --channels 3
[ "$(where move)" = "a running" ] || fail "after the move back: $(where move)"
wait_gone b move
expect 0 "on node b" "$pangaea" vm migrate move --to b --mode postcopy --encrypt
expect 2 "expected precopy, postcopy or auto" "$pangaea" vm migrate move --to a --mode some
expect 2 "in no migration that waits" "$pangaea" vm migrate move --resume
expect 0 "dirty: PASS" "$pangaea" vm console move --until "dirty: PASS" --timeout 60
wait_gone b move

if ! can_cut; then echo "what follows needs 'ss -K': left out"; show_logs; exit $bad; fi

# Slow enough to be caught in the middle: the guest asks for 16 MiB/s, the rest comes with 1 MB/s.
start_slow() {
  expect 0 running "$pangaea" vm run "$1" -k "$guests/dirty" -m 128M -c 'mib=32 rate=16 passes=10' --node a
  expect 0 "pass 1" "$pangaea" vm console "$1" --until "pass 1," --timeout 60
  "$pangaea" vm migrate "$1" --to b --mode postcopy --bandwidth 1M >"$dir/out" 2>&1 & job=$!
  wait_event "its memory follows from a" "$1" || cat "$dir/out"
}
start_slow cut
cut_link b cut
wait $job && fail "a migration whose link broke says that it is done"
grep -q "cut is paused on node b: 'pangaea vm migrate cut --resume'" "$dir/out" && ok "it says what to do" || fail "it says: $(cat "$dir/out")"
wait_event "the link of post-copy broke" cut
[ "$(where cut)" = "b paused" ] && ok "paused where it is" || fail "after the break: $(where cut)"
expect 9 "migrating" "$pangaea" vm resume cut
for round in 1 2; do
  wait_state b cut paused
  expect_retry 0 "" "$pangaea" vm migrate cut --resume
  wait_state b cut running
  [ $round = 2 ] || { cut_link b cut; wait_state b cut paused; }
done
wait_event "all memory has come from a" cut
expect_journal b cut 'filling complete'
wait_gone a cut
expect 0 "dirty: PASS" "$pangaea" vm console cut --until "dirty: PASS" --timeout 60
wait_gone b cut

start_slow lost
cut_link b lost
wait $job
wait_state b lost paused
kill -9 "$(pid_of a lost)"
wait_gone b lost
expect 3 "is gone" "$pangaea" vm info lost

start_slow gone
kill -9 "$(pid_of b gone)"
wait $job && fail "the destination died in the middle, and the migration says that it is done"
wait_gone b gone; wait_gone a gone

start_slow killed
cut_link b killed
wait $job
wait_state b killed paused
expect 0 killed "$pangaea" vm kill killed
wait_gone b killed; wait_gone a killed
show_logs
exit $bad
