#!/bin/bash
# labels: integration pvm
# timeout: 120
# beside: yes
# Calls of a task (tests/pvm/diff_calls.c) with PVM 3.4.6 and with ours: the same answers, waiting where
# the original waits.
set -u
here=$(cd "$(dirname "$0")/.." && pwd)
build=${PANGAEA_BUILD:-$here/../build/release}/pvm
if ! [ -x /usr/lib/pvm3/lib/pvmd ] || ! [ -e /usr/lib/x86_64-linux-gnu/libpvm3.so.3 ]; then
  echo "Debian's pvm and libpvm3 are not installed"; exit 77
fi
work=$(mktemp -d)
mkdir "$work/rtmp" "$work/otmp"
export PVM_ARCH=LINUX64 PVM_ALLOW_ROOT=1 HOME=$work
real=(env PVM_ROOT=/usr/lib/pvm3 PVM_TMP="$work/rtmp")
ours=(env PVM_ROOT="$work" PVM_TMP="$work/otmp" PVM_PATH="$build:/usr/bin" PVM_DPATH="$build/pvmd3" LD_LIBRARY_PATH="$build")
stop() {
  echo halt | "${real[@]}" timeout 10 /usr/bin/pvm >/dev/null 2>&1
  echo halt | "${ours[@]}" timeout 10 "$build/pvm" >/dev/null 2>&1
  rm -rf "$work"
}
trap 'case $BASHPID in $$) stop ;; esac' EXIT
"${CC:-cc}" -O1 -I"$here/../pvm/include" "$here/pvm/diff_calls.c" -o "$work/calls" -l:libpvm3.so.3 || exit 1
"${real[@]}" timeout 20 /usr/bin/pvm </dev/null >/dev/null 2>&1 || { echo "the original does not start"; exit 1; }
"${ours[@]}" timeout 20 "$build/pvm" </dev/null >/dev/null 2>&1 || { echo "ours does not start"; exit 1; }
calls() {
  timeout 20 "$@" "$work/calls"; echo "exit $?"
  for tid in -1 -2 -23 0 0x7fffffff 0x40000 0x40fff0 0xc0001; do
    for tag in -1 -2 -23 5; do
      echo "tid $tid tag $tag"
      timeout 5 "$@" "$work/calls" "$tid" "$tag" 0; timeout 5 "$@" "$work/calls" "$tid" "$tag" 1
    done
  done
}
calls "${real[@]}" >"$work/real" 2>&1
calls "${ours[@]}" >"$work/ours" 2>&1
[ "$(wc -l <"$work/real")" -gt 400 ] || { echo "the original says too little:"; tail "$work/real"; exit 1; }
diff "$work/real" "$work/ours" || exit 1
echo "$(wc -l <"$work/ours") answers agree"
