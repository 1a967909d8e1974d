#!/bin/bash
# labels: kvm
# timeout: 240
# vCPUs of guests that span several pangaea-vmm of this machine go from one to another while the guest
# runs: memory, interrupts, timers and device accesses are right before, meanwhile and after.
# shellcheck source=tests/integration/span_lib.bash
. "$(dirname "$0")/span_lib.bash"

# where VCPU: the slice that the lead says it is on.
where() { vm 0 stats | sed -n "s/^vcpu$1\.slice //p"; }

# moves N VCPU SLICE...: sends the vCPU N times round the slices; two times at least before the guest
# has ended.
moves() {
  local n=$1 vcpu=$2 i to said
  shift 2
  for ((i = 0; i < n; i++)); do
    to=${*:$((i % $# + 1)):1}
    said=$(vm 0 move "$vcpu" "$to" 2>&1 && where "$vcpu")
    [ "$said" = "$to" ] && continue
    [ $i -ge 2 ] && grep -q PASS "$dir/out.0" && return 0
    echo "FAIL: move $i of vCPU $vcpu to slice $to: '$said'"; show; return 1
  done
}

# over EXPECTED WHAT: the guest ends well and has said EXPECTED.
over() {
  if ended 90 && ! tr -d '0 ' <<<"$rcs" | grep -q . && grep -q "$1" "$dir/out.0"; then
    echo "ok: $2"
  else
    echo "FAIL: $2: exit codes $rcs, expected '$1'"; show
  fi
  rm -rf "$dir"/out.* "$dir"/err.* "$dir"/run.*
}

slices dirty 'mib=48 passes=60 rate=200' 1:32M 1:64M
wait_for 'MiB written' && moves 20 0 1 0
over 'dirty: PASS' 'the boot vCPU goes 20 times to and fro while its memory is checked'

# Each round needs an interrupt either way: one that is lost would be waited for without end.
slices pingpong 'rounds=4000' 1:32M 1:64M 1:32M
wait_for 'both run' && moves 12 1 2 0 1 && moves 12 0 1 2 0
over 'pingpong: PASS' 'two vCPUs wake each other while both go round three slices'

# One tick too few and it never ends; one too many, or too early, and it fails.
slices timer ticks=300 1:32M 1:32M
wait_for 'tick 1$' && moves 21 0 1 0
over 'timer: 300 deadlines' 'ticks of a vCPU that moves'

slices atomics 'cpus=4 rounds=6000' 1:32M 2:32M 1:32M
wait_for '4 CPUs' && moves 5 3 0 1 2 && moves 4 1 0 1
over 'atomics: PASS' 'four vCPUs count together while two of them move'

# refused WHAT WORDS...: the lead says no, and why.
refused() {
  local said
  said=$(vm 0 "${@:2}" 2>&1) && { echo "FAIL: not refused: ${*:2}"; bad=1; }
  grep -q "$1" <<<"$said" || { echo "FAIL: '$said' does not say '$1'"; bad=1; }
}

# The boot vCPU starts anew where it is.
slices timer ticks=100000 1:32M 1:32M
wait_for 'tick 1$' && moves 1 0 1
refused 'no vCPU 2' move 2 1
refused 'no slice 2' move 0 2
vm 1 move 0 0 2>&1 | grep -q 'only the first slice' || { echo "FAIL: a follower moves"; bad=1; }
vm 0 pause && refused 'while the VM is paused' move 0 0
vm 0 resume
vm 0 reset || bad=1
n=0
until [ "$(grep -c one-shot "$dir/out.0")" = 2 ] || [ $((n++)) -gt 300 ]; do read -rt 0.1 <> <(:); done
[ "$(where 0)" = 1 ] && [ $n -le 300 ] || { echo "FAIL: after the reset"; show; }
moves 1 0 0
vm 0 kill
over 'tick' 'refusals, pause and reset'

exit $bad
