#!/bin/bash
# labels: kvm
# timeout: 420
# vCPUs of guests that span several pangaea-vmm of this machine go from one to another while the guest
# runs: memory, interrupts, timers and device accesses are right before, meanwhile and after.
# shellcheck source=tests/integration/span_lib.bash
. "$(dirname "$0")/span_lib.bash"

# where VCPU: the slice that the lead says it is on.
where() { vm 0 stats | sed -n "s/^vcpu$1\.slice //p"; }

# moves N VCPU SLICE...: sends the vCPU N times round the slices; two times at least before a guest
# has ended that ends by itself.
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

slices dirty 'mib=48 passes=40 rate=200' 1:32M 1:64M
wait_for 'MiB written' && moves 20 0 1 0
over 'dirty: PASS' 'the boot vCPU goes 20 times to and fro while its memory is checked'

# Each round needs an interrupt either way: one that is lost would be waited for without end.
# Both ways, through memory and by interrupts, last until a key is pressed.
mkfifo "$dir/keys"
input=$dir/keys
slices pingpong rounds=0 1:32M 1:64M 1:32M
wait_for 'both run' && moves 12 1 2 0 1 && echo >"$dir/keys"
wait_for 'memory' && moves 12 0 1 2 0 && echo >"$dir/keys"
over 'pingpong: PASS' 'two vCPUs wake each other while both go round three slices'

# One tick too few and it never ends; one too many, or too early, and it fails.
slices timer ticks=300 1:32M 1:32M
wait_for 'tick 1$' && moves 21 0 1 0
over 'timer: 300 deadlines' 'ticks of a vCPU that moves'

slices atomics 'cpus=4 rounds=0' 1:32M 2:32M 1:32M
wait_for '4 CPUs' && moves 5 3 0 1 2 && moves 4 1 0 1
echo >"$dir/keys"
input=/dev/null
over 'atomics: PASS' 'four vCPUs count together while two of them move'

# refused WHAT WORDS...: the lead says no, and why.
refused() {
  local said
  said=$(vm 0 "${@:2}" 2>&1) && { echo "FAIL: not refused: ${*:2}"; bad=1; }
  grep -q "$1" <<<"$said" || { echo "FAIL: '$said' does not say '$1'"; bad=1; }
}

# left SLICE: its process has ended well by itself.
left() { wait "${pids[$1]}" || { echo "FAIL: slice $1 has not left well"; show; }; }

# A slice is emptied into another, which is emptied in turn: all of the guest is on slice 0 in the end.
slices dirty 'mib=80 passes=70 rate=400' 1:32M 1:48M 1:32M
wait_for 'MiB written' && moves 1 0 1
vm 0 empty 1 2 && left 1 || { echo "FAIL: slice 1 does not leave"; show; }
vm 0 places | grep -q 'part1.home 2' || { echo "FAIL: part 1 is not at home on slice 2"; show; }
refused 'no slice 1' move 0 1
refused 'slice 0 has the devices' empty 0 2
refused 'no such slice' empty 3 0
refused 'no such slice' empty 2 1
vm 0 pause >/dev/null && vm 0 resume >/dev/null
vm 0 empty 2 0 40000 && left 2 || { echo "FAIL: slice 2 does not leave"; show; }
[ "$(vm 0 places | grep -c '\(slice\|home\) 0$')" = 6 ] || { echo "FAIL: not all is on slice 0"; vm 0 places; bad=1; }
vm 0 places | grep -q 'empty.pages_total [1-9]' || { echo "FAIL: no pages were moved"; bad=1; }
over 'dirty: PASS' 'two of three slices leave while all memory is checked'

slices pingpong 'rounds=20000' 1:32M 1:64M
wait_for 'both run'
vm 0 empty 1 0 && left 1 && vm 0 reset || { echo "FAIL: no reset on one slice"; show; }
over 'pingpong: PASS' 'a guest that is left on one slice starts anew there'

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
