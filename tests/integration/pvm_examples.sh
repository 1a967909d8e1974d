#!/bin/bash
# labels: integration pvm
# timeout: 280
# Debian's pvm-examples as packaged, first with PVM 3.4.6, then with our library, daemon and console:
# the same exit codes and, where the output does not depend on time, the same lines. Programs that
# wait for partners are started as often as their group has members; the slaves run by their masters.
# Left out: mhf_server and mhf_tickle (print the insides of the library), tnb (has no
# master), srm.pvm (a resource manager that never ends), mtile and xep (need a display).
set -u
# shellcheck source=tests/integration/pvm_debian_lib.bash
. "$(dirname "$0")/pvm_debian_lib.bash"
here=$(cd "$(dirname "$0")/.." && pwd)
build=${PANGAEA_BUILD:-$here/../build/release}/pvm
if ! [ -x /usr/bin/gexample ] || ! [ -x /usr/lib/pvm3/lib/pvmd ]; then
  echo "Debian's pvm and pvm-examples are not installed"; exit 77
fi
[ -x "$build/pvmgs" ] || { echo "not built"; exit 77; }
work=$(mktemp -d)
mkdir "$work/real" "$work/ours" "$work/realtmp" "$work/ourtmp"
export PVM_ARCH=LINUX64 PVM_ALLOW_ROOT=1 HOME=$work
real=(env PVM_ROOT=/usr/lib/pvm3 PVM_TMP="$work/realtmp" PVM_PATH=/usr/lib/pvm3/lib:/usr/bin)
ours=(env PVM_ROOT="$work" PVM_TMP="$work/ourtmp" PVM_PATH="$build:/usr/bin" PVM_DPATH="$build/pvmd3" LD_LIBRARY_PATH="$build")
stop() {
  echo halt | "${real[@]}" timeout 10 /usr/bin/pvm >/dev/null 2>&1
  echo halt | "${ours[@]}" timeout 10 "$build/pvm" >/dev/null 2>&1
  rm -rf "$work"
}
trap 'case $BASHPID in $$) stop ;; esac' EXIT
"${real[@]}" timeout 20 /usr/bin/pvm </dev/null >/dev/null 2>&1 || { echo "the original does not start"; exit 1; }
"${ours[@]}" timeout 20 "$build/pvm" </dev/null >/dev/null 2>&1 || { echo "ours does not start"; exit 1; }
# The original takes 3 to over 20 s for joinleave where a core that sleeps is slow to wake; its time is not tested.
declare -A patience=([ours]=20 [real]=90)
run() { # WHICH NAME
  local -n env=$1; local con=/usr/bin/pvm; [ "$1" = ours ] && con=$build/pvm
  ( cd "$work" && yes "${input:-2}" 2>/dev/null | head -20 | "${env[@]}" timeout "${patience[$1]}" "/usr/bin/$2" >"$work/$1/$2" 2>&1; echo "exit ${PIPESTATUS[2]}" >>"$work/$1/$2" )
  echo reset | "${env[@]}" timeout 10 "$con" >/dev/null 2>&1
}
# Two or more of a group, each started by hand.
members() { # WHICH NAME COUNT
  local -n env=$1; local con=/usr/bin/pvm i rc=0 pids=(); [ "$1" = ours ] && con=$build/pvm
  for ((i = 0; i < $3; i++)); do "${env[@]}" timeout "${patience[$1]}" "/usr/bin/$2" >"$work/$1/$2.$i" 2>&1 </dev/null & pids+=($!); done
  for i in "${pids[@]}"; do wait "$i" || rc=$?; done
  { sed -E 's/myinst is [0-9]+/myinst is N/' "$work/$1/$2".[0-9]*; echo "exit $rc"; } >"$work/$1/$2"
  echo reset | "${env[@]}" timeout 10 "$con" >/dev/null 2>&1
}
compare() { # NAME
  n=$((n + 1))
  diff <(debian_norm "$work/real/$1") <(debian_norm "$work/ours/$1") >"$work/diff" || { bad=$((bad + 1)); echo "== $1"; head -12 "$work/diff"; }
}
bad=0 n=0
for p in fgexample fmaster1 frsg fspmd ge gexamp gexample gmbi gs.pvm hello.pvm hello_other inherit1 inherit2 inherit3 \
         inherita inheritb lmbi master1 rme spmd task0 task1 task_end thb \
         hitc timing joinleave tjf tjl trsg tst; do
  [ -x "/usr/bin/$p" ] || continue
  case $p in master1|fmaster1|spmd|fspmd) input=3 ;; *) input=2 ;; esac
  run real $p; run ours $p
  compare $p
done
for p in dbwtest ibwtest rbwtest pbwtest; do
  [ -x "/usr/bin/$p" ] || continue
  members real $p 2; members ours $p 2
  compare $p
done
echo "$n programs, $bad differ"
[ $n -gt 0 ] && [ $bad = 0 ]
