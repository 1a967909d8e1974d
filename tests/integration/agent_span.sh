#!/bin/bash
# labels: agent kvm
# timeout: 400
# One guest over three agents on loopback: started by all or by none, seen and commanded from any
# node, ended everywhere when one of its slices dies.
. "$(dirname "$0")/agent_lib.bash"
needs_guest pingpong

two=(--vcpus "a=1,b=1" --memory "a=48M,b=32M")
three=(--vcpus "a=1,b=2,c=1" --memory "a=64M,b=32M,c=48M")
folders() { find "$dir"/run-*/vm -mindepth 1 -maxdepth 1 ! -name beside -printf '%P %h\n'; }
nothing_left() {
  timeout 20 bash -c "while [ -n \"\$(find '$dir'/run-*/vm -mindepth 1 -maxdepth 1 ! -name beside)\" ]; do read -rt 0.1 <> <(:); done; true" \
    && ok "nothing is left" || fail "left behind: $(folders)"
}
slice_pid() { local p; read -r p _ <"$dir/run-$2/vm/$1/pid"; echo "$p"; }
# Until every agent sees all three.
all_up() {
  timeout 30 bash -c "for n in a b c; do until [ \$('$pangaea' node ls --agent \$n 2>/dev/null | grep -c ' up ') = 3 ]; do read -rt 0.1 <> <(:); done; done; true" \
    || fail "the agents do not see each other"
}
gone() { timeout 20 tail --pid="$1" -f /dev/null || fail "process $1 is still there"; }

make_cluster a b c
for n in a b c; do start_agent "$n"; done
all_up

# What cannot be, named.
expect 2 "node 'a' has vCPUs of the guest but no memory" "$pangaea" vm run no -k "$guests/hello" --vcpus a=1,b=1 --memory 64M
expect 3 "there is no node 'x'" "$pangaea" vm run no -k "$guests/hello" --vcpus a=1,x=1 --memory a=64M,x=64M
expect 8 "b has " "$pangaea" vm run no -k "$guests/hello" --vcpus a=1,b=60 --memory a=64M,b=64M
expect 8 "b has " "$pangaea" vm run no -k "$guests/hello" --vcpus a=1,b=1 --memory a=64M,b=16T
expect 2 "the first part is the lead's" "$pangaea" vm run no -k "$guests/hello" "${two[@]}" --node b
expect 3 "kernel /none on node a" "$pangaea" vm run no -k /none "${two[@]}" --agent c
expect 1 "RDMA" "$pangaea" vm run no -k "$guests/hello" "${two[@]}" --transport verbs
expect 1 "no: " "$pangaea" vm run no -k "$0" "${two[@]}"
nothing_left

# One that has nothing to do with all that.
expect 0 "running" "$pangaea" vm run beside -k "$guests/dirty" -m 64M -c 'mib=16 rate=10' --node b
beside=$(slice_pid beside b)

# A guest that ends by itself, over three nodes, asked for at the one that is not its lead.
expect 0 " on nodes a, b, c" "$pangaea" vm run hello -k "$guests/hello" "${three[@]}" --agent c
nothing_left
expect 3 "there is no VM 'hello' any more: it ended" "$pangaea" vm info hello
expect 3 "it ended on node a: " "$pangaea" vm console hello --agent c
expect 0 "hello" "$pangaea" vm console hello --until "hello" --timeout 20 --agent b

# One that goes on: what is seen from everywhere.
expect 0 '"state":"running"' "$pangaea" vm run big -k "$guests/pingpong" -c rounds=100000000 "${three[@]}" --encrypt --agent b --json
expect 7 "there is a VM 'big' already" "$pangaea" vm run big -k "$guests/hello" -m 64M --agent c
expect 0 "big     a+b+c  running      4    144M" "$pangaea" vm ls --agent c
expect 0 "slice 1   node b, 2 vCPUs, 32M, running" "$pangaea" vm info big --agent c
expect 0 "links     tcp, encrypted" "$pangaea" vm info big --agent c
expect 0 '{"slice":2,"node":"c","state":"running","reason":"","vcpus":1,"memory":50331648,' "$pangaea" vm info big --json --agent b
expect 0 "both run" "$pangaea" vm console big --until "both run" --timeout 20 --agent c
expect 0 "write" "$pangaea" vm stats big --agent c
"$pangaea" vm stats big | grep -q '^slice ' && fail "where vCPUs are is no counter"
expect 0 '"dsm.faults.write":' "$pangaea" vm stats big --json --agent b
printf '%s\n' 'ffffffff80100000 T guest_image' 'ffffffff80200000 B _end' >"$dir/map"
expect 0 "guest_image" "$pangaea" vm stats big --system-map "$dir/map"
expect 0 "processes are not named: the symbols lack linux_banner" "$pangaea" vm stats big --system-map "$dir/map"
printf '%s\n' 'ffffffff80100000 D linux_banner' 'ffffffff80101000 D init_top_pgt' 'ffffffff80200000 B _end' >"$dir/map"
expect 0 "processes are not named: the guest's kernel is not where its symbols say" "$pangaea" vm stats big --system-map "$dir/map" --agent c
expect 0 '"no_processes":"the guest' "$pangaea" vm stats big --system-map "$dir/map" --json --agent b
expect 3 "No such file" "$pangaea" vm stats big --system-map /none
timeout 30 "$pangaea" vm stats big --watch --json --agent c 2>/dev/null | grep -qm1 '"per_second":{' &&
  ok "the second look says what happened since the first" || fail "no rates"
expect 0 "8 looks" "$pangaea" vm heatmap big --seconds 2 -o "$dir/pages.svg" --agent b
grep -q 'fill="#1f77b4"' "$dir/pages.svg" && ok "the picture has owners" || fail "the picture is empty"
expect 0 "big: paused" "$pangaea" vm pause big --agent c
wait_event "paused" big --node c
expect 0 "big: running" "$pangaea" vm resume big --agent c
# Whoever is answered finds all slices so.
for _ in 1 2 3 4 5; do
  "$pangaea" vm reset big -q --agent b || fail "a reset"
  seen=$("$pangaea" vm info big --agent b | grep -c 'slice .*, running')
  [ "$seen" = 3 ] || fail "$seen slices run after a reset"
  "$pangaea" vm pause big -q --agent a || fail "a pause"
  "$pangaea" vm resume big -q --agent a || fail "a resume"
  seen=$("$pangaea" vm info big --agent c | grep -c 'slice .*, running')
  [ "$seen" = 3 ] || fail "$seen slices run after a resume"
done
ok "resets and resumes are answered when all slices run"
expect 2 "its lead is on node a" "$pangaea" vm pause big --node b
expect 2 "does not migrate" "$pangaea" vm migrate big --to b

# An agent that is killed finds its slice again.
pid=$(slice_pid big b)
stop_agent b KILL
start_agent b
wait_event "found" big --agent b
all_up
expect 0 "slice 1   node b, 2 vCPUs, 32M, running" "$pangaea" vm info big --agent a
[ "$(slice_pid big b)" = "$pid" ] && ok "the same process" || fail "another process"

# One slice is killed: all end at once, and say why, for a while.
lead=$(slice_pid big a) other=$(slice_pid big c)
kill -9 "$pid"
start=$SECONDS
gone "$lead"; gone "$other"
[ $((SECONDS - start)) -le 3 ] && ok "all ended within $((SECONDS - start)) s" || fail "the end took $((SECONDS - start)) s"
nothing_left
expect 0 "state     failed: slice 1 on node b: " "$pangaea" vm info big --agent c
expect 0 "slice 1   node b, 2 vCPUs, 32M, failed" "$pangaea" vm info big --agent a
expect 3 "both run" "$pangaea" vm console big

# From a file, killed on request, from a node that has no part in it.
printf 'kernel: %s\ncmdline: rounds=100000000\nvcpus: a=1,b=1\nmemory: a=32M,b=48M\nencrypt: on\ntransport: tcp\n' "$guests/pingpong" >"$dir/big.yaml"
expect 0 '"nodes":["a","b"]' "$pangaea" vm run big -f "$dir/big.yaml" --json
expect 0 "big: killed" "$pangaea" vm kill big --agent c
[ -z "$(folders)" ] && ok "all had ended when it was answered" || fail "left behind: $(folders)"

# Checkpoints: on the same nodes, on others, refused.
expect 0 "running" "$pangaea" vm run big -k "$guests/dirty" -c 'mib=48 rate=50' "${two[@]}"
expect 0 "MiB written" "$pangaea" vm console big --until "MiB written" --timeout 50 --agent c
expect 0 "in $dir/live.ckpt on its node" "$pangaea" vm checkpoint big "$dir/live.ckpt" --live
expect 0 "in $dir/big.ckpt on its node" "$pangaea" vm checkpoint big "$dir/big.ckpt" --agent c
expect 0 "slice 1   node b, 1 vCPUs, 32M, running" "$pangaea" vm info big
expect 7 "there is a VM 'big' already" "$pangaea" vm restore "$dir/big.ckpt" --agent c
expect 0 "big: killed" "$pangaea" vm kill big
expect 0 "big: running" "$pangaea" vm restore "$dir/big.ckpt" --agent c
expect 0 "slice 1   node b, 1 vCPUs, 32M, running" "$pangaea" vm info big
expect 0 "MiB written" "$pangaea" vm console big --until "MiB written" --timeout 50
expect 0 "big: killed" "$pangaea" vm kill big
expect 0 "big: running on nodes b, c" "$pangaea" vm restore "$dir/big.ckpt" --vcpus b=1,c=1 --memory b=32M,c=48M --agent a
expect 0 "slice 1   node c, 1 vCPUs, 48M, running" "$pangaea" vm info big
expect 0 "MiB written" "$pangaea" vm console big --until "MiB written" --timeout 50
expect 0 "big: killed" "$pangaea" vm kill big
expect 3 "MiB written" "$pangaea" vm console big
"$pangaea" vm console big 2>&1 | grep -q FAIL && fail "memory is not what it was"
expect 1 "has 2 vCPUs and 80M of memory" "$pangaea" vm restore "$dir/big.ckpt" --vcpus a=1,b=2 --memory a=32M,b=48M
expect 2 "such as a=1,b=1" "$pangaea" vm restore "$dir/big.ckpt" --vcpus 2
expect 3 "there is no node 'x'" "$pangaea" vm restore "$dir/big.ckpt" --vcpus a=1,x=1 --memory a=32M,x=48M
head -c $(($(stat -c %s "$dir/big.ckpt") - 100)) "$dir/big.ckpt" >"$dir/cut.ckpt"
expect 1 "damaged or cut off" "$pangaea" vm restore "$dir/cut.ckpt"
nothing_left

# A host that hangs: the links give up after their window, and what hangs is ended by its agent.
expect 0 "running" "$pangaea" vm run big -k "$guests/pingpong" -c rounds=100000000 "${two[@]}"
lead=$(slice_pid big a) pid=$(slice_pid big b)
kill -STOP "$pid"
start=$SECONDS
gone "$lead"; gone "$pid"
[ $((SECONDS - start)) -le 15 ] && ok "all ended within $((SECONDS - start)) s" || fail "the end took $((SECONDS - start)) s"
expect 0 "state     failed: " "$pangaea" vm info big --agent b
nothing_left

# A node whose agent and slice are gone: its links tell the others; the agent that comes back clears up.
expect 0 "running" "$pangaea" vm run big -k "$guests/pingpong" -c rounds=100000000 "${two[@]}"
lead=$(slice_pid big a) pid=$(slice_pid big b)
stop_agent b KILL
kill -9 "$pid"
start=$SECONDS
gone "$lead"
[ $((SECONDS - start)) -le 15 ] && ok "the lead ended within $((SECONDS - start)) s" || fail "the end took $((SECONDS - start)) s"
expect 0 "lost slice 1" "$pangaea" vm info big --agent c
start_agent b
nothing_left

all_up
# A node that cannot: nothing is left of those that could.
stop_agent c
expect 4 "big: node c: " "$pangaea" vm run big -k "$guests/hello" "${three[@]}" --agent a
start_agent c --vmm /bin/false
all_up
expect 1 "node c: " "$pangaea" vm run big -k "$guests/hello" "${three[@]}" --agent a
nothing_left
[ "$(slice_pid beside b)" = "$beside" ] && kill -0 "$beside" && ok "the other VM has not noticed" || fail "the other VM has ended"
expect 0 "killed" "$pangaea" vm kill beside --agent b
for n in a b c; do stop_agent "$n"; done
exit $bad
