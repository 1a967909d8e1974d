#!/bin/bash
# labels: integration pvm
# timeout: 60
# Barriers of dynamic and static groups of 3, 8 and 21 tasks (tests/pvm/rounds.c), in which members leave
# and die.
# shellcheck source=tests/integration/pvm_lib.bash
. "$(dirname "$0")/pvm_lib.bash"
export PVM_PATH=$B/pvm
start
for n in 3 8 21; do timeout 50 "$B/tests/pvm/pvmtest_rounds" $n || fail "$n members"; done
stop
