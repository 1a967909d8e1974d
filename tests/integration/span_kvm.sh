#!/bin/bash
# labels: kvm
# timeout: 180
# Guests that span several pangaea-vmm on this machine: memory, interrupts and devices go between them.
# shellcheck source=tests/integration/span_lib.bash
. "$(dirname "$0")/span_lib.bash"

guest 'hello from ring 3, n=42' hello n=42 1:32M 1:32M
guest 'hello from ring 3' hello '' 2:32M 1:48M 3:64M 1:16M
guest 'timer: PASS' timer '' 1:32M 1:32M
guest 'pingpong: PASS' pingpong rounds=100 1:32M 1:64M
guest 'dirty: PASS' dirty 'mib=48 seconds=1 rate=200' 1:32M 1:64M
guest 'atomics: PASS' atomics 'cpus=4 rounds=300' 1:32M 2:32M 1:32M
guest 'litmus: PASS' litmus 'rounds=40 x=40 y=72' 1:32M 1:32M 1:32M 1:32M
guest 'tsc: PASS' tsc rounds=100 1:32M 1:32M
guest 'remap: PASS' remap rounds=50 1:32M 1:32M
more=(--encrypt)
guest 'pingpong: PASS' pingpong rounds=50 1:32M 1:32M

# Who does not span pays nothing: no userfaultfd. (Only root may look at what a sandboxed process has open.)
more=()
uffds() { find "/proc/$1/fd" -lname '*userfaultfd*' | wc -l; }
forever='rounds=100000000'
slices pingpong $forever 1:32M 1:32M
wait_for 'both run'
if [ -r "/proc/${pids[0]}/fd" ]; then
  [ "$(uffds "${pids[0]}")" -gt 0 ] || { echo 'FAIL: a slice has no userfaultfd'; show; }
  vm 0 kill >/dev/null
  ended 30 || { echo 'FAIL: kill'; show; }
  rm -rf "$dir"/out.* "$dir"/err.* "$dir"/run.*
  mkdir "$dir/run.0"
  "$build/node/vmm/pangaea-vmm" --name one --vcpus 2 --memory 64M --run-dir "$dir/run.0" --kernel "$build/tests/guests/pingpong" \
    --cmdline $forever --console stdio </dev/null >"$dir/out.0" 2>"$dir/err.0" &
  pids=($!)
  wait_for 'both run'
  [ "$(uffds "${pids[0]}")" = 0 ] && echo 'ok: one host, no userfaultfd' || { echo 'FAIL: a userfaultfd on one host'; show; }
fi
vm 0 kill >/dev/null
ended 30 || { echo 'FAIL: kill'; show; }

exit $bad
