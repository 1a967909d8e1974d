#!/bin/bash
# labels: integration pvm
# timeout: 120
# beside: yes
# The console from a pipe, with our daemon and library: every command prints what PVM 3.4.6's prints
# (tests/pvm/console.expect, recorded from there; host name, tids and pids are left out), the output
# of jobs comes, and a command line of any kind leaves it standing.
set -u
here=$(cd "$(dirname "$0")/.." && pwd)
build=${PANGAEA_BUILD:-$here/../build/release}/pvm
[ -x "$build/pvm" ] || { echo "the console is not built"; exit 77; }
work=$(mktemp -d)
stop() { echo halt | timeout 10 "$build/pvm" >/dev/null 2>&1; rm -rf "$work"; }
trap 'case $BASHPID in $$) stop ;; esac' EXIT
export PVM_ROOT=$work PVM_TMP=$work PVM_ARCH=LINUX64 PVM_ALLOW_ROOT=1 PVM_DPATH=$build/pvmd3 PVM_PATH=$work:$build:/usr/bin:/bin
export LD_LIBRARY_PATH=$build HOME=$work
unset PVM_EXPORT
bad=0
fail() { echo "FAIL: $*"; bad=1; }
timeout 20 "$build/pvm" </dev/null >"$work/first" 2>&1 || fail "first start: $(cat "$work/first")"
clean() { sed -E "s/\b$(hostname)\b/HOST/g; s/^ +HOST/HOST/; s/0x4[0-9a-f]{4}\/[0-9]+/TID/; s/t4[0-9a-f]{4}/tTID/g"; }
timeout 30 "$build/pvm" <"$here/pvm/console.in" 2>"$work/err" | clean >"$work/out"
diff -u "$here/pvm/console.expect" "$work/out" || fail "commands print something else"

# A job: every line of every task with its tag, then its end.
printf '#!/bin/sh\necho one; echo two\n' >"$work/talker"; chmod +x "$work/talker"
( echo 'spawn -2 -> talker'
  timeout 20 sh -c "until grep -q finished $work/job; do sleep 0.05; done"
  echo 'spawn -> nosuchprogram' ) | timeout 30 "$build/pvm" >"$work/job" 2>&1
[ "$(grep -c '^\(pvm> \)\?\[1:t[0-9a-f]*\] one$' "$work/job")" = 2 ] || fail "output of the job: $(cat "$work/job")"
[ "$(grep -c ' two$' "$work/job")" = 2 ] && [ "$(grep -c ' EOF$' "$work/job")" = 2 ] || fail "ends of the job: $(cat "$work/job")"
grep -q '^No such file$' "$work/job" || fail "a program that is not there"

# ~/.pvmrc, a line too long, quotes without partner, a terminal's end of file.
echo 'alias hey echo from rc' >"$work/.pvmrc"
{ echo hey; head -c 40000 /dev/zero | tr '\0' a; echo; echo 'echo "x'; echo; echo '# only a comment'; echo version; } |
  timeout 20 "$build/pvm" >"$work/odd" 2>&1 || fail "odd lines: exit $?"
grep -q '^from rc$' "$work/odd" || fail "no ~/.pvmrc"
grep -q '^unmatched "$' "$work/odd" || fail "unmatched quote: $(tail -5 "$work/odd")"
grep -q '^3.4.6$' "$work/odd" || fail "nothing was read after an odd line"
[ $bad = 0 ] && echo "console: $(wc -l <"$work/out") lines as PVM 3.4.6 prints them"
exit $bad
