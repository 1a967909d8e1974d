#!/bin/bash
# labels: agent
# timeout: 120
# The agent on libvirt's test driver: a domain is listed beside our VMs, asked by the same commands, and
# refused where it must be; an agent without libvirtd says so and works.
. "$(dirname "$0")/agent_lib.bash"
make_cluster a b
start_agent a --libvirt test:///default
start_agent b --libvirt "qemu+unix:///system?socket=$dir/no-socket"
wait_event 'connected to test:///default'
both() { until [ "$("$pangaea" node ls 2>/dev/null | grep -c ' up ')" = 2 ]; do :; done; }
export -f both; export pangaea
timeout 30 bash -c both || fail "the agents do not see each other"

expect 0 '"name":"test","node":"a","state":"running","reason":"","kernel":"","kind":"libvirt"' "$pangaea" vm ls --json
expect 0 'libvirt' "$pangaea" vm ls
expect 0 'uuid' "$pangaea" vm info test
uuid=$("$pangaea" vm info test | sed -n 's/^uuid *//p')
expect 0 'state.state' "$pangaea" vm stats "$uuid"
expect 0 'test: paused' "$pangaea" vm pause test
expect 0 'test: running' "$pangaea" vm resume test
expect 0 'test: stopped' "$pangaea" vm stop test
expect 0 '"state":"off"' "$pangaea" vm ls --json
expect 9 'only a running domain migrates' "$pangaea" vm migrate test --to b
expect 0 'test: started' "$pangaea" vm start test
expect 0 'stopped' "$pangaea" events test

expect 2 'virsh' "$pangaea" vm console test
expect 2 'on node a already' "$pangaea" vm migrate test --to a
expect 3 "no node 'nowhere'" "$pangaea" vm migrate test --to nowhere
expect 4 'node b has no libvirtd' "$pangaea" vm migrate test --to b
expect 3 "no VM 'nothing'" "$pangaea" vm start nothing
expect 7 "a VM 'test' already" "$pangaea" vm run test -k "$guests/dirty" -m 16M

expect 0 'libvirt_domains":1' "$pangaea" node info a --json
expect 0 'libvirt   none: Failed to connect' "$pangaea" node info b
doctor=$("$pangaea" node doctor b)
[[ $doctor == *'no domains are shown: Failed to connect'* ]] && ok "doctor" || fail "doctor: $doctor"
exit $bad
