#!/bin/bash
# labels: kvm
# timeout: 240
# Joins that come to nothing: the new slice dies or stands at each step, a link to it never comes, the join is
# taken back, the guest ends, a member or the lead dies. Until the commit (span_join.c) the guest goes on as
# before and the next join works; nothing hangs, and who asked is told why.
# shellcheck source=tests/integration/span_lib.bash
. "$(dirname "$0")/span_lib.bash"
# shellcheck source=tests/integration/span_join_lib.bash
. "$(dirname "$0")/span_join_lib.bash"
. "$(dirname "$0")/hold_lib.bash"
hold_with span_hold.c "$build/node/vmm/pangaea-vmm"
mkfifo "$dir/go"
: >"$dir/hold"
lead_env=(LD_PRELOAD="$preload" SPAN_HOLD="$dir/hold" SPAN_GO="$dir/go")

# asks K [PORT]: has the lead take it in, in the background; what it says goes to $dir/said.
asks() { vm 0 join "$1" "127.0.0.1:${2:-$port}" "$group" >"$dir/said" 2>&1 & asked=$!; }
# asks_held K WORDS: the same; the lead now stands where it logs these.
asks_held() {
  local n=0 before
  before=$(grep -c "$2" "$dir/err.0")
  echo "$2" >"$dir/hold"
  asks "$1"
  until [ "$(grep -c "$2" "$dir/err.0")" -gt "$before" ]; do
    [ $((n++)) -lt 300 ] || { echo "FAIL: the lead does not come to '$2'"; show; break; }
    read -rt 0.1 <> <(:)
  done
  : >"$dir/hold"
}
go() { echo -n . >"$dir/go"; }
# in_vain WORDS WHAT: the join is refused with these words.
in_vain() {
  if ! wait "$asked" && grep -q "$1" "$dir/said"; then echo "ok: $2: $(cat "$dir/said")"; else echo "FAIL: $2: $(cat "$dir/said")"; show; fi
}
# goes_on: it writes more than it has, and reads what it wrote.
goes_on() {
  local n=0 before
  before=$(grep -c 'MiB written' "$dir/out.0")
  until [ "$(grep -c 'MiB written' "$dir/out.0")" -gt "$before" ]; do
    [ $((n++)) -lt 200 ] || { echo "FAIL: the guest does not go on"; show; return 1; }
    read -rt 0.1 <> <(:)
  done
  ! grep -q FAIL "$dir/out.0" || { echo "FAIL: its memory is wrong"; show; }
}
# ends K: a slice that is not taken in ends by itself, and not well.
ends() {
  local n=0
  while kill -0 "${pids[$1]}" 2>/dev/null && [ $((n++)) -lt 200 ]; do read -rt 0.1 <> <(:); done
  [ $n -lt 200 ] || { echo "FAIL: slice $1 does not end"; kill -9 "${pids[$1]}"; show; }
  wait "${pids[$1]}" && { echo "FAIL: slice $1 is content"; show; }
}
# joining K: until the lead has it join.
joining() {
  local n=0
  until vm 0 move 0 "$1" 2>&1 | grep -q 'a slice is joining'; do
    [ $((n++)) -lt 200 ] || { echo "FAIL: no slice is joining"; show; return; }
    read -rt 0.05 <> <(:)
  done
}
dies() { kill -9 "${pids[$1]}"; wait "${pids[$1]}" 2>/dev/null; }

# A member dies, and in another guest the lead: all end, and who asked is told.
perish() { # K WHAT PORT...
  dir=$dir/perish$1
  mkdir "$dir"
  cp "${dir%/*}/key" "$dir"
  lead_env=() own_ports="$3 $4 $5" own_port=$6
  begin dirty 'mib=48 rate=20' 1:32M 1:32M 1:32M
  wait_for 'MiB written' || return 1
  vm 0 empty 2 0 && left 2 || { echo "FAIL: slice 2 does not leave"; show; return 1; }
  starts 2 '0,1,0:0,1,0' "${address[0]}" "127.0.0.1:9" self
  asks 2
  joining 2
  : >"${dir%/*}/joins$1"
  dies "$1"
  if ! wait "$asked" && ended 30; then
    echo "ok: $2: $(tail -n 1 "$dir/said"); all have ended after $took s"
  else
    echo "FAIL: $2: $(cat "$dir/said"), exit codes $rcs"; show
  fi
  return $bad
}
read -ra free <<<"$(ports 8)"
perish 1 'a member dies while a slice joins' "${free[@]:0:4}" & first=$!
perish 0 'the lead dies while a slice joins' "${free[@]:4}" & second=$!
# All their ports are taken from then on.
n=0
until [ -e "$dir/joins1" ] && [ -e "$dir/joins0" ]; do
  [ $((n++)) -lt 300 ] || { echo "FAIL: guests in which a slice joins"; bad=1; break; }
  read -rt 0.1 <> <(:)
done

# The lead was alone, and is again: its memory is ordinary before and after.
begin dirty 'mib=64 rate=100' 1:48M 1:48M
wait_for 'MiB written' || exit 1
vm 0 empty 1 0 && left 1 || { echo "FAIL: slice 1 does not leave"; show; }
at 'ordinary 1'
group=0000000000000abc asks 1 9
joining 1
for what in pause reset "save $dir/saved" 'empty 1 0'; do refused 'a slice is joining' $what; done
vm 0 join-cancel 1 || { echo "FAIL: it is not taken back"; show; }
in_vain 'its node has given it up' 'a join that is taken back'
refused 'slice 1 is not joining' join-cancel 1
at 'slice1.gone 1' 'ordinary 1' && goes_on
starts 1 '0,0:0,0' "${address[0]}" self
asks_held 1 'slice 1 is there'
dies 1
goes_on # who has gone again is not waited for by the guest
go
in_vain 'it has gone again' 'the new slice dies once its links are there'
at 'slice1.gone 1' 'ordinary 1' && goes_on
starts 1 '0,0:0,0' "${address[0]}" self
asks_held 1 'all stand until slice 1'
dies 1
go
in_vain 'it has gone again' 'the new slice dies while all stand'
at 'slice1.gone 1' 'ordinary 1' && goes_on
joins 1 '0,0:0,0' "${address[0]}" self
at 'slice1.gone 0' 'part1.home 1' && moves 0 1 && goes_on
vm 0 kill >/dev/null
over 'MiB written' 'the next one joins'

# Of three, with a link of the new one to the other member that never comes.
begin dirty 'mib=48 rate=50' 1:32M 1:32M 1:32M
wait_for 'MiB written' || exit 1
vm 0 empty 2 0 && left 2 || { echo "FAIL: slice 2 does not leave"; show; }
starts 2 '0,1,0:0,1,0' "${address[0]}" "127.0.0.1:9" self
asks 2
goes_on
in_vain 'no link to it' 'the new slice does not reach a member'
ends 2
at 'slice2.gone 1' && goes_on
late=()
for words in 'slice 2 is there' 'all stand until slice 2'; do
  starts 2 '0,1,0:0,1,0' "${address[0]}" "${address[1]}" self
  asks_held 2 "$words"
  kill -STOP "${pids[2]}"
  go
  in_vain 'it has gone again' "the new slice stands from '$words' on"
  kill -CONT "${pids[2]}"
  late+=("${pids[2]}")
  at 'slice2.gone 1' && goes_on
done
joins 2 '0,1,0:0,1,0' "${address[0]}" "${address[1]}" self
at 'part2.home 2' && moves 1 2 && goes_on

# The guest ends while a slice is to join.
vm 0 empty 2 0 && left 2 || { echo "FAIL: slice 2 does not leave"; show; }
starts 2 '0,1,0:0,1,0' "${address[0]}" "127.0.0.1:9" self
asks 2
joining 2
vm 0 kill >/dev/null
in_vain 'the guest has ended' 'the guest is killed while a slice joins'
dies 2
unset 'pids[2]'
over 'MiB written' 'and ends well'

# A guest that resets itself while a slice joins, and when it is a member.
mkfifo "$dir/keys"
input=$dir/keys
begin triplefault keys=1 1:32M 1:32M
input=/dev/null
boots() { # N: it has done so N times
  local n=0
  until [ "$(grep -c booted "$dir/out.0")" = "$1" ]; do
    [ $((n++)) -lt 200 ] || { echo "FAIL: the guest does not boot"; show; return 1; }
    read -rt 0.1 <> <(:)
  done
}
boots 1
vm 0 empty 1 0 && left 1 || { echo "FAIL: slice 1 does not leave"; show; }
starts 1 '0,0:0,0' "${address[0]}" self
kill -STOP "${pids[1]}"
asks 1
joining 1
echo >"$dir/keys"
boots 2
kill -CONT "${pids[1]}"
wait "$asked" || { echo "FAIL: slice 1 does not join: $(cat "$dir/said")"; show; }
at 'slice1.gone 0' 'part1.home 1' && moves 0 1
echo >"$dir/keys"
boots 3
vm 0 kill >/dev/null
over booted 'a guest that resets itself while a slice joins'

# Those that stood meanwhile have had their time to see it.
n=0
while kill -0 "${late[@]}" 2>/dev/null && [ $((n++)) -lt 200 ]; do read -rt 0.1 <> <(:); done
[ $n -lt 200 ] && echo "ok: they have ended" || { echo "FAIL: slices that have not joined do not end"; kill -9 "${late[@]}"; bad=1; }
wait $first || bad=1
wait $second || bad=1
exit $bad
