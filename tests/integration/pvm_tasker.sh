#!/bin/bash
# labels: integration pvm
# timeout: 120
# A registered tasker (tests/pvm/tasker.c), with PVM 3.4.6 and with ours: what it is asked, what the tasks'
# parent hears of starts, words, ends and of what could not be started; without it, and when it has ended.
set -u
here=$(cd "$(dirname "$0")/.." && pwd)
build=${PANGAEA_BUILD:-$here/../build/release}/pvm
if ! [ -x /usr/lib/pvm3/lib/pvmd ]; then echo "Debian's pvm is not installed"; exit 77; fi
work=$(mktemp -d)
mkdir "$work/rtmp" "$work/otmp"
export PVM_ARCH=LINUX64 PVM_ALLOW_ROOT=1 HOME=$work
real=(env PVM_ROOT=/usr/lib/pvm3 PVM_TMP="$work/rtmp")
ours=(env PVM_ROOT="$work" PVM_TMP="$work/otmp" PVM_PATH="$build:/usr/bin" PVM_DPATH="$build/pvmd3" LD_LIBRARY_PATH="$build")
tasker=
stop() {
  [ -n "$tasker" ] && kill "$tasker" 2>/dev/null
  echo halt | "${real[@]}" timeout 10 /usr/bin/pvm >/dev/null 2>&1
  echo halt | "${ours[@]}" timeout 10 "$build/pvm" >/dev/null 2>&1
  rm -rf "$work"
}
trap 'case $BASHPID in $$) stop ;; esac' EXIT
fail() { echo "FAILED: $1"; cat "$work"/out "$work"/*.tasker 2>/dev/null; exit 1; }
"${CC:-cc}" -O1 -I"$here/../pvm/include" "$here/pvm/tasker.c" -o "$work/tasker" -l:libpvm3.so.3 || exit 1
cp "$work/tasker" "$work/refused"
"${real[@]}" timeout 20 /usr/bin/pvm </dev/null >/dev/null 2>&1 || fail "the original does not start"
"${ours[@]}" timeout 20 "$build/pvm" </dev/null >/dev/null 2>&1 || fail "ours does not start"
# Whose words come first is chance.
parent() { { timeout 30 "$@" || echo "exit $?"; } 2>&1 | sort; }
all() { # WHICH
  local -n env=$1
  echo "alone"; parent "${env[@]}" "$work/tasker" parent "$work/tasker" child one
  "${env[@]}" timeout 100 "$work/tasker" serve "$work/$1.stop" >"$work/$1.tasker" 2>&1 & tasker=$!
  timeout 20 sh -c "until grep -q registered '$work/$1.tasker' 2>/dev/null; do sleep 0.05; done" || fail "the tasker did not register"
  echo "with a tasker"; parent "${env[@]}" "$work/tasker" parent "$work/tasker" child two
  echo "ends at once"; parent "${env[@]}" "$work/tasker" parent /bin/true
  echo "refused"; parent "${env[@]}" "$work/tasker" parent "$work/refused" child three
  echo "not there"; parent "${env[@]}" "$work/tasker" parent "$work/nowhere"
  touch "$work/$1.stop"; wait "$tasker"; tasker=
  echo "its end"; parent "${env[@]}" "$work/tasker" parent "$work/tasker" child four
  cat "$work/$1.tasker"
}
all real >"$work/real" 2>&1
all ours >"$work/ours" 2>&1
grep -q 'asked for a task' "$work/real" || fail "the original's tasker was not asked: $(cat "$work/real")"
diff "$work/real" "$work/ours" || fail "answers differ"

# Of a tasker that dies nobody else tells the ends: what it was to start and has not come ends with it.
"${ours[@]}" "$work/tasker" serve "$work/dies.stop" >"$work/dies.tasker" 2>&1 & tasker=$!
timeout 20 sh -c "until grep -q registered '$work/dies.tasker' 2>/dev/null; do sleep 0.05; done" || fail "the tasker did not register"
printf '#!/bin/sh\necho $$ >>%s/hang\nexec sleep 55\n' "$work" >"$work/hangs"; chmod +x "$work/hangs"
"${ours[@]}" timeout 60 "$work/tasker" parent "$work/hangs" >"$work/dies" 2>&1 & parent=$!
timeout 20 sh -c "until [ -s '$work/hang' ]; do sleep 0.05; done" || fail "the tasker started nothing"
kill -9 "$tasker"; tasker=
wait "$parent"
xargs kill <"$work/hang"
[ "$(grep -c '^end' "$work/dies")" = 2 ] || fail "who waits for a dead tasker's task hears of no end: $(cat "$work/dies")"
echo "$(wc -l <"$work/ours") lines agree"
