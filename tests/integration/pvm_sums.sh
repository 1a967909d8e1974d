#!/bin/bash
# labels: integration pvm
# timeout: 60
# Reductions of static groups of 2, 3, 8 and 40 tasks (tests/pvm/sums.c), by memory that they share and without.
# shellcheck source=tests/integration/pvm_lib.bash
. "$(dirname "$0")/pvm_lib.bash"
export PVM_PATH=$B/pvm
start
for n in 2 3 8 40; do timeout 50 "$B/tests/pvm/pvmtest_sums" $n || fail "$n members"; done
PVM_NOSHM=1 PVM_EXPORT=PVM_NOSHM timeout 50 "$B/tests/pvm/pvmtest_sums" 5 messages || fail "5 members without shared memory"
stop
