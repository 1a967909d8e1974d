#!/bin/bash
# labels: kvm
# timeout: 180
# Guests that span several pangaea-vmm on this machine: memory, interrupts and devices go between them.
set -u
build=${PANGAEA_BUILD:?}
{ [ -r /dev/kvm ] && [ -w /dev/kvm ]; } || { echo "no /dev/kvm"; exit 77; }
dir=$(mktemp -d) || exit 1
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$dir"' EXIT
head -c 32 /dev/urandom >"$dir/key"
bad=0

# A free port each: bound by nobody now; the group keeps strangers out.
ports() {
  python3 -c "
import socket
s = [socket.socket() for _ in range($1)]
for x in s: x.bind(('127.0.0.1', 0))
print(*[x.getsockname()[1] for x in s])"
}

# slices GUEST CMDLINE PART...: starts all; fills pids[] and the files of $dir.
slices() {
  local guest=$1 cmdline=$2 k=0 port
  shift 2
  local args=(--group 0123456789abcdef --key-file "$dir/key")
  for port in $(ports $#); do
    args+=(--part "$1" --peer "127.0.0.1:$port")
    shift
  done
  local n=$(( (${#args[@]} - 4) / 4 ))
  pids=()
  for ((k = n - 1; k >= 0; k--)); do
    local own=()
    [ $k = 0 ] && own=(--kernel "$build/tests/guests/$guest" --cmdline "$cmdline" --console stdio)
    timeout 60 "$build/node/vmm/pangaea-vmm" --name "slice$k" --slice $k "${args[@]}" "${own[@]}" "${more[@]}" \
      </dev/null >"$dir/out.$k" 2>"$dir/err.$k" &
    pids[k]=$!
  done
}
more=()

show() { tail -n 20 "$dir"/out.* "$dir"/err.*; bad=1; }

# guest EXPECTED GUEST CMDLINE PART...: every slice ends well, and the guest says EXPECTED.
guest() {
  local expected=$1 what="${*:2}" rc=0 pid
  shift
  slices "$@"
  for pid in "${pids[@]}"; do wait "$pid" || rc=$?; done
  if [ $rc = 0 ] && grep -q "$expected" "$dir/out.0"; then
    echo "ok: $what"
  else
    echo "FAIL: $what: exit code $rc, expected '$expected'"; show
  fi
  rm -f "$dir"/out.* "$dir"/err.*
}

guest 'hello from ring 3, n=42' hello n=42 1:32M 1:32M
guest 'hello from ring 3' hello '' 2:32M 1:48M 3:64M 1:16M
guest 'timer: PASS' timer '' 1:32M 1:32M
guest 'pingpong: PASS' pingpong rounds=100 1:32M 1:64M
guest 'dirty: PASS' dirty 'mib=48 seconds=1 rate=200' 1:32M 1:64M
more=(--encrypt)
guest 'pingpong: PASS' pingpong rounds=50 1:32M 1:32M
more=()

# One slice is killed: the other ends by itself and says which one it lost.
slices pingpong rounds=100000000 1:32M 1:32M
until grep -q 'both run' "$dir/out.0" 2>/dev/null || ! kill -0 "${pids[0]}" 2>/dev/null; do read -rt 0.1 <> <(:); done
kill -9 "$(pgrep -P "${pids[1]}")"
start=$SECONDS
wait "${pids[0]}"; rc=$?
wait "${pids[1]}"
if [ $rc = 1 ] && grep -q 'slice 0 lost slice 1' "$dir/err.0" && [ $((SECONDS - start)) -le 13 ]; then
  echo "ok: a killed slice ends the guest in $((SECONDS - start)) s"
else
  echo "FAIL: a killed slice: exit code $rc after $((SECONDS - start)) s"; show
fi

exit $bad
