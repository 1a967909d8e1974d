#!/bin/bash
# labels: integration pvm
# timeout: 120
# A tracer (tests/pvm/tracer.c) hears of the calls of a task (tests/pvm/traced.c): the same events with the
# same data under PVM 3.4.6 and under ours, alone, buffered, and as totals; and so does one that registered.
set -u
here=$(cd "$(dirname "$0")/.." && pwd)
build=${PANGAEA_BUILD:-$here/../build/release}/pvm
if ! [ -x /usr/lib/pvm3/lib/pvmd ] || ! [ -e /usr/lib/x86_64-linux-gnu/libgpvm3.so.3 ]; then
  echo "Debian's pvm and libpvm3 are not installed"; exit 77
fi
work=$(mktemp -d)
mkdir -p "$work/rtmp" "$work/otmp" "$work/pvm3/bin/LINUX64"
ln -s /usr/lib/pvm3/lib/pvmgs "$work/pvm3/bin/LINUX64/pvmgs"
export PVM_ARCH=LINUX64 PVM_ALLOW_ROOT=1 HOME=$work
real=(env PVM_ROOT=/usr/lib/pvm3 PVM_TMP="$work/rtmp")
ours=(env PVM_ROOT="$work" PVM_TMP="$work/otmp" PVM_PATH="$build:/usr/bin" PVM_DPATH="$build/pvmd3" LD_LIBRARY_PATH="$build")
stop() {
  echo halt | "${real[@]}" timeout 10 /usr/bin/pvm >/dev/null 2>&1
  echo halt | "${ours[@]}" timeout 10 "$build/pvm" >/dev/null 2>&1
  rm -rf "$work"
}
trap 'case $BASHPID in $$) stop ;; esac' EXIT
for p in tracer traced; do
  "${CC:-cc}" -O1 -I"$here/../pvm/include" "$here/pvm/$p.c" -o "$work/$p" -l:libgpvm3.so.3 -l:libpvm3.so.3 || exit 1
done
"${real[@]}" timeout 20 /usr/bin/pvm </dev/null >/dev/null 2>&1 || { echo "the original does not start"; exit 1; }
"${ours[@]}" timeout 20 "$build/pvm" </dev/null >/dev/null 2>&1 || { echo "ours does not start"; exit 1; }
# What comes before the program's first call has ended, the original's own calls on buffers among it, is
# looked at by itself; descriptions come at the first event of a kind, which those may have been.
events() { awk '
    /^mhf_invoke begins.* RMC: -2147/ { skip = 1; set = 0 } # a message of the original to its own library
    !skip { print }
    skip && /^setrbuf ends/ { set++ }
    skip && set == 2 && /^freebuf ends/ { skip = 0 }' "$1" | sed -e 's/TS: \* TU: \* //;s/ (described)//;/^buffer of/d;/^end of the buffer/d;/^message 667/d'; }
calls() { events "$1" | sed '1,/^mytid ends/d' | case $2 in
  hosts) grep -vE '^(mkbuf|setsbuf|setrbuf|pkint|upkint|freebuf) ' ;; # inside its pvm_delhosts
  handlers) grep -vE '^(setsbuf|setrbuf|setcontext|freebuf) ' | sort ;; # around a handler; when it runs differs
  *) cat ;;
esac; }
head_of() { events "$1" | grep -E '^(datum|newtask|spntask|mytid begins)'; }
bad=0 total=0
check() { # PART BUFFER OPTIONS
  for side in real ours; do
    declare -n cmd=$side
    "${cmd[@]}" timeout 40 "$work/tracer" "$2" "$3" "$work/traced" "$1" >"$work/$side.out" 2>/dev/null
    calls "$work/$side.out" "$1" >"$work/$side.calls"
  done
  grep -q '^endtask' "$work/real.calls" || { echo "the original says too little of $1:"; tail "$work/real.out"; exit 1; }
  diff <(head_of "$work/real.out") <(head_of "$work/ours.out") && diff "$work/real.calls" "$work/ours.calls" ||
    { echo "^ differs: part $1, buffer $2, options $3"; bad=1; }
  total=$((total + $(wc -l <"$work/real.calls")))
}
for p in packing buffers messages handlers mailbox tasks hosts groups own masked; do check $p 0 1; done
check packing 1000 1
check buffers registered 1
# Of totals only the names and the counts are the same; the original counts its own calls with them.
for options in 2 3; do
  for side in real ours; do
    declare -n cmd=$side
    "${cmd[@]}" timeout 40 "$work/tracer" 0 $options "$work/traced" packing 2>&1 |
      grep -E '^(timing|profiling):' | sed -e 's/TS: \* TU: \* //' -e 's/TGS.*PRF/PRF/' >"$work/$side.out"
  done
  python3 - "$work/real.out" "$work/ours.out" <<'P' || bad=1
import re, sys
def read(path):
    line = open(path).read()
    names = re.findall(r'"(\w+)"', line.split("VID[]:")[1].split("PRF[]:")[0])
    counts = [int(x) for x in line.split("PRF[]:")[1].split()]
    assert len(names) == len(counts) > 20, line
    return line.split(":")[0], dict(zip(names, counts))
(kind, real), (own, ours) = map(read, sys.argv[1:])
inner = {"mhf_invoke", "setsbuf", "setrbuf", "setcontext", "freebuf", "upkint"}
differ = {n for n in real.keys() | ours.keys() if n not in inner and real.get(n) != ours.get(n)}
if kind != own or differ:
    sys.exit(f"{kind} and {own} differ in {differ}: {real} {ours}")
P
done
echo "$total events agree"
exit $bad
