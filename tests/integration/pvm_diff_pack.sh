#!/bin/bash
# labels: integration pvm
# timeout: 240
# beside: yes
# Message buffers call by call: the same random calls with PVM 3.4.6 and with ours give the same
# transcript. The original needs its daemon, which runs here with a directory of its own.
set -u
here=$(cd "$(dirname "$0")/.." && pwd)
build=${PANGAEA_BUILD:-$here/../build/release}
seeds=${PVM_DIFF_SEEDS:-3000}
if ! [ -x /usr/lib/pvm3/lib/pvmd ] || ! [ -e /usr/lib/x86_64-linux-gnu/libpvm3.so.3 ]; then
  echo "Debian's pvm and libpvm3 are not installed"; exit 77
fi
work=$(mktemp -d)
daemon='' mine=''
stop() { [ -n "$daemon" ] && kill "$daemon" 2>/dev/null; [ -n "$mine" ] && kill "$mine" 2>/dev/null; wait 2>/dev/null; rm -rf "$work"; }
trap 'case $BASHPID in $$) stop ;; esac' EXIT
cc=${CC:-cc}
"$cc" -O1 -I"$here/../pvm/include" "$here/pvm/diff_pack.c" -o "$work/ours" -L"$build/pvm" -lpvm3 -Wl,-rpath,"$build/pvm" &&
"$cc" -O1 -I"$here/../pvm/include" "$here/pvm/diff_pack.c" -o "$work/real" -l:libpvm3.so.3 || exit 1
export PVM_ROOT=/usr/lib/pvm3 PVM_ARCH=LINUX64 PVM_TMP=$work PVM_ALLOW_ROOT=1
/usr/lib/pvm3/lib/pvmd >"$work/pvmd.out" 2>&1 </dev/null &
daemon=$!
timeout 20 sh -c "until ls $work/pvmd.[0-9]* >/dev/null 2>&1; do sleep 0.05; done" || { echo "the original's daemon did not start"; cat "$work/pvmd.out"; exit 1; }
"$build/pvm/pvmd3" >"$work/mine.out" 2>&1 </dev/null &
mine=$!
timeout 20 sh -c "until grep -q sock $work/mine.out; do sleep 0.05; done" || { echo "our daemon did not start"; cat "$work/mine.out"; exit 1; }
bad=0 same=0
for ((i = 1; i <= seeds; i += 50)); do
  # A few seeds bring the original itself down: those say nothing.
  timeout 30 "$work/real" $i 50 >"$work/real.txt" 2>/dev/null || { echo "the original fails in seeds $i..$((i + 49))"; continue; }
  timeout 30 "$work/ours" $i 50 >"$work/ours.txt" 2>"$work/ours.err" || { echo "ours fails in seeds $i..$((i + 49)): $(head -3 "$work/ours.err")"; bad=1; continue; }
  if cmp -s "$work/real.txt" "$work/ours.txt"; then same=$((same + 50)); else
    bad=1; echo "seeds $i..$((i + 49)) differ:"; diff -U6 "$work/real.txt" "$work/ours.txt" | head -30; fi
done
echo "$same seeds agree"
[ $same -gt 0 ] || { echo "nothing was compared"; exit 1; }
exit $bad
