#!/bin/bash
# labels: agent kvm
# timeout: 240
# Checkpoints of a guest that checks all its memory: written while it stands still and while it runs,
# restored on another node; damaged files are refused.
if ! [ -r /dev/kvm ] || ! [ -w /dev/kvm ]; then echo "no /dev/kvm"; exit 77; fi
. "$(dirname "$0")/agent_lib.bash"

size() { stat -c %s "$1"; }
# damage FILE NEW OFFSET: a copy with one bit flipped.
damage() {
  cp "$1" "$2" && printf "\\x$(printf %x $(($(od -An -tu1 -j"$3" -N1 "$1") ^ 1)))" |
    dd of="$2" bs=1 seek="$3" conv=notrunc status=none
}

make_cluster a b
start_agent a
start_agent b
wait_event "b is reachable" --node a
wait_event "a is reachable" --node b --agent b

expect 0 running "$pangaea" vm run count -k "$guests/dirty" -m 128M -c 'mib=64 rate=150 passes=56' --node a
expect 0 "MiB written" "$pangaea" vm console count --until "MiB written" --timeout 20
expect 0 "in $dir/still on its node" "$pangaea" vm checkpoint count "$dir/still"
expect 0 "in $dir/live on its node" "$pangaea" vm checkpoint count "$dir/live" --live
expect 0 '"file":"'"$dir/live"'"' "$pangaea" vm checkpoint count "$dir/live" --live --json
expect 0 "count: killed" "$pangaea" vm kill count
[ "$(stat -c %a "$dir/live")" = 600 ] && [ -z "$(find "$dir" -name '*.tmp')" ] && ok "files are whole and private" || fail "files: $(ls -l "$dir")"

for kind in still live; do
  expect 0 " on node b" "$pangaea" vm restore "$dir/$kind" --node b
  expect 0 "dirty: PASS" "$pangaea" vm console count --until "dirty: PASS" --timeout 50
  timeout 20 bash -c "while '$pangaea' vm ls -q | grep -q count; do :; done" || fail "it does not end"
done
# It has ended, and its console still says what it wrote.
expect 0 "dirty: PASS" "$pangaea" vm console count --until "dirty: PASS"
expect 3 "it ended on node b: " "$pangaea" vm console count

bytes=$(size "$dir/still")
damage "$dir/still" "$dir/head" 80
expect 1 "damaged or cut off" "$pangaea" vm restore "$dir/head" --node b
damage "$dir/still" "$dir/memory" $((bytes / 2))
expect 1 "damaged or cut off" "$pangaea" vm restore "$dir/memory" --node b
damage "$dir/still" "$dir/last" $((bytes - 1))
expect 1 "damaged or cut off" "$pangaea" vm restore "$dir/last" --node b
head -c $((bytes - 40)) "$dir/still" >"$dir/cut"
expect 1 "damaged or cut off" "$pangaea" vm restore "$dir/cut" --node b
head -c 30000 "$dir/still" >"$dir/cut"
expect 1 "damaged or cut off" "$pangaea" vm restore "$dir/cut" --node b
# One section of memory left out, all others as they were: the first one that follows "machine".
machine=$((65536 + 16)) length=$(od -An -tu8 -j$((machine + 32)) -N8 "$dir/still" | tr -d ' ')
first=$((machine + 48 + length)) length=$(od -An -tu8 -j$((first + 32)) -N8 "$dir/still" | tr -d ' ')
{ head -c "$first" "$dir/still"; tail -c +$((first + 48 + length + 1)) "$dir/still"; } >"$dir/gap"
expect 1 "damaged or cut off" "$pangaea" vm restore "$dir/gap" --node b
echo hello >"$dir/text"
expect 1 "is not a checkpoint" "$pangaea" vm restore "$dir/text" --node b
expect 3 "No such file" "$pangaea" vm restore "$dir/none" --node b
[ -z "$("$pangaea" vm ls -q)" ] && ok "nothing runs after the refusals" || fail "left: $("$pangaea" vm ls)"

expect 0 running "$pangaea" vm run count -k "$guests/dirty" -m 64M -c 'mib=16 rate=20' --node a
expect 0 "on its node" "$pangaea" vm checkpoint count "$dir/endless"
expect 7 "there is a VM 'count' already" "$pangaea" vm restore "$dir/endless" --node b
mkdir "$dir/folder"
expect 7 "something else is there" "$pangaea" vm checkpoint count "$dir/folder"
expect 3 "No such file" "$pangaea" vm checkpoint count "$dir/nowhere/x"
expect 3 "there is no VM" "$pangaea" vm checkpoint other "$dir/x"
expect 0 "count: paused" "$pangaea" vm pause count
expect 0 "on its node" "$pangaea" vm checkpoint count "$dir/paused" --live
expect 0 paused "$pangaea" vm ls
expect 0 killed "$pangaea" vm kill count
expect 0 "count: running on node b" "$pangaea" vm restore "$dir/endless" --node b
expect 0 "mib=16 rate=20" "$pangaea" vm info count
expect 0 "MiB written" "$pangaea" vm console count --until "MiB written" --timeout 20
# However it ends.
read -r pid _ <"$dir/run-b/vm/count/pid"
kill -9 "$pid"
timeout 20 bash -c "while '$pangaea' vm ls -q | grep -q count; do :; done" || fail "its end is not noticed"
expect 3 "MiB written" "$pangaea" vm console count
expect 3 "it failed on node b: its process was ended by signal 9" "$pangaea" vm console count
exit $bad
