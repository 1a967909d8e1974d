#!/bin/bash
# labels: agent kvm
# timeout: 120
# A node of three is drained: its guests, which check all their memory, go on at the others.
if ! [ -r /dev/kvm ] || ! [ -w /dev/kvm ]; then echo "no /dev/kvm"; exit 77; fi
. "$(dirname "$0")/agent_lib.bash"

make_cluster a b c
for n in a b c; do start_agent $n; done
for n in b c; do wait_event "$n is reachable" --node a; done

for vm in one two three; do
  expect 0 running "$pangaea" vm run $vm -k "$guests/dirty" -m 64M -c 'mib=16 rate=20' --node a
done
expect 0 running "$pangaea" vm run other -k "$guests/dirty" -m 64M -c 'mib=16 rate=20' --node b
expect 3 "there is no node 'nowhere'" "$pangaea" node drain nowhere

expect 0 "paused" "$pangaea" vm pause three
expect 1 "three is paused; only a running VM migrates" "$pangaea" node drain a
expect 0 "three" "$pangaea" vm ls -q --node a
[ "$("$pangaea" vm ls -q --node a | sort | paste -sd+)" = three ] && ok "only the paused one stays" || fail "at a: $("$pangaea" vm ls -q --node a)"
expect 0 running "$pangaea" vm resume three
expect 0 '"stayed":0' "$pangaea" node drain a --json --encrypt
[ -z "$("$pangaea" vm ls -q --node a)" ] && ok "a is empty" || fail "left: $("$pangaea" vm ls --node a)"
[ "$("$pangaea" vm ls -q | sort | paste -sd+)" = one+other+three+two ] && ok "all are somewhere" || fail "$("$pangaea" vm ls)"
expect 0 "0 of 0 VMs moved" "$pangaea" node drain a
for vm in one two three other; do
  expect 0 "MiB written" "$pangaea" vm console $vm --until "MiB written" --timeout 20
  expect 0 killed "$pangaea" vm kill $vm
done
stop_agent b; stop_agent c
expect 0 running "$pangaea" vm run last -k "$guests/dirty" -m 64M -c 'mib=16 rate=20' --node a
expect 1 "0 of 1 VMs moved" "$pangaea" node drain a
expect 0 killed "$pangaea" vm kill last
exit $bad
