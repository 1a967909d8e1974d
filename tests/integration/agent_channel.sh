#!/bin/bash
# labels: agent
# timeout: 120
# Agents on loopback: who is let in, what is refused, one answer for the whole cluster.
. "$(dirname "$0")/agent_lib.bash"

make_cluster a b c
sum=$(cat "$dir/c/nodes/a/keys/node.key" "$dir/c/admin.key" | sha256sum)
address=$(sed -n "s/.*address: '\(.*\)'/\1/p" "$dir/c/cluster.yaml" | head -1)
[ "$address" = 127.0.0.1 ] || fail "cluster.yaml has no address"
"$pangaea" init cluster --file "$dir/c/cluster.yaml" -o "$dir/c" -q || fail "init again"
[ "$sum" = "$(cat "$dir/c/nodes/a/keys/node.key" "$dir/c/admin.key" | sha256sum)" ] &&
  ok "init again keeps the keys" || fail "init again changed keys"
[ "$(stat -c %a "$dir/c/nodes/a/keys/node.key")" = 600 ] || fail "mode of a secret key"

# Agents that must not start, each with one clear line.
cp -r "$dir/c/nodes/c" "$dir/odd"
chmod 644 "$dir/odd/keys/node.key"
expect 1 "chmod 600" "$pangaead" --home "$dir/odd" --run-dir "$dir/run-odd"
chmod 600 "$dir/odd/keys/node.key"
cp "$dir/c/nodes/b/keys/node.key" "$dir/odd/keys/node.key"
expect 1 "is not the key of node 'c'" "$pangaead" --home "$dir/odd" --run-dir "$dir/run-odd"
expect 1 "there is no node 'x'" "$pangaead" --home "$dir/odd" --run-dir "$dir/run-odd" --node x
echo "colour: red" >>"$dir/odd/cluster.yaml"
expect 1 "cluster.yaml:$(wc -l <"$dir/odd/cluster.yaml"): 'colour' is not a known key here" \
  "$pangaead" --home "$dir/odd" --run-dir "$dir/run-odd"
expect 1 "No such file" "$pangaead" --home "$dir/none" --node a --run-dir "$dir/run-odd"
expect 1 "expected an absolute path" "$pangaead" --home "$dir/c/nodes/c" --run-dir run
expect 2 "unexpected argument" "$pangaead" surplus

expect 4 "no agent answers there" "$pangaea" node ls
start_agent a
start_agent b
wait_event "b is reachable" --node a
expect 1 "another agent uses this run-dir" "$pangaead" --home "$dir/c/nodes/b" --run-dir "$dir/run-a"
expect 1 "Address already in use" "$pangaead" --home "$dir/c/nodes/a" --run-dir "$dir/run-x"

# One agent answers for all; c is not there.
expect 0 "unreachable" "$pangaea" node ls
expect 0 '"name":"b","address":"127.0.0.1","state":"up"' "$pangaea" node ls --json
expect 0 "name      b" "$pangaea" node info b --agent a
expect 0 "name      a" "$pangaea" node info a --agent b
expect 4 "node c: no agent answers there" "$pangaea" node info c --agent a
expect 3 "there is no node 'z'" "$pangaea" node info z
expect 1 "pangaead there" "$pangaea" node doctor

# Names and files that are not there, and what makes no sense.
expect 3 "no reachable node has a VM 'web'; not reached: c" "$pangaea" vm info web
for what in console stop kill stats pause registers; do
  expect 3 "there is no VM 'web' on node b" "$pangaea" vm "$what" web --node b
done
expect 2 "'../web' is no VM name" "$pangaea" vm info ../web
expect 3 "kernel $dir/none on node b: No such file" "$pangaea" vm run web -k "$dir/none" -m 64M --node b
expect 2 "is not a regular file" "$pangaea" vm run web -k "$dir" -m 64M --node b
expect 3 "disk $dir/none on node b: No such file" \
  "$pangaea" vm run web -k /proc/version -m 64M -d "$dir/none" --node b
expect 2 "is not a regular file or block device" "$pangaea" vm run web -k "$0" -m 64M -d /dev/null --node b
expect 3 "no interface 'pg-none'" "$pangaea" vm run web -k "$0" -m 64M --nic tap=pg-none --node b
expect 8 "vCPUs are beyond that" "$pangaea" vm run web -k "$0" -m 64M --vcpus 64
expect 8 "of memory free" "$pangaea" vm run web -k "$0" -m 4000G
expect 2 "has vCPUs of the guest but no memory" "$pangaea" vm run web -k "$0" -m 64M --vcpus a=1,b=1
expect 3 "there is no node 'z'" "$pangaea" vm run web -k "$0" -m 64M --node z
printf 'name: web\nkernel: /k\nmemory: lots\n' >"$dir/vm.yaml"
expect 2 "vm.yaml:3: memory 'lots': expected a size" "$pangaea" vm run -f "$dir/vm.yaml"
[ -z "$(find "$dir"/run-*/vm -mindepth 1)" ] && ok "nothing is left behind" || fail "left behind: $(find "$dir"/run-*/vm)"

# Keys: a stranger, and an agent that is not whom we take it for.
cp -r "$dir/c/admin" "$dir/stranger"
rm "$dir/stranger/keys/admin.key"
key=$("$pangaea" init key "$dir/stranger/keys/admin.key")
PANGAEA_HOME=$dir/stranger expect 6 "the handshake was refused" "$pangaea" node ls --agent a
expect_log a "unknown key $key from 127.0.0.1 is refused"
cp -r "$dir/c/admin" "$dir/swapped"
real=$(grep -A3 "name: 'a'" "$dir/c/cluster.yaml" | sed -n "s/.*key: '\(.*\)'/\1/p")
sed -i "s/$real/$key/" "$dir/swapped/cluster.yaml"
# On a busy machine the connection may be gone before its address is asked for.
for _ in 1 2 3 4 5; do
  PANGAEA_HOME=$dir/swapped expect 6 "the handshake was refused" "$pangaea" node ls --agent a
  grep -q "handshake with 127" "$dir/a.log" && break
done
expect_log a "handshake with 127.0.0.1 refused: it was made with a wrong key for this agent"

# What is no message at all is dropped, and others are served.
port=$(grep -A2 "name: 'a'" "$dir/c/cluster.yaml" | sed -n 's/.*port: //p')
head -c 100000 /dev/urandom >"/dev/tcp/127.0.0.1/$port" 2>/dev/null
printf 'GET / HTTP/1.0\r\n\r\n' >"/dev/tcp/127.0.0.1/$port"
expect 0 "up" "$pangaea" node info --agent a

# An agent goes and comes; followers see it, the others keep working.
stop_agent b KILL
wait_event "b is lost" --node a
expect 4 "node b" "$pangaea" node info b --agent a
start_agent b
expect 0 "name      b" "$pangaea" node info b --agent b
wait_event "a is reachable" --node b --agent b
stop_agent a
stop_agent b
exit $bad
