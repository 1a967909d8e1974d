#!/bin/bash
# labels: kvm
# timeout: 120
# The real gdb on a bare-metal guest: threads, registers, memory, steps in ring 0, detach; the guest
# then runs to its end. Breakpoints in ring 3 are not tried: not every KVM that emulates ring 0 has
# them.
set -u
build=${PANGAEA_BUILD:?}
[ -r /dev/kvm ] && [ -w /dev/kvm ] || { echo "no /dev/kvm"; exit 77; }
command -v gdb >/dev/null || { echo "no gdb"; exit 77; }
dir=$(mktemp -d) || exit 1
vm=
trap 'case $BASHPID in $$) [ -z "$vm" ] || kill "$vm" 2>/dev/null; rm -rf "$dir" ;; esac' EXIT

# The port is free or it is not: another one then.
for _ in 1 2 3 4 5; do
  port=$((20000 + RANDOM % 10000))
  "$build/node/vmm/pangaea-vmm" --name test-gdb --kernel "$build/tests/guests/hello" --vcpus 2 \
    --memory 64M --cmdline n=42 --console stdio --paused --gdb $port </dev/null \
    >"$dir/out" 2>"$dir/err" &
  vm=$!
  for _ in $(seq 100); do
    grep -q ":$(printf %04X $port) .* 0A " /proc/net/tcp && break 2
    kill -0 "$vm" 2>/dev/null || break
    sleep 0.05
  done
  kill "$vm" 2>/dev/null
  wait "$vm"
  vm=
done
[ -n "$vm" ] || { echo "FAIL: no gdb server"; cat "$dir/err"; exit 1; }

timeout 40 gdb -nx -batch -ex 'set confirm off' -ex 'set architecture i386:x86-64' \
  -ex "target remote 127.0.0.1:$port" -ex 'info threads' -ex 'thread 1' \
  -ex 'printf "start %#lx\n", $rip' -ex 'x/4xb 0x100000' \
  -ex 'stepi' -ex 'printf "first %#lx\n", $rip' -ex 'stepi' -ex 'printf "second %#lx\n", $rip' \
  -ex 'detach' "$build/tests/guests/hello" </dev/null >"$dir/gdb" 2>&1
wait "$vm"
rc=$?
vm=
bad=0
check() { # WHAT COMMAND...
  local what=$1
  shift
  if "$@"; then echo "ok: $what"; else echo "FAIL: $what"; bad=1; fi
}
at() { sed -n "s/^$1 //p" "$dir/gdb"; }
check "two threads" [ "$(grep -c '^[* ] *[12] *Thread' "$dir/gdb")" = 2 ]
check "starts at the kernel's entry" grep -q '^start 0x100' "$dir/gdb"
bytes=$(objdump -s --start-address=0x100000 --stop-address=0x100004 "$build/tests/guests/hello" |
  sed -n 's/^ 100000 \([0-9a-f]*\).*/\1/p')
got=$(sed -n '/^0x100000/s/.*:\s*//p' "$dir/gdb" | sed 's/0x//g; s/\s//g')
check "memory is the kernel's ($bytes)" [ -n "$bytes" ] && [ "$bytes" = "$got" ]
places=$(printf '%s\n' "$(at start)" "$(at first)" "$(at second)" | grep -c '^0x1[0-9a-f]*$')
check "stops three times" [ "$places" = 3 ]
check "a step in ring 0 moves on" [ "$(at start)" != "$(at first)" ]
check "so does the next" [ "$(at first)" != "$(at second)" ]
check "the guest ends by itself" [ $rc = 0 ]
check "the guest ran on" grep -q 'hello from ring 3, n=42' "$dir/out"
echo "not tested: breakpoints in ring 3, which a KVM without VT-x or SVM does not report"
[ $bad = 0 ] || cat "$dir/gdb" "$dir/out" "$dir/err"
exit $bad
