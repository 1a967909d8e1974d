#!/bin/bash
# labels: integration pvm
# timeout: 240
# beside: yes
# Debian's programs for PVM, as packaged, with our library and daemon: tablix2 (spawns kernels that
# work on a timetable), NetPIPE (a pair of tasks started by hand) and S-Lang's pvm module (a master
# that spawns scripts).
set -u
here=$(cd "$(dirname "$0")/.." && pwd)
build=${PANGAEA_BUILD:-$here/../build/release}/pvm
[ -x "$build/pvmgs" ] || { echo "not built"; exit 77; }
work=$(mktemp -d)
export PVM_ARCH=LINUX64 PVM_ALLOW_ROOT=1 HOME=$work PVM_ROOT=$work PVM_TMP=$work PVM_DPATH=$build/pvmd3
export PVM_PATH=$work:$build:/usr/bin LD_LIBRARY_PATH=$build
pair=
stop() {
  [ -n "$pair" ] && kill "$pair" 2>/dev/null
  echo halt | timeout 10 "$build/pvm" >/dev/null 2>&1
  rm -rf "$work"
}
trap 'case $BASHPID in $$) stop ;; esac' EXIT
ran=0 bad=0
have() { [ -e "$1" ] || { echo "skipped: $1 is not installed"; return 1; }; }
ours() { # PROGRAM: its libpvm3 is ours
  ldd "$1" | grep -q "libpvm3.so.3 => $build/" || { echo "$1 does not use our library"; bad=1; }
}
fail() { echo "FAILED: $1"; tail -n 15 "$2"; bad=1; }

tablix() {
  ours /usr/bin/tablix2 && ours /usr/bin/tablix2_kernel
  if (cd "$work" && timeout 90 tablix2 -n 3 -t 1 -o tt. "$here/pvm/timetable.xml" </dev/null >tablix.out 2>&1) &&
     python3 "$here/pvm/timetable_check.py" "$work"/tt.result*.xml >>"$work/tablix.out" 2>&1; then
    echo "tablix2: $(tail -1 "$work/tablix.out")"
  else
    fail "tablix2" "$work/tablix.out"
  fi
}

# The first waits for the second, which finds it in the list of tasks.
netpipe() {
  ours /usr/bin/NPpvm
  (cd "$work" && exec timeout 60 NPpvm -u 65536 -n 20 >np1.out 2>&1) &
  pair=$!
  timeout 10 sh -c "until echo 'ps -ax' | '$build/pvm' | grep -q ' -  '; do sleep 0.1; done" || fail "the first NPpvm is no task" "$work/np1.out"
  (cd "$work" && timeout 60 NPpvm -h "$(hostname)" -u 65536 -n 20 -o np.data >np2.out 2>&1) || fail "the second NPpvm" "$work/np2.out"
  wait $pair || fail "the first NPpvm" "$work/np1.out"
  pair=
  grep -q '65536 bytes  *20 times' "$work/np2.out" || fail "NPpvm did not come to 65536 bytes" "$work/np2.out"
  echo "NPpvm: $(wc -l <"$work/np.data") sizes up to $(tail -1 "$work/np.data" | awk '{print $1}') bytes"
}

slang() {
  local n
  cp /usr/share/doc/slang-pvm/examples/{master,slave} "$work" && chmod +x "$work"/{master,slave}
  (cd "$work" && timeout 60 slsh ./master "expr 40 + 2" 3 </dev/null >slang.out 2>&1) || fail "slsh" "$work/slang.out"
  n=$(grep -c '^42$' "$work/slang.out")
  [ "$n" = 3 ] || fail "slsh: $n of 3 slaves answered" "$work/slang.out"
  echo "slsh: $n slaves answered"
}

timeout 20 "$build/pvm" </dev/null >"$work/first" 2>&1 || { cat "$work/first"; exit 1; }
have /usr/bin/tablix2 && { ran=$((ran + 1)); tablix; }
have /usr/bin/NPpvm && { ran=$((ran + 1)); netpipe; }
have /usr/bin/slsh && have /usr/share/doc/slang-pvm/examples/master && { ran=$((ran + 1)); slang; }
[ $ran -gt 0 ] || exit 77
exit $bad
