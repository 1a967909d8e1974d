#!/bin/bash
# labels: agent kvm
# timeout: 300
# A guest over three agents on loopback: its vCPUs are spread anew, a node is drained, the guest is
# brought together on one node; it checks its memory all the time.
. "$(dirname "$0")/agent_lib.bash"
needs_guest dirty

# empty NODE: its slices and VMs end and leave no folder.
empty() {
  timeout 20 bash -c 'until [ -z "$(ls "$1")" ]; do read -rt 0.1 <> <(:); done; :' _ "$dir/run-$1/vm" \
    && ok "nothing is left at $1" || fail "left at $1: $(ls "$dir/run-$1/vm")"
}

make_cluster a b c
for n in a b c; do start_agent $n; done
for n in b c; do wait_event "$n is reachable" --node a; done

expect 0 running "$pangaea" vm run big -k "$guests/dirty" -c 'mib=64 rate=50' --vcpus a=1,b=2,c=1 --memory a=48M,b=32M,c=48M
expect 0 "MiB written" "$pangaea" vm console big --until "MiB written" --timeout 20

# What cannot be, named.
expect 2 "say how many where" "$pangaea" vm spread big
expect 2 "it has 4 vCPUs, and 3 are placed" "$pangaea" vm spread big --vcpus a=1,b=1,c=1
expect 2 "it has no slice on node d" "$pangaea" vm spread big --vcpus a=3,d=1
expect 2 "say where to" "$pangaea" vm consolidate big
expect 2 "can be consolidated only there" "$pangaea" vm consolidate big --to b --from c --agent c
expect 2 "spans nodes and does not migrate" "$pangaea" vm migrate big --to b
expect 2 "has its devices on node a" "$pangaea" vm consolidate big --to a --from a
expect 0 paused "$pangaea" vm pause big
expect 9 "big is paused" "$pangaea" vm spread big --vcpus a=4
expect 0 running "$pangaea" vm resume big

# vCPUs to and fro; the boot vCPU too.
expect 8 "4 vCPUs are beyond that" "$pangaea" vm spread big --vcpus a=4
[ "$(nproc)" -ge 3 ] || expect 8 "c has $(nproc) CPUs, 3 vCPUs are beyond that" "$pangaea" vm spread big --vcpus a=0,b=1,c=3
expect 0 "big: 2 vCPUs moved" "$pangaea" vm spread big --vcpus a=0,b=1,c=3 --agent b --overcommit
soon 20 "slice 0   node a (lead), 0 vCPUs, 48M, running" "$pangaea" vm info big
soon 20 "slice 2   node c, 3 vCPUs, 48M, running" "$pangaea" vm info big --agent c
expect 0 '"state":"done"' "$pangaea" vm spread big --vcpus a=2,b=1,c=1 --json --overcommit
soon 20 '"slice":0,"node":"a","state":"running","reason":"","vcpus":2' "$pangaea" vm info big --json

# A node is drained: the slice that it has ends, and the others go on.
expect 1 "b: 0 of 1 VMs moved" "$pangaea" node drain b
expect 0 "big: on node a after" "$pangaea" node drain b --overcommit
soon 20 "slice 1   has left node b" "$pangaea" vm info big
soon 20 "node a (lead), 3 vCPUs, 80M" "$pangaea" vm info big --agent b
soon 20 "big   a+c   running" "$pangaea" vm ls
[ -z "$("$pangaea" vm ls -q --node b)" ] && ok "b is empty" || fail "left: $("$pangaea" vm ls --node b)"
empty b

# One comes back to it, and goes on to be used and drained.
expect 8 "4 vCPUs are beyond that" "$pangaea" vm spread big --vcpus a=0,b=4
expect 0 "big: 1 vCPUs moved" "$pangaea" vm spread big --vcpus a=2,b=1,c=1 --overcommit
soon 20 "slice 1   node b, 1 vCPUs, 32M, running" "$pangaea" vm info big --agent c
soon 20 "big   a+b+c  running" "$pangaea" vm ls
expect 0 "big: on node a after" "$pangaea" node drain b --overcommit
soon 20 "slice 1   has left node b" "$pangaea" vm info big
empty b
expect 0 "SLICE" "$pangaea" vm stats big
expect 0 "4 looks" "$pangaea" vm heatmap big --seconds 1 -o "$dir/pages.svg"

# The agent of the lead forgets nothing when it is killed.
stop_agent a KILL
start_agent a
wait_event "found" big --agent a
for n in b c; do wait_event "$n is reachable" --node a; done
timeout 30 bash -c "until [ \$('$pangaea' node ls --agent c 2>/dev/null | grep -c ' up ') = 3 ]; do read -rt 0.1 <> <(:); done; :" || fail "c does not see all"
soon 20 "slice 1   has left node b" "$pangaea" vm info big
"$pangaea" vm consolidate big --to a --overcommit --bandwidth 200M --agent c --json >"$dir/said" && grep -q "\"pages_sent\":[1-9]" "$dir/said" && ok "consolidated" || fail "$(cat "$dir/said")"
soon 20 "node a (lead), 4 vCPUs, 128M, running" "$pangaea" vm info big
soon 20 "big   a     running" "$pangaea" vm ls
expect 0 " 0 pages moved" "$pangaea" vm consolidate big --to a
"$pangaea" vm console big --until "no such text" --timeout 3 </dev/null >"$dir/said" 2>&1
grep -q 'MiB written' "$dir/said" && ! grep -q FAIL "$dir/said" && ok "its memory is right" || fail "$(tail -3 "$dir/said")"
expect 0 "consolidate" "$pangaea" events big

expect 8 "4 vCPUs are beyond that" "$pangaea" vm migrate big --to b
expect 0 killed "$pangaea" vm kill big

# The node of the devices is drained: all comes together there and goes on elsewhere.
expect 0 running "$pangaea" vm run two -k "$guests/dirty" -c 'mib=64 rate=50' --vcpus a=1,b=1 --memory a=48M,b=48M
expect 0 "MiB written" "$pangaea" vm console two --until "MiB written" --timeout 20
expect 0 "a: 1 of 1 VMs moved" "$pangaea" node drain a
empty a
"$pangaea" vm console two --until "no such text" --timeout 3 </dev/null >"$dir/said" 2>&1
grep -q 'MiB written' "$dir/said" && ! grep -q FAIL "$dir/said" && ok "its memory is right" || fail "$(tail -3 "$dir/said")"
expect 0 killed "$pangaea" vm kill two
expect 0 running "$pangaea" vm run two -k "$guests/pingpong" -c 'rounds=0' --vcpus a=1,b=1 --memory a=48M,b=48M
expect 0 "both run" "$pangaea" vm console two --until "both run" --timeout 20
expect 0 "two: on node b after" "$pangaea" vm consolidate two --to b
empty a
expect 0 "node      b" "$pangaea" vm info two
# Its devices are there now. It is spread again, goes where it has never been, and is spread from there.
expect 0 "1 slices joined" "$pangaea" vm spread two --vcpus a=1,b=1
soon 20 "slice 0   node b (lead), 1 vCPUs" "$pangaea" vm info two
soon 20 "two   b+a   running" "$pangaea" vm ls
expect 0 "two: on node b after" "$pangaea" node drain a
empty a
expect 0 "two: on node c after" "$pangaea" vm migrate two --to c --mode postcopy
empty b
expect 0 "1 slices joined" "$pangaea" vm spread two --vcpus a=1,c=1
"$pangaea" vm console two --until "memory" --timeout 20 <<<"" >"$dir/said" 2>&1 && ok "it goes on" || fail "$(tail -3 "$dir/said")"
expect 0 "two: on node a after" "$pangaea" vm consolidate two --to a
empty c
expect 0 "vCPU 1" "$pangaea" vm registers two
expect 0 killed "$pangaea" vm kill two
for n in a b c; do empty $n; done
for n in a b c; do stop_agent $n; done
exit $bad
