#!/bin/bash
# labels: integration pvm
# timeout: 60
# The first task of a large spawn makes the others: they are as if each had been started, and where it cannot
# or does not (tests/pvm/twinbad.c), each is.
# shellcheck source=tests/integration/pvm_lib.bash
. "$(dirname "$0")/pvm_lib.bash"
T=$B/tests/pvm/pvmtest_twins
export LD_LIBRARY_PATH=$B/pvm
start
run() { timeout 40 "$T" "$@" >"$W/o" 2>&1; }
same() { sed -n 's/.* tasks, \([0-9]*\) with the same addresses/\1/p' "$W/o"; }
for n in 4 60; do
  run $n || fail "$n tasks: $(tail -3 "$W/o")"
  [ "$(grep -c 'says so' "$W/o")" = $n ] || fail "the output of $n tasks: $(cat "$W/o")"
  echo "$n tasks, $(same) copies"
done
# A sanitizer may have a thread of its own in each process.
[ "$(same)" -gt 1 ] || nm -D "$T" | grep -q __tsan_ || fail "no copies at all"
PVM_NOTWIN=1 PVM_EXPORT=PVM_NOTWIN run 20 || fail "without: $(tail -3 "$W/o")"
[ "$(cat /proc/sys/kernel/randomize_va_space)" = 0 ] || [ "$(same)" = 1 ] || fail "copies, although nobody wants them"
# Not linked with libpvm3; what a script starts; those that do not keep to the rules.
printf '#!/bin/sh\nexec "%s" here\n' "$T" >"$W/then"; chmod 755 "$W/then"
run 10 /bin/echo here || fail "echo: $(tail -3 "$W/o")"
[ "$(grep -c here "$W/o")" = 10 ] || fail "of 10 echos: $(cat "$W/o")"
run 6 "$W/then" || fail "a script: $(tail -3 "$W/o")"
[ "$(grep -c here "$W/o")" = 6 ] || fail "of 6 scripts: $(cat "$W/o")"
# One that lies has its way: the tasks that it claims count as ended.
run 12 "$B/tests/pvm/pvmtest_twinbad" lie || fail "lie: $(tail -3 "$W/o")"
for how in garbage die load mute; do
  run 12 "$B/tests/pvm/pvmtest_twinbad" $how || fail "$how: $(tail -3 "$W/o")"
  [ "$(grep -c here "$W/o")" = 12 ] || fail "of 12 that $how: $(cat "$W/o")"
done
run 4 || fail "afterwards: $(tail -3 "$W/o")"
kill -0 "$daemon" || fail "the daemon is gone"
stop
