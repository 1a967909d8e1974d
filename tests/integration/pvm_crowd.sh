#!/bin/bash
# labels: integration pvm
# timeout: 60
# A thousand tasks on one host (tests/pvm/crowd.c), all at once and all told of; then the daemon serves on.
# shellcheck source=tests/integration/pvm_lib.bash
. "$(dirname "$0")/pvm_lib.bash"
# A task costs the daemon three descriptors.
[ "$(ulimit -Hn)" = unlimited ] || [ "$(ulimit -Hn)" -ge 4096 ] || { echo "needs 4096 descriptors"; exit 77; }
start 4096
timeout 55 "$B/tests/pvm/pvmtest_crowd" 1000 || fail "a thousand tasks"
timeout 20 "$B/tests/pvm/pvmtest_crowd" 3 || fail "the daemon afterwards"
stop
