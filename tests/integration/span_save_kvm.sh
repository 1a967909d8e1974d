#!/bin/bash
# labels: kvm
# timeout: 600
# Guests that span several pangaea-vmm of this machine are saved at one instant of all slices, go on, and
# start again from the file, in the same parts or in others. Damaged files are refused.
# shellcheck source=tests/integration/span_lib.bash
. "$(dirname "$0")/span_lib.bash"
patience=100

# live FILE: it says more while nobody takes what is written; then FILE gets it.
live() {
  local said n=0
  mkfifo "$dir/pipe"
  sleep infinity <>"$dir/pipe" & local holder=$!
  vm 0 save-live "$dir/pipe" & local saver=$!
  said=$(wc -l <"$dir/out.0")
  until [ "$(wc -l <"$dir/out.0")" -ge $((said + 2)) ] || [ $((n++)) -gt 300 ]; do read -rt 0.1 <> <(:); done
  [ "$(wc -l <"$dir/out.0")" -ge $((said + 2)) ] || { echo "FAIL: $1: the guest stands while it is saved"; show; }
  kill -0 $saver 2>/dev/null || { echo "FAIL: $1 is saved too early to tell"; show; }
  cat "$dir/pipe" >"$dir/$1" & local reader=$!
  wait $saver || { echo "FAIL: $1 is not saved"; show; }
  kill $holder
  wait $holder $reader
  rm "$dir/pipe"
}
save() { vm 0 save "$dir/$1" || { echo "FAIL: $1 is not saved"; show; }; }
press='' # restored guests wait for a key
# restored FILE EXPECTED GUEST PART...
restored() {
  local n=0
  lead=(--restore "$dir/$1")
  slices "$3" '' "${@:4}"
  lead=()
  if [ -n "$press" ]; then
    until vm 0 status 2>/dev/null | grep -q running || [ $((n++)) -gt 300 ]; do read -rt 0.1 <> <(:); done
    echo >"$input"
  fi
  over "$2" "$1 goes on in ${*:4}"
}

slices dirty 'mib=48 passes=16 rate=200' 1:32M 1:64M
wait_for 'MiB written' && save dirty
over 'dirty: PASS' 'a guest that is saved goes on'
restored dirty 'dirty: PASS' dirty 1:32M 1:64M
restored dirty 'dirty: PASS' dirty 1:64M 1:32M
# An interrupt that is lost would be waited for without end. Each guest is told when it is enough.
mkfifo "$dir/keys"
input=$dir/keys press=1
slices pingpong rounds=0 1:32M 1:64M 1:32M
wait_for 'both run' && echo >"$input" && wait_for 'memory' && save pingpong
echo >"$input"
over 'pingpong: PASS' 'two vCPUs wake each other after the save'
restored pingpong 'pingpong: PASS' pingpong 1:64M 1:32M 1:32M
restored pingpong 'pingpong: PASS' pingpong 2:64M 1:64M
input=/dev/null press=''

slices timer ticks=200 1:32M 1:32M
wait_for 'tick 1$' && save timer
over 'timer: 200 deadlines' 'ticks after the save'
restored timer 'timer: 200 deadlines' timer 1:32M 1:32M

# A key ends these guests. counted FILE PART...: what counts says nothing until then.
mkfifo "$dir/keys"
stop() { wait_for "$1" && echo >"$dir/keys"; over "${@:2}"; }
counted() {
  local n=0
  lead=(--restore "$dir/$1")
  slices atomics '' "${@:2}"
  lead=()
  until vm 0 status 2>/dev/null | grep -q running || [ $((n++)) -gt 300 ]; do read -rt 0.1 <> <(:); done
  echo >"$dir/keys"
  over 'atomics: PASS' "$1 goes on in ${*:2}"
}
input=$dir/keys

# With vCPUs that are not where they began.
slices atomics 'cpus=4 rounds=0' 1:32M 2:32M 1:32M
wait_for '4 CPUs' && vm 0 move 3 0 && vm 0 move 1 2 && save atomics && vm 0 move 3 1
stop '4 CPUs' 'atomics: PASS' 'four vCPUs count together after the save'
counted atomics 1:32M 2:32M 1:32M
counted atomics 3:48M 1:48M

# While it runs, with the writer on the lead, on another slice, and on all.
# live_restored FILE PART...
live_restored() {
  lead=(--restore "$dir/$1")
  slices dirty '' "${@:2}"
  lead=()
  stop 'MiB written' 'dirty: PASS' "$1 goes on in ${*:2}"
}
slices dirty 'mib=48 rate=100 keys=1' 1:32M 1:64M
wait_for 'MiB written' && live live
stop 'MiB written' 'dirty: PASS' 'a guest that is saved while it runs goes on'
live_restored live 1:32M 1:64M
slices dirty 'mib=48 rate=100 keys=1' 1:32M 1:64M
wait_for 'MiB written' && vm 0 move 0 1 && live far
stop 'MiB written' 'dirty: PASS' 'and so does one that writes elsewhere'
live_restored far 1:48M 1:48M
slices atomics 'cpus=4 rounds=0' 1:32M 2:32M 1:32M
wait_for '4 CPUs' && { vm 0 save-live "$dir/all" || { echo "FAIL: all is not saved"; show; }; }
stop '4 CPUs' 'atomics: PASS' 'four vCPUs that count together do, too'
counted all 1:32M 2:32M 1:32M
input=/dev/null

# It may be saved again, and what was paused stays so.
slices timer ticks=100000 1:32M 1:32M
wait_for 'tick 1$' && vm 0 pause && save again && save again && vm 0 status | grep -q paused && vm 0 resume && vm 0 reset ||
  { echo "FAIL: saved while paused"; show; }
vm 0 kill
over 'tick' 'saved twice while paused, and reset'

# refused FILE TEXT PART...: no slice is left.
refused() {
  lead=(--restore "$dir/$1")
  slices dirty '' "${@:3}"
  lead=()
  if ended 60 && ! grep -q '\b0' <<<"$rcs" && grep -q "$2" "$dir/err.0"; then
    echo "ok: $1 in ${*:3}: $2"
  else
    echo "FAIL: $1 in ${*:3}: exit codes $rcs, expected '$2'"; show
  fi
  rm -rf "$dir"/out.* "$dir"/err.* "$dir"/run.*
}
size=$(stat -c %s "$dir/dirty")
# flip FILE OFFSET
flip() {
  cp "$dir/dirty" "$dir/$1"
  printf "\\x$(printf %x $(($(od -An -tu1 -j"$2" -N1 "$dir/dirty") ^ 1)))" | dd of="$dir/$1" bs=1 seek="$2" conv=notrunc status=none
}
flip memory $((size / 2))
flip vcpu $((size - 3000))
head -c $((size - 100)) "$dir/dirty" >"$dir/cut"
refused memory 'damaged or cut off' 1:32M 1:64M
refused vcpu 'damaged or cut off' 1:32M 1:64M
refused cut 'damaged or cut off' 1:32M 1:64M
refused dirty 'has 2 vCPUs and 96 MiB' 1:32M 1:32M
refused dirty 'has 2 vCPUs and 96 MiB' 1:32M 2:64M

# Killed meanwhile: all end well.
slices dirty 'mib=48 rate=200' 1:32M 1:64M
wait_for 'MiB written'
kill -STOP "${pids[1]}"
vm 0 save "$dir/never" >/dev/null 2>&1 & saver=$!
read -rt 0.2 <> <(:)
kill -CONT "${pids[1]}"
vm 0 kill
wait $saver
over 'MiB written' 'a guest that is killed while it is saved'

# A slice that dies meanwhile: no file is said to be whole, and nothing is left.
slices dirty 'mib=48 rate=200' 1:32M 1:64M
wait_for 'MiB written'
vm 0 pause
kill -STOP "${pids[1]}"
vm 0 save "$dir/never" >/dev/null 2>&1 & saver=$!
n=0 # it is paused, so this changes nothing before the save begins
until vm 0 pause 2>&1 | grep -q 'being saved' || [ $((n++)) -gt 200 ]; do read -rt 0.05 <> <(:); done
kill -9 "${pids[1]}"
wait $saver && { echo "FAIL: saved without a slice"; bad=1; }
ended 30 || { echo "FAIL: the lead has not ended"; bad=1; }
grep -q 'lost slice 1' "$dir/err.0" && echo "ok: a slice that dies while the guest is saved" || { echo "FAIL: no word of it"; show; }

exit $bad
