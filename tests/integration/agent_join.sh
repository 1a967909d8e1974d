#!/bin/bash
# labels: agent kvm
# timeout: 200
# A guest over two of four agents on loopback comes together on one node and is spread again: on the node
# where it was, on one where it never was, after its agents have been killed, and where a node cannot.
. "$(dirname "$0")/agent_lib.bash"
needs_guest dirty

# right: its memory is, as it says again and again.
right() {
  "$pangaea" vm console big --until "no such text" --timeout 1 </dev/null >"$dir/said" 2>&1
  grep -q 'MiB written' "$dir/said" && ! grep -q FAIL "$dir/said" && ok "its memory is right" || fail "$(tail -3 "$dir/said")"
}

# empty NODE: its slices and VMs end and leave no folder.
empty() {
  timeout 20 bash -c 'until [ -z "$(ls "$1")" ]; do read -rt 0.1 <> <(:); done; :' _ "$dir/run-$1/vm" \
    && ok "nothing is left at $1" || fail "left at $1: $(ls "$dir/run-$1/vm")"
}

# all_see_all: each agent has a link to each other.
all_see_all() {
  local n
  for n in a b c d; do
    timeout 30 bash -c 'until [ "$("$1" node ls --agent "$2" 2>/dev/null | grep -c " up ")" = 4 ]; do read -rt 0.1 <> <(:); done; :' _ "$pangaea" $n \
      || fail "$n does not see all"
  done
}

make_cluster a b c d
start_agent a; start_agent b; start_agent d
start_agent c --vmm /bin/false # it takes part, but no slice starts there
all_see_all

expect 0 running "$pangaea" vm run big -k "$guests/dirty" -c 'mib=64 rate=100' --vcpus a=1,b=1 --memory a=48M,b=48M
expect 0 "MiB written" "$pangaea" vm console big --until "MiB written" --timeout 20
expect 2 "none can join: none of its 2 has left" "$pangaea" vm spread big --vcpus a=1,c=1
expect 0 "big: on node a after" "$pangaea" vm consolidate big --to a
empty b
expect 2 "the cluster has no such node" "$pangaea" vm spread big --vcpus a=1,e=1
expect 0 "big: 0 vCPUs moved" "$pangaea" vm spread big --vcpus a=2,b=0

# A node that cannot: the guest does not notice.
expect 1 "big: node c" "$pangaea" vm spread big --vcpus a=1,c=1
empty c
soon 20 "slice 1   has left node b" "$pangaea" vm info big
soon 20 "big   a     running" "$pangaea" vm ls
right

# Where it was, and all of it once more.
for _ in 1 2; do
  expect 0 "1 slices joined" "$pangaea" vm spread big --vcpus a=1,b=1 --agent b
  soon 20 "slice 1   node b, 1 vCPUs, 48M, running" "$pangaea" vm info big --agent b
  soon 20 "big   a+b   running" "$pangaea" vm ls
  right
  expect 0 "big: on node a after" "$pangaea" vm consolidate big --to a
  empty b
done

# Where it never was; after its agents have been killed, which find it again.
stop_agent c
start_agent c
all_see_all
expect 0 "2 vCPUs moved" "$pangaea" vm spread big --vcpus a=0,c=2
soon 20 "slice 1   node c, 2 vCPUs, 48M, running" "$pangaea" vm info big
for n in a c; do stop_agent $n KILL; done
for n in a c; do start_agent $n; wait_event "found" big --agent $n; done
all_see_all
soon 20 "slice 1   node c, 2 vCPUs, 48M, running" "$pangaea" vm info big
soon 20 "big   a+c   running" "$pangaea" vm ls
right
expect 0 "" "$pangaea" vm checkpoint big "$dir/big.ckpt"
expect 0 "2 vCPUs moved" "$pangaea" vm spread big --vcpus a=2,c=0

# A slice that has joined ends with the guest, and the guest with a slice.
read -r pid _ <"$dir/run-c/vm/big/pid"
kill -9 "$pid"
soon 20 "failed" "$pangaea" events big
for n in a b c; do empty $n; done
expect 0 running "$pangaea" vm restore "$dir/big.ckpt" --node a
soon 20 "big   a+c   running" "$pangaea" vm ls
expect 0 killed "$pangaea" vm kill big
for n in a b c; do empty $n; done

# One that begins on one node alone.
expect 2 "say over which nodes" "$pangaea" vm run big -k "$guests/pingpong" -m 64M --together --node a
expect 8 "$(($(nproc) + 1)) vCPUs are beyond that" "$pangaea" vm run big -k "$guests/pingpong" --together --vcpus a=$(($(nproc) - 1)),b=2 --memory a=48M,b=48M
expect 0 running "$pangaea" vm run big -k "$guests/pingpong" -c 'rounds=0' --together --vcpus a=1,b=1 --memory a=48M,b=48M
soon 20 "big   a     running" "$pangaea" vm ls
empty b
expect 0 "both run" "$pangaea" vm console big --until "both run" --timeout 20
expect 0 "1 slices joined" "$pangaea" vm spread big --vcpus a=1,c=1
soon 20 "big   a+c   running" "$pangaea" vm ls
"$pangaea" vm console big --until "memory" --timeout 20 <<<"" >"$dir/said" 2>&1 && ok "it goes on" || fail "$(tail -3 "$dir/said")"
expect 0 killed "$pangaea" vm kill big
for n in a b c; do empty $n; done

# The other followers' agents know where a slice has gone; one that was not there asks when it comes.
expect 0 running "$pangaea" vm run big -k "$guests/pingpong" -c 'rounds=0' --vcpus a=1,b=1,c=1 --memory a=48M,b=48M,c=48M
expect 0 "big: on node a after" "$pangaea" node drain c
expect 0 "1 slices joined" "$pangaea" vm spread big --vcpus a=1,b=1,d=1 --overcommit
soon 20 "a=1,b=1,d=1" cat "$dir/run-b/vm/big/vm.yaml"
expect 0 "big: on node a after" "$pangaea" node drain d --overcommit
stop_agent b KILL
expect 0 "1 slices joined" "$pangaea" vm spread big --vcpus a=2,b=0,c=1 --overcommit
start_agent b
soon 20 "a=1,b=1,c=1" cat "$dir/run-b/vm/big/vm.yaml"
all_see_all
expect 0 killed "$pangaea" vm kill big
for n in a b c d; do empty $n; done
for n in a b c d; do stop_agent $n; done
exit $bad
