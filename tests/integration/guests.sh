#!/bin/bash
# labels: kvm
# timeout: 120
# The bare-metal test guests under pangaea-vmm, on this machine's KVM.
set -u
build=${PANGAEA_BUILD:?}
[ -r /dev/kvm ] && [ -w /dev/kvm ] || { echo "no /dev/kvm"; exit 77; }
out=$(mktemp) || exit 1
trap 'case $BASHPID in $$) rm -f "$out" ;; esac' EXIT
bad=0

guest() { # NAME VCPUS MEMORY CMDLINE EXPECTED
  timeout 40 "$build/node/vmm/pangaea-vmm" --name "test-$1" --kernel "$build/tests/guests/$1" \
    --vcpus "$2" --memory "$3" --cmdline "$4" --console stdio </dev/null >"$out" 2>"$out.err"
  local rc=$?
  if [ $rc = 0 ] && grep -q "$5" "$out"; then
    echo "ok: $1, $2 vCPUs, $3"
  else
    echo "FAIL: $1 ($2 vCPUs, $3): exit code $rc, expected '$5'"
    cat "$out" "$out.err"; bad=1
  fi
  rm -f "$out.err"
}

guest hello 1 64M 'n=42' 'hello from ring 3, n=42'
guest hello 64 64M '' 'hello from ring 3'
guest hello 2 6G '' 'hello from ring 3'
guest timer 1 64M '' 'timer: PASS'
guest pingpong 2 128M 'rounds=200' 'pingpong: PASS'
guest dirty 1 64M 'mib=16 seconds=1 rate=200' 'dirty: PASS'
guest exits 1 64M 'rounds=2000' 'exits: PASS'

# A triple fault resets the machine; the third at once ends it.
timeout 40 "$build/node/vmm/pangaea-vmm" --name test-triple --kernel "$build/tests/guests/triplefault" \
  --vcpus 2 --memory 64M --console stdio </dev/null >"$out" 2>"$out.err"
rc=$?
boots=$(grep -ac booted "$out")
if [ $rc != 0 ] && [ $rc -lt 124 ] && [ "$boots" = 3 ] && grep -aq 'triple fault' "$out.err"; then
  echo "ok: triplefault, $boots boots, exit code $rc"
else
  echo "FAIL: triplefault: exit code $rc after $boots boots, expected 3"
  cat "$out" "$out.err"; bad=1
fi
rm -f "$out.err"
# A name that no interface has is refused, not made.
timeout 40 "$build/node/vmm/pangaea-vmm" --name test-tap --kernel "$build/tests/guests/hello" \
  --vcpus 1 --memory 64M --nic tap=pgnone0 --console stdio </dev/null >"$out" 2>&1
rc=$?
if [ $rc != 0 ] && [ $rc -lt 124 ] && grep -q 'pgnone0.*No such device' "$out" &&
  [ ! -e /sys/class/net/pgnone0 ]; then
  echo "ok: no interface, exit code $rc"
else
  echo "FAIL: --nic tap=pgnone0: exit code $rc"
  cat "$out"; bad=1
fi
exit $bad
