#!/bin/bash
# labels: kvm
# timeout: 180
# Guests that span several pangaea-vmm on this machine: memory, interrupts and devices go between them.
# shellcheck source=tests/integration/span_lib.bash
. "$(dirname "$0")/span_lib.bash"

guest 'hello from ring 3, n=42' hello n=42 1:32M 1:32M
guest 'hello from ring 3' hello '' 2:32M 1:48M 3:64M 1:16M
guest 'timer: PASS' timer '' 1:32M 1:32M
guest 'pingpong: PASS' pingpong rounds=100 1:32M 1:64M
guest 'dirty: PASS' dirty 'mib=48 seconds=1 rate=200' 1:32M 1:64M
guest 'atomics: PASS' atomics 'cpus=4 rounds=300' 1:32M 2:32M 1:32M
guest 'tsc: PASS' tsc rounds=100 1:32M 1:32M
more=(--encrypt)
guest 'pingpong: PASS' pingpong rounds=50 1:32M 1:32M

exit $bad
