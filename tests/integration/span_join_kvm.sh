#!/bin/bash
# labels: kvm
# timeout: 240
# Slices of guests that span several pangaea-vmm of this machine leave and others join in their place
# while the guest runs, takes interrupts and checks its memory.
# shellcheck source=tests/integration/span_lib.bash
. "$(dirname "$0")/span_lib.bash"

generation=0

# over EXPECTED WHAT: the guest ends well and has said EXPECTED.
over() {
  if ended 90 && ! tr -d '0 ' <<<"$rcs" | grep -q . && grep -q "$1" "$dir/out.0"; then
    echo "ok: $2"
  else
    echo "FAIL: $2: exit codes $rcs, expected '$1'"; show
  fi
  rm -rf "$dir"/out.* "$dir"/err.* "$dir"/run.*
}

# starts K HOMES:PLACES PEER...: the process of a slice that is to join; its port is in $port.
starts() {
  local k=$1 joins=$2 p args
  shift 2
  generation=$((generation + 1))
  group=$(printf '%016x' $((0x1000 + generation)))
  port=$(ports 1)
  args=(--name "slice$k" --slice "$k" --group "$group" --key-file "$dir/key" --run-dir "$dir/run.$k" --joins "$joins")
  for p in "${parts[@]}"; do args+=(--part "$p"); done
  for p in "$@"; do [ "$p" = self ] && p=127.0.0.1:$port; args+=(--peer "$p"); done
  rm -rf "$dir/run.$k"; mkdir -p "$dir/run.$k"
  "$build/node/vmm/pangaea-vmm" "${args[@]}" "${more[@]}" </dev/null >"$dir/out.$k" 2>"$dir/err.$k" &
  pids[k]=$!
}

# joins K ...: the same, and it becomes a member.
joins() {
  starts "$@"
  vm 0 join "$1" "127.0.0.1:$port" "$group" && return 0
  echo "FAIL: slice $1 does not join"; show; return 1
}

# left SLICE: its process has ended well by itself.
left() { wait "${pids[$1]}" || { echo "FAIL: slice $1 has not left well"; show; }; }
at() { vm 0 places | grep -qx "$1" || { echo "FAIL: not '$1': $(vm 0 places | paste -sd' ')"; show; }; }
begin() { # GUEST CMDLINE PART...
  read -ra list <<<"$(ports $(($# - 2)))"
  parts=("${@:3}")
  port_list=${list[*]} slices "$@"
  address=(); for p in "${list[@]}"; do address+=("127.0.0.1:$p"); done
}

# All on one slice, spread again, and once more: memory is ordinary in between.
mkfifo "$dir/keys"
input=$dir/keys
begin dirty 'mib=64 rate=300' 1:48M 1:48M
wait_for 'MiB written'
for round in 1 2; do
  vm 0 empty 1 0 && left 1 || { echo "FAIL: slice 1 does not leave"; show; }
  at 'ordinary 1'
  joins 1 '0,0:0,0' "${address[0]}" self
  at 'ordinary 0'; at 'slice1.gone 0'; at 'part1.home 1'
  vm 0 move 0 1 && at 'vcpu0.slice 1' || { echo "FAIL: no vCPU moves to it"; show; }
  vm 0 move 0 0 && vm 0 move 1 0 && vm 0 move 1 1 || { echo "FAIL: no vCPU moves from it"; show; }
  read -rt 1 <> <(:)
done
vm 0 pause && vm 0 resume || { echo "FAIL: it does not stand and go"; show; }
vm 0 save "$dir/saved" >/dev/null || { echo "FAIL: it cannot be saved"; show; }
[ -s "$dir/saved" ] || { echo "FAIL: nothing is saved"; bad=1; }
grep -q FAIL "$dir/out.0" && { echo "FAIL: its memory is wrong"; show; }
vm 0 kill >/dev/null
over 'MiB written' 'a guest over two slices: on one, and on two again, twice'

exit $bad
