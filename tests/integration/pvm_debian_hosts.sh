#!/bin/bash
# labels: root pvm
# timeout: 240
# Debian's programs for PVM as packaged on two and then three hosts: pvm-examples with PVM 3.4.6 and with our
# library, daemon and console, the same exit codes and, where the output does not depend on time, the same lines
# (joinleave, for which the original takes up to half a minute, only in pvm_examples.sh); the answers to calls about
# tasks, groups and entries of others (tests/pvm/diff_tasks.c); then tablix2, NetPIPE between two hosts and S-Lang's
# module with ours.
# shellcheck source=tests/integration/pvm_net_lib.bash
. "$(dirname "$0")/pvm_net_lib.bash" 10.91.12
# shellcheck source=tests/integration/pvm_debian_lib.bash
. "$(dirname "$0")/pvm_debian_lib.bash"
if ! [ -x /usr/bin/gexample ] || ! [ -x /usr/lib/pvm3/lib/pvmd ]; then echo "Debian's pvm and pvm-examples are not installed"; exit 77; fi
real=(env PVMHOSTS_DIR="$W/rn" PVMHOSTS_NET=10.91.13 PVMHOSTS_ENV= PVM_PATH=/usr/lib/pvm3/lib:/usr/bin)
# shellcheck disable=SC2034
ours=(env PVM_ROOT="$W" PVM_PATH="$B/pvm:/usr/bin" PVMHOSTS_ENV="PVM_DPATH=$B/pvm/pvmd3 LD_LIBRARY_PATH=$B/pvm" PVMD="$B/pvm/pvmd3" PVMCON="$B/pvm/pvm")
declare -A console_of=([real]=/usr/bin/pvm [ours]=$B/pvm/pvm)
trap 'case $BASHPID in $$) "${real[@]}" "$S" down >/dev/null 2>&1; "$S" down >/dev/null 2>&1; rm -rf "$W" ;; esac' EXIT
mkdir "$W/real" "$W/ours"
cd "$W" || exit 1
"${CC:-cc}" -O1 -I"$PANGAEA_SOURCE/pvm/include" "$PANGAEA_SOURCE/tests/pvm/diff_tasks.c" -o tasks -l:libgpvm3.so.3 -l:libpvm3.so.3 || exit 1
on() { local -n env=$1; timeout 90 "${env[@]}" "$S" run "${@:2}"; } # WHICH HOST COMMAND
say() { on "$1" 1 sh -c "printf '%b' '$2' | ${console_of[$1]}" 2>&1; } # WHICH COMMANDS
both() { "$1" real "${@:2}" & local theirs=$!; "$1" ours "${@:2}"; wait $theirs; }

alone() { # WHICH NAME [ARGUMENT]...
  { yes "$input" 2>/dev/null | head -20 | on "$1" 1 "/usr/bin/$2" "${@:3}" 2>&1; echo "exit ${PIPESTATUS[2]}"; } >"$W/$1/$2"
  say "$1" 'reset\n' >/dev/null
}
# One of a group on each host, started by hand.
members() { # WHICH NAME HOST...
  local h pids=() rc=0
  rm -f "$W/$1/$2".[0-9]
  for h in "${@:3}"; do on "$1" "$h" "/usr/bin/$2" >"$W/$1/$2.$h" 2>&1 </dev/null & pids+=($!); done
  for h in "${pids[@]}"; do wait "$h" || rc=$?; done
  { sed -E 's/myinst is [0-9]+/myinst is N/' "$W/$1/$2".[0-9]; echo "exit $rc"; } >"$W/$1/$2"
  say "$1" 'reset\n' >/dev/null
}
# Six of them, their output caught; those of one host stand together.
spawned() { # WHICH NAME FLAGS
  on "$1" 1 "$W/tasks" spawn 6 "$3" "" "$2" >"$W/$1/$2" 2>&1
  say "$1" 'reset\n' >/dev/null
}
together() { # NAME
  [ "$(sed -n 's/^spawn: 6, //p' "$W/ours/$1" | tr ' ' '\n' | cut -c-2 | uniq | wc -l)" = "$hosts" ] || fail "siblings of a host are not together: $(cat "$W/ours/$1")"
}
answers() { on "$1" 1 "$W/tasks" "${@:2}" >"$W/$1/answers" 2>&1; } # WHICH ARGUMENTS
# Entries that stay, made on the last host, seen on the first and taken out on the second.
mailbox() { # WHICH HOSTS
  local name
  { on "$1" "$2" lmbi 3 mp e; on "$1" 1 gmbi; } >"$W/$1/mailbox" 2>&1
  name=$(grep -oE 't[0-9a-f]+lmbi1' "$W/$1/mailbox" | head -1)
  { on "$1" 2 rme "$name" 0; on "$1" 1 gmbi; } 2>&1 | grep -v pvmgs >>"$W/$1/mailbox"
  say "$1" 'reset\n' >/dev/null
}
bad=0
compare() { # NAME
  n=$((n + 1))
  diff <(debian_norm "$W/real/$1") <(debian_norm "$W/ours/$1") >"$W/diff" || { bad=$((bad + 1)); echo "== $1 on $hosts hosts"; head -20 "$W/diff"; }
}
examples() {
  local p n=0
  for p in fgexample fmaster1 frsg gexamp gexample hello.pvm inherit1 inherit2 inherit3 master1 hitc timing \
           tjf tjl trsg "inherita inherit1" "inheritb inherit2" "ge 6" "gs.pvm 6" "thb 4" "tst 4"; do
    [ -x "/usr/bin/${p% *}" ] || continue
    case $p in master1|fmaster1) input=3 ;; *) input=4 ;; esac
    # shellcheck disable=SC2086
    both alone $p
    compare "${p% *}"
  done
  for p in dbwtest ibwtest rbwtest pbwtest; do both members $p 1 "$hosts"; compare $p; done
  for p in spmd fspmd; do
    for f in 0 64; do both spawned $p $f; compare $p; together $p; done
  done
  both mailbox "$hosts"; compare mailbox
  for p in $(seq $hosts); do
    cat "$W"/ours/* | grep -aqE "\b(t|0x)?$(printf %x $((p * 0x40000)) | cut -c-1)[0-9a-f]{4}\b" || fail "no example had a task on h$p"
  done
  echo "$n programs on $hosts hosts, $bad differ"
}
# Calls whose answers must be the same word for word.
calls() {
  local p lines=0
  for p in mailbox "calls 1" "calls 2" "calls 3" "calls 4" "calls 5" "calls 6"; do
    # shellcheck disable=SC2086
    both answers $p
    diff "$W/real/answers" "$W/ours/answers" >"$W/diff" || { bad=$((bad + 1)); echo "== answers to $p on $hosts hosts"; head -20 "$W/diff"; }
    lines=$((lines + $(wc -l <"$W/ours/answers")))
    for f in real ours; do say $f 'reset\n' >/dev/null; done
  done
  [ $lines -gt 500 ] || fail "only $lines answers"
  echo "$lines answers on $hosts hosts compared"
}
# The number of the next task of a host says how many there have been.
started() { say ours "spawn -1 -h$1 -> /bin/true\nquit\n" | sed -nE 's/^t([0-9a-f]+)$/\1/p' | tail -1; }
tablix() {
  local h before=()
  for h in $(seq $hosts); do before[h]=$((0x$(started "$h"))); done
  rm -f "$W"/tt.*
  if ! on ours 1 tablix2 -n $((2 * hosts)) -t 1 -o tt. "$PANGAEA_SOURCE/tests/pvm/timetable.xml" >"$W/o" 2>&1 </dev/null ||
    ! python3 "$PANGAEA_SOURCE/tests/pvm/timetable_check.py" "$W"/tt.result*.xml >>"$W/o" 2>&1; then fail "tablix2: $(cat "$W/o")"; fi
  for h in $(seq $hosts); do [ $((0x$(started "$h"))) -gt $((before[h] + 1)) ] || fail "tablix2 had no kernel on h$h"; done
  echo "tablix2 with kernels on $hosts hosts: $(tail -1 "$W/o")"
}
slang() {
  cp /usr/share/doc/slang-pvm/examples/{master,slave} "$W" && chmod +x "$W"/{master,slave}
  on ours 1 slsh ./master "expr 40 + 2" $((2 * hosts)) >"$W/o" 2>&1 </dev/null || fail "slsh: $(cat "$W/o")"
  [ "$(grep -c '^42$' "$W/o")" = $((2 * hosts)) ] || fail "slsh: not all slaves answered: $(cat "$W/o")"
  [ "$(grep -oE 'spawned on h[0-9]' "$W/o" | sort -u | wc -l)" = "$hosts" ] || fail "slsh: not on all hosts: $(cat "$W/o")"
  echo "slsh: $((2 * hosts)) slaves on $hosts hosts answered"
}
# The second finds the first in the list of tasks.
netpipe() {
  say ours 'reset\n' >/dev/null
  on ours 1 NPpvm -u 1048576 -n 20 >"$W/np1" 2>&1 </dev/null & local pair=$!
  timeout 10 sh -c "until '$S' run 1 sh -c 'echo ps -ax | $B/pvm/pvm' | grep -q ' -  '; do sleep 0.05; done" || fail "the first NPpvm is no task: $(cat "$W/np1")"
  on ours 2 NPpvm -h h1 -u 1048576 -n 20 -o "$W/np.data" >"$W/np2" 2>&1 </dev/null || fail "the second NPpvm: $(cat "$W/np2")"
  wait $pair || fail "the first NPpvm: $(cat "$W/np1")"
  grep -q '1048576 bytes  *20 times' "$W/np2" || fail "NPpvm did not come to 1 MiB: $(cat "$W/np2")"
  echo "NPpvm between two hosts: $(wc -l <"$W/np.data") sizes up to $(tail -1 "$W/np.data" | awk '{print $1}') bytes"
}

for w in real ours; do declare -n e=$w; "${e[@]}" "$S" up 3 2 >"$W/o" 2>&1; grep -q '^2 hosts' "$W/o" || fail "two hosts ($w): $(cat "$W/o")"; done
for hosts in 2 3; do
  examples
  calls
  [ -x /usr/bin/tablix2 ] && tablix
  [ -e /usr/share/doc/slang-pvm/examples/master ] && slang
  [ $hosts = 2 ] || break
  [ -x /usr/bin/NPpvm ] && netpipe
  for w in real ours; do say $w 'add h3\nconf\n' | grep -q '^3 hosts' || fail "h3 does not join ($w)"; done
done
[ $bad = 0 ]
