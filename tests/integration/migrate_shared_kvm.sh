#!/bin/bash
# labels: agent kvm
# timeout: 300
# vm migrate of a guest whose disks both nodes reach: a guest writes its disk and reads it back all the while. Of a
# qcow2 image QEMU's lock goes with it; whatever breaks, one node has it, or the guest is paused until it can be had.
if ! [ -r /dev/kvm ] || ! [ -w /dev/kvm ]; then echo "no /dev/kvm"; exit 77; fi
{ command -v qemu-img && command -v qemu-nbd; } >/dev/null || { echo "no qemu-img or qemu-nbd"; exit 77; }
. "$(dirname "$0")/agent_lib.bash"
. "$(dirname "$0")/migrate_lib.bash"
. "$(dirname "$0")/hold_lib.bash"
hold_with migrate_hold.c "$vmm"
cat >"$dir/vmm" <<W
#!/bin/sh
case \$* in *run-b/*) [ -s "$dir/hold-b" ] && export LD_PRELOAD="$preload" MIGRATE_HOLD=" \$(cat "$dir/hold-b")" MIGRATE_GO="$dir/go-b" ;; esac
exec "$vmm" "\$@"
W
chmod +x "$dir/vmm"
both_up() { [ "$("$pangaea" node ls --agent a 2>/dev/null | grep -c ' up ')" = 2 ]; }
has_commits() { [ "$(grep -c ' committing$' "$dir/run-a/vm/$1/migration.journal" 2>/dev/null)" = "$2" ]; }
writes_on() { expect 0 "disk: pass" timeout 60 "$pangaea" vm console "$1" --until "disk: pass" --timeout 50; }
server_of() { pgrep -P "$(pgrep -d, -P "$(pid_of "$1" "$2")")"; } # NODE VM: its qemu-nbd
has_server() { server_of "$1" "$2" >/dev/null; }
is_paused_for() { "$pangaea" vm info "$1" | grep -q "$2"; }

make_cluster a b
start_agent a --vmm "$dir/vmm"; start_agent b --vmm "$dir/vmm"
wait_until 40 both_up || fail "the agents do not see each other"

for kind in qcow2 raw; do
  img=$dir/$kind,1.img # a comma, for QEMU's lists of options
  d=$dir/$kind.img; ln -s "$img" "$d"
  qemu-img create -q -f $kind "$img" 32M
  expect 0 running "$pangaea" vm run $kind -k "$guests/disk" -m 64M -d "$d,format=$kind" -c 'blocks=2048 rate=15' --node a
  writes_on $kind
  expect 0 "$kind: on node b" "$pangaea" vm migrate $kind --to b
  wait_gone a $kind; writes_on $kind
  expect 0 "$kind: on node a" "$pangaea" vm migrate $kind --to a --mode postcopy
  wait_gone b $kind; writes_on $kind
done

# The destination has the image and dies before the commit; then its qemu-nbd stays for a while.
# A stopped one would not end with its parent.
left=''
trap 'case $BASHPID in $$) [ -z "$left" ] || kill -KILL "$left" 2>/dev/null; cleanup ;; esac' EXIT
mkfifo "$dir/go-b"; echo committed >"$dir/hold-b"
for stays in '' stays; do
  n=$(grep -c ' committing$' "$dir/run-a/vm/qcow2/migration.journal")
  "$pangaea" vm migrate qcow2 --to b >"$dir/out" 2>&1 & job=$!
  wait_until 40 has_commits qcow2 $((n + 1)) || fail "no COMMIT"
  wait_until 20 has_server b qcow2 || fail "the destination has no image"
  has_server a qcow2 && fail "the source has it still"
  [ -n "$stays" ] && { left=$(server_of b qcow2); kill -STOP "$left"; }
  kill -9 "$(pid_of b qcow2)"
  if [ -n "$stays" ]; then
    wait_until 20 is_paused_for qcow2 'another node may have it still' || fail "$("$pangaea" vm info qcow2)"
    wait_until 20 is_where qcow2 "a paused" && ok "it is paused: $(where qcow2)" || fail "it is $(where qcow2)"
    expect 9 "another node may have it still" "$pangaea" vm resume qcow2
    kill -CONT "$left"; left=''
  fi
  # By itself, where the image comes free within the two seconds that the source waits for it.
  expect_retry 0 "" "$pangaea" vm resume qcow2
  wait $job && fail "the destination died before the commit, and it is done"
  wait_gone b qcow2; wait_state a qcow2 running; writes_on qcow2
done
rm "$dir/hold-b"

expect 0 "qcow2: on node b" "$pangaea" vm migrate qcow2 --to b
wait_gone a qcow2; writes_on qcow2
for kind in qcow2 raw; do
  (sleep 0.2; echo .) | timeout 60 "$pangaea" vm console $kind --until "disk: PASS" --timeout 50 >"$dir/console" 2>&1 &&
    ok "the guest found all as it wrote it" || fail "the guest: $(tail -n 3 "$dir/console")"
  grep -h FAIL "$dir/console" && fail "the guest found its disk wrong"
done
wait_gone b qcow2; wait_gone a raw # they have powered off
expect 0 "No errors were found" qemu-img check "$dir/qcow2,1.img"
show_logs
exit $bad
