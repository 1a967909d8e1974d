#!/bin/bash
# labels: integration pvm
# timeout: 60
# Barriers of dynamic and static groups of 3, 8 and 21 tasks (tests/pvm/rounds.c), in which members leave
# and die; by memory that they share, and without it.
# shellcheck source=tests/integration/pvm_lib.bash
. "$(dirname "$0")/pvm_lib.bash"
export PVM_PATH=$B/pvm
start
for n in 3 8 21 64; do timeout 50 "$B/tests/pvm/pvmtest_rounds" $n || fail "$n members"; done
for n in 3 4 8 13 32; do timeout 50 "$B/tests/pvm/pvmtest_rounds" $n kill || fail "one of $n members is killed"; done
PVM_NOSHM=1 PVM_EXPORT=PVM_NOSHM timeout 50 "$B/tests/pvm/pvmtest_rounds" 8 || fail "8 members without shared memory"
stop
