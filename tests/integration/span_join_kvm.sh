#!/bin/bash
# labels: kvm
# timeout: 240
# Slices of guests that span several pangaea-vmm of this machine leave and others join in their place
# while the guest runs, takes interrupts and checks its memory.
# shellcheck source=tests/integration/span_lib.bash
. "$(dirname "$0")/span_lib.bash"
# shellcheck source=tests/integration/span_join_lib.bash
. "$(dirname "$0")/span_join_lib.bash"

# All on one slice, spread again, and once more: memory is ordinary in between.
mkfifo "$dir/keys"
input=$dir/keys
begin dirty 'mib=64 rate=300' 1:48M 1:48M
wait_for 'MiB written'
refused 'no such slice can join' join 0 127.0.0.1:9 9
refused 'no such slice can join' join 2 127.0.0.1:9 9
vm 0 join 1 127.0.0.1:9 9 || { echo "FAIL: it is there already"; show; }
for round in 1 2; do
  vm 0 empty 1 0 && left 1 || { echo "FAIL: slice 1 does not leave"; show; }
  at 'ordinary 1'
  joins 1 '0,0:0,0' "${address[0]}" self
  at 'ordinary 0' 'slice1.gone 0' 'part1.home 1'
  moves 0 1 && at 'vcpu0.slice 1' && moves 0 0 && moves 1 1
done
vm 0 pause && vm 0 resume || { echo "FAIL: it does not stand and go"; show; }
vm 0 save "$dir/saved" >/dev/null && [ -s "$dir/saved" ] || { echo "FAIL: it cannot be saved"; show; }
grep -q FAIL "$dir/out.0" && { echo "FAIL: its memory is wrong"; show; }
vm 0 kill >/dev/null
over 'MiB written' 'a guest over two slices: on one, and on two again, twice'

# Each round needs an interrupt either way. The middle one of three comes back: the last connects to it.
more=(--encrypt)
begin pingpong rounds=0 1:32M 1:32M 1:32M
wait_for 'both run'
for round in 1 2; do
  vm 0 empty 1 2 && left 1 || { echo "FAIL: slice 1 does not leave"; show; }
  at 'part1.home 2'
  joins 1 "0,2,2:0,2,2" "${address[0]}" self "${address[2]}"
  at 'part1.home 1' && moves 1 1 && moves 0 1 0 1
  [ $round = 2 ] && { moves 0 0; break; }
  echo >"$dir/keys" # by interrupts from now on
  wait_for 'memory'
  moves 0 0
done
vm 0 reset || { echo "FAIL: no reset"; show; }
echo >"$dir/keys"; echo >"$dir/keys"
over 'pingpong: PASS' 'two vCPUs wake each other while a slice leaves and comes back, twice'
more=()

# What comes to nothing, and the guest does not notice.
begin dirty 'mib=48 rate=200' 1:32M 1:32M 1:32M
wait_for 'MiB written'
vm 0 empty 2 0 && left 2 || { echo "FAIL: slice 2 does not leave"; show; }
vm 0 join 2 "127.0.0.1:9" 0 >"$dir/said" 2>&1 && { echo "FAIL: a join without a group"; show; }
head -c 32 /dev/urandom >"$dir/wrong"
key=$dir/wrong starts 2 '0,1,0:0,1,0' "${address[0]}" "${address[1]}" self
vm 0 join 2 "127.0.0.1:$port" "$group" >"$dir/said" 2>&1 & asked=$!
n=0; until vm 0 move 0 2 2>&1 | grep -q 'a slice is joining' || [ $((n++)) -gt 500 ]; do :; done
[ $n -le 500 ] || { echo "FAIL: a vCPU may move while a slice joins"; show; }
refused 'a slice is joining' pause
refused 'a slice is joining' reset
refused 'a slice is joining' empty 2 0
wait $asked && { echo "FAIL: it joins with a wrong key"; show; }
grep -q 'no link to it' "$dir/said" || { echo "FAIL: $(cat "$dir/said")"; show; }
kill -9 "${pids[2]}" 2>/dev/null; wait "${pids[2]}" 2>/dev/null
at 'slice2.gone 1'
parts=(1:32M 1:32M 1:48M)
starts 2 '0,1,0:0,1,0' "${address[0]}" "${address[1]}" self # it is of another guest
vm 0 join 2 "127.0.0.1:$port" "$group" >"$dir/said" 2>&1 && { echo "FAIL: another guest's slice joins"; show; }
grep -q 'different guests' "$dir/said" || { echo "FAIL: $(cat "$dir/said")"; show; }
wait "${pids[2]}" && { echo "FAIL: it is content"; show; }
parts=(1:32M 1:32M 1:32M)
at 'slice2.gone 1'
joins 2 '0,1,0:0,1,0' "${address[0]}" "${address[1]}" self
at 'part2.home 2' && moves 1 2
grep -q FAIL "$dir/out.0" && { echo "FAIL: its memory is wrong"; show; }
vm 0 kill >/dev/null
over 'MiB written' 'slices that do not join, and one that does after that'

# From then on it is a member as any other: its end is the guest's.
begin dirty 'mib=48 rate=200' 1:32M 1:32M
wait_for 'MiB written'
vm 0 empty 1 0 && left 1 && joins 1 '0,0:0,0' "${address[0]}" self && moves 1 1
kill -9 "${pids[1]}"
ended 60 || { echo "FAIL: the lead goes on without its memory"; show; }
grep -q 'lost slice 1' "$dir/err.0" && echo "ok: a member that dies takes the guest along" || { echo "FAIL: the lead says nothing"; show; }

exit $bad
