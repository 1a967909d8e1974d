#!/bin/bash
# labels: agent kvm
# timeout: 180
# The life of VMs under agents on loopback: placed, watched, found again by a new agent, ended.
. "$(dirname "$0")/agent_lib.bash"
needs_guest dirty

work=(--kernel "$guests/dirty" --memory 64M --cmdline "mib=16 rate=20")
folders() { find "$dir"/run-*/vm -mindepth 1 -maxdepth 1 -printf '%f '; }
vm_pid() { "$pangaea" vm info "$1" --json | sed -n 's/.*"pid":\([0-9]*\).*/\1/p'; }
# Until the process has ended; it need not be our child.
gone() { timeout 20 tail --pid="$1" -f /dev/null || fail "process $1 is still there"; }

make_cluster a b
start_agent a
start_agent b
wait_event "b is reachable" --node a
wait_event "a is reachable" --node b --agent b

# A guest that ends by itself.
expect 0 "on node b" "$pangaea" vm run hello -k "$guests/hello" -m 64M --node b
wait_event " ended " hello
expect 3 "there is no VM 'hello'" "$pangaea" vm info hello
[ -z "$(folders)" ] && ok "its folder is gone" || fail "left behind: $(folders)"

# From one node to the other: run, look, refuse a second one, console, statistics.
expect 0 '"node":"b","state":"running"' "$pangaea" vm run work "${work[@]}" --node b --agent a --json
expect 7 "there is a VM 'work' already, on node b" "$pangaea" vm run work "${work[@]}" --agent a
expect 0 "work  b     running      1     64M" "$pangaea" vm ls --agent a
expect 0 "cmdline   mib=16 rate=20" "$pangaea" vm info work --agent a
expect 0 "dirty: pass 1" "$pangaea" vm console work --agent a --until "dirty: pass 1" --timeout 20
expect 5 "the text 'never' did not come" "$pangaea" vm console work --until never --timeout 1
expect 0 '"vcpu0.exits.pio":' "$pangaea" vm stats work --json --agent a
expect 0 "rip" "$pangaea" vm registers work --agent a
expect 0 "work: paused" "$pangaea" vm pause work
expect 0 "paused" "$pangaea" vm ls --agent a
expect 0 "work: running" "$pangaea" vm resume work
expect 0 "vm_memory\":67108864" "$pangaea" node info b --json

# The agent is killed and comes again: the same process, still at work.
pid=$(vm_pid work)
stop_agent b KILL
expect 3 "not reached: b" "$pangaea" vm info work --agent a
kill -0 "$pid" && ok "the VM outlives its agent" || fail "the VM died with its agent"
start_agent b
wait_event "found" work
[ "$(vm_pid work)" = "$pid" ] && ok "found again: pid $pid" || fail "another process: $(vm_pid work)"
expect 0 "dirty: pass" "$pangaea" vm console work --until "dirty: pass" --timeout 20 --agent b
expect 5 "has not powered off within 1 s" "$pangaea" vm stop work --timeout 1 --agent b
expect 0 "work: killed" "$pangaea" vm kill work --agent b
gone "$pid"
[ -z "$(folders)" ] && ok "its folder is gone" || fail "left behind: $(folders)"

# What ends while no agent is there, and what is killed from outside.
expect 0 running "$pangaea" vm run one "${work[@]}" --node b --agent b
expect 0 running "$pangaea" vm run two "${work[@]}" --node b --agent b
one=$(vm_pid one) two=$(vm_pid two)
kill -9 "$two"
wait_event "ended by signal 9" two
stop_agent b KILL
kill -9 "$one"
gone "$one"
start_agent b
wait_event "while no agent was there" one
[ -z "$(folders)" ] && ok "both folders are gone" || fail "left behind: $(folders)"

# A kernel that is none: one clear line, and nothing left.
expect 1 "no: " "$pangaea" vm run no -k "$0" -m 64M --node b
[ -z "$(folders)" ] && ok "nothing is left" || fail "left behind: $(folders)"

# Without a node the one with room is taken, and a VM file is read.
printf 'name: f\nkernel: %s\nmemory: 64M\ncmdline: mib=16 rate=20\nnics: [net]\n' "$guests/dirty" >"$dir/f.yaml"
expect 0 "f: running on node" "$pangaea" vm run -f "$dir/f.yaml"
expect 0 "nic       net" "$pangaea" vm info f
# The switch's end of the guest's link stays in the VM's process, and a new agent takes it back.
n=$("$pangaea" vm ls | sed -n 's/^f  *\([ab]\) .*/\1/p')
socket=$(readlink "/proc/$(vm_pid f)/fd/4")
holds() { find "/proc/${agent_pid[$n]}/fd" -printf "%l\n" | grep -qF "$socket"; }
holds && ok "the agent is at the other end of $socket" || fail "the agent does not hold $socket"
stop_agent "$n" KILL
start_agent "$n"
wait_event "found" f --agent "$n"
holds && ok "the new agent has it back" || fail "the new agent does not hold $socket"
expect 0 "killed" "$pangaea" vm kill f --agent "$n"
expect 0 "f" "$pangaea" events f

# A process that does nothing before it runs is given up; one that is at work is waited for.
stop_agent b
cat >"$dir/slow" <<E
#!/bin/bash
[ "\$2" != idle ] || exec sleep 100
while [ \$SECONDS -lt 5 ]; do :; done
exec "$vmm" "\$@"
E
chmod +x "$dir/slow"
start_agent b --vmm "$dir/slow" --start-timeout 2
expect 0 "busy: running on node b" "$pangaea" vm run busy "${work[@]}" --node b --agent b
expect 1 "did not come up: it has done nothing for 2 s" "$pangaea" vm run idle "${work[@]}" --node b --agent b
expect 0 "killed" "$pangaea" vm kill busy --agent b
[ -z "$(folders)" ] && ok "nothing is left" || fail "left behind: $(folders)"
stop_agent a
stop_agent b
exit $bad
