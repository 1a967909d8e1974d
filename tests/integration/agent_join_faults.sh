#!/bin/bash
# labels: agent kvm
# timeout: 240
# Joins that break, with agents: the new slice is killed, its agent, the lead's agent, the guest; requests that
# a join excludes. Afterwards the guest runs on node a as before or the slice is a member, nothing is left
# elsewhere, and the next 'vm spread' works.
. "$(dirname "$0")/agent_lib.bash"
. "$(dirname "$0")/migrate_lib.bash"
needs_guest dirty
. "$(dirname "$0")/hold_lib.bash"
hold_with span_hold.c "$vmm"
mkfifo "$dir/go"
: >"$dir/hold"
cat >"$dir/vmm-a" <<W
#!/bin/sh
LD_PRELOAD="$preload" SPAN_HOLD="$dir/hold" SPAN_GO="$dir/go" exec "$vmm" "\$@"
W
# A slice that is late stands before it begins.
cat >"$dir/vmm-b" <<W
#!/bin/sh
[ -e "$dir/late" ] && kill -STOP \$\$
exec "$vmm" "\$@"
W
chmod +x "$dir/vmm-a" "$dir/vmm-b"
start_node() { start_agent "$1" --vmm "$dir/vmm-$1"; }
agents_see() {
  local n
  for n in a b; do
    timeout 30 bash -c 'until [ "$("$1" node ls --agent "$2" 2>/dev/null | grep -c " up ")" = 2 ]; do read -rt 0.1 <> <(:); done; :' _ "$pangaea" $n \
      || fail "$n does not see all"
  done
}

logged() { [ "$(grep -c 'slice 1 is there' "$dir/run-a/vm/big/log")" -gt "$before" ]; }
# spreads [HELD]: has a slice join on node b; HELD: the lead's process stands once its links are there.
spreads() {
  before=$(grep -c 'slice 1 is there' "$dir/run-a/vm/big/log")
  [ -z "${1:-}" ] || echo 'slice 1 is there' >"$dir/hold"
  "$pangaea" vm spread big --vcpus a=1,b=1 --agent a </dev/null >"$dir/said" 2>&1 & job=$!
  [ -z "${1:-}" ] || wait_until 20 logged || fail "no slice comes: $(cat "$dir/said")"
  : >"$dir/hold"
}
go() { echo -n . >"$dir/go"; }
# said CODE TEXT: how the spread ended.
said() {
  local rc
  wait "$job"; rc=$?
  [ $rc = "$1" ] && grep -qF -- "$2" "$dir/said" && ok "spread: $rc, $2" || fail "spread: exit code $rc instead of $1, expected '$2' in: $(cat "$dir/said")"
}
empty() {
  timeout 20 bash -c 'until [ -z "$(ls "$1")" ]; do read -rt 0.1 <> <(:); done; :' _ "$dir/run-$1/vm" \
    && ok "nothing is left at $1" || fail "left at $1: $(ls "$dir/run-$1/vm")"
}
as_before() {
  empty b
  soon 20 "slice 1   has left node b" "$pangaea" vm info big
  soon 20 "big   a     running" "$pangaea" vm ls
  right
}
right() {
  expect 0 "MiB written" "$pangaea" vm console big --until "MiB written" --timeout 20
  ! grep -aq FAIL "$dir/run-a/vm/big/log" || fail "its memory is wrong"
}
is_member() {
  soon 20 "slice 1   node b, 1 vCPUs, 48M, running" "$pangaea" vm info big
  right
  expect 0 "big: on node a after" "$pangaea" vm consolidate big --to a
  empty b
}
# STATE: of the new slice's process.
is_state() { grep -q "^State:[[:space:]]*$1" "/proc/$(pid_of b big)/status"; } 2>/dev/null

make_cluster a b
start_node a; start_node b
agents_see
expect 0 running "$pangaea" vm run big -k "$guests/dirty" -c 'mib=64 rate=100' --together --vcpus a=1,b=1 --memory a=48M,b=48M
right

# It is to come, and does not yet.
touch "$dir/late"
spreads
wait_until 20 is_state T || fail "no slice is started"
busy() { "$pangaea" vm pause big 2>&1 | grep -q 'a slice is joining'; }
wait_until 20 busy || fail "a pause while a slice joins"
expect 9 "is being moved already" "$pangaea" vm spread big --vcpus a=1,b=1
expect 9 "is being moved already" "$pangaea" vm consolidate big --to a
expect 9 "a slice is joining" "$pangaea" vm reset big
expect 9 "a slice is joining" "$pangaea" vm checkpoint big "$dir/big.ckpt"
"$pangaea" vm migrate big --to b >"$dir/migrate" 2>&1 && fail "it migrates while a slice joins" || ok "no migration: $(tail -n 1 "$dir/migrate")"
kill -9 "$(pid_of b big)"
said 1 "node b: its process was ended by signal 9"
expect 0 "state     running: not spread: node b: its process was ended by signal 9" "$pangaea" vm info big
as_before

# The same, and the guest ends.
expect 0 running "$pangaea" vm run two -k "$guests/dirty" -c 'mib=16 rate=100' --together --vcpus a=1,b=1 --memory a=32M,b=32M --overcommit
"$pangaea" vm spread two --vcpus a=1,b=1 --overcommit --agent a </dev/null >"$dir/said" 2>&1 & job=$!
is_stopped() { grep -q '^State:[[:space:]]*T' "/proc/$(pid_of b two)/status" 2>/dev/null; }
wait_until 20 is_stopped || fail "no slice is started"
expect 0 killed "$pangaea" vm kill two
said 1 "the guest has ended"
empty b
rm "$dir/late"

# It is killed when its links are there; its agent, which then finds it again, goes first.
spreads held
stop_agent b KILL
start_node b
wait_event "found" big --agent b
kill -9 "$(pid_of b big)"
go
said 1 "it has gone again"
agents_see
as_before

# Its agent is killed: it joins all the same.
spreads held
stop_agent b KILL
go
said 0 "1 slices joined"
start_node b
wait_event "found" big --agent b
agents_see
is_member

# The lead's agent is killed, and so is the slice, or not.
for what in slice nothing; do
  spreads held
  stop_agent a KILL
  [ $what = nothing ] || kill -9 "$(pid_of b big)"
  go
  wait "$job" && fail "the spread is done without an agent"
  start_node a
  wait_event "found" big --agent a
  agents_see
  if [ $what = slice ]; then as_before; else
    soon 20 "slice 1   node b, 0 vCPUs, 48M, running" "$pangaea" vm info big
    expect 0 "1 vCPUs moved" "$pangaea" vm spread big --vcpus a=1,b=1
    is_member
  fi
done

# And as if nothing had been.
expect 0 "1 slices joined" "$pangaea" vm spread big --vcpus a=1,b=1
is_member
expect 0 killed "$pangaea" vm kill big
for n in a b; do empty $n; done
show_logs
for n in a b; do stop_agent $n; done
exit $bad
