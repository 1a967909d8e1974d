#!/bin/bash
# labels: integration pvm
# timeout: 200
# beside: yes
# The sources of Debian's pvm-examples, C and Fortran: what compiles against PVM 3.4.6's headers and
# libraries compiles against ours, and some of what came out runs.
set -u
here=$(cd "$(dirname "$0")/.." && pwd)
build=${PANGAEA_BUILD:-$here/../build/release}/pvm
tars=/usr/share/doc/pvm-examples
[ -e $tars/examples.tar.gz ] && [ -e /usr/include/pvm3.h ] || { echo "Debian's pvm-examples and pvm-dev are not installed"; exit 77; }
command -v gfortran >/dev/null || { echo "gfortran is not installed"; exit 77; }
work=$(mktemp -d)
stop() { [ -e "$work/up" ] && echo halt | timeout 10 "$build/pvm" >/dev/null 2>&1; rm -rf "$work"; }
trap 'case $BASHPID in $$) stop ;; esac' EXIT
mkdir "$work/real" "$work/ours"
for t in examples gexamples; do tar xzf $tars/$t.tar.gz -C "$work"; done
inc() { [ "$1" = ours ] && echo "$here/../pvm/include" || echo /usr/include; }
libs() { [ "$1" = ours ] && echo "-L$build -Wl,-rpath,$build" || echo ""; }
c() { # WHICH SOURCE
  # shellcheck disable=SC2046
  gcc -w -I"$(inc "$1")" "$2" -o "$work/$1/$(basename "$2" .c)" $(libs "$1") -lgpvm3 -lpvm3 -lm 2>"$work/err"
}
f() { # the include line names a path of the author's
  sed -E "s#^ *include '.*fpvm3.h'#      include '$(inc "$1")/fpvm3.h'#I" "$2" >"$work/$1/src.f"
  # shellcheck disable=SC2046
  gfortran -w -std=legacy -ffixed-line-length-none "$work/$1/src.f" -o "$work/$1/f_$(basename "$2" .f)" $(libs "$1") -lfpvm3 -lgpvm3 -lpvm3 2>"$work/err"
}
bad=0 ok=0 neither=
for s in "$work"/{examples,gexamples}/*.[cf]; do
  kind=${s##*.}
  if $kind ours "$s"; then ok=$((ok + 1)); continue; fi
  cp "$work/err" "$work/oerr"
  if $kind real "$s"; then echo "FAILED: $(basename "$s"): $(head -3 "$work/oerr")"; bad=1; else neither="$neither $(basename "$s")"; fi
done
echo "$ok sources compile; neither here nor with the original:$neither"
[ $ok -ge 37 ] || { echo "too few"; bad=1; }
export PVM_ARCH=LINUX64 PVM_ALLOW_ROOT=1 HOME=$work PVM_ROOT=$work PVM_TMP=$work PVM_DPATH=$build/pvmd3 PVM_PATH=$work/ours:$build
timeout 20 "$build/pvm" </dev/null >"$work/up" 2>&1 || { cat "$work/up"; exit 1; }
ln -s f_slave1 "$work/ours/fslave1"
expect() { # TEXT PROGRAM: it says so and ends well
  (cd "$work" && yes 3 2>/dev/null | head -20 | timeout 20 "$work/ours/$2" >"$work/out" 2>&1) ; local rc=$?
  # Some of them fall off the end of main: any code that is no signal's.
  [ $rc -lt 124 ] && grep -q "$1" "$work/out" || { echo "FAILED: $2 (exit $rc)"; head -5 "$work/out"; bad=1; }
}
expect 'from t.*hello, world' hello
expect 'I got .* from' master1
expect 'token ring done' spmd
expect 'I got .* from' f_master1
exit $bad
