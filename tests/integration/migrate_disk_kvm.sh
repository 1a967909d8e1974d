#!/bin/bash
# labels: agent kvm root
# timeout: 150
# vm migrate --with-disk between two agents that share no file: a guest writes its disk and reads it back
# all the while. Whatever breaks, one good disk is left and nothing of another.
if ! [ -r /dev/kvm ] || ! [ -w /dev/kvm ]; then echo "no /dev/kvm"; exit 77; fi
unshare -m true 2>/dev/null || { echo "no mount namespaces"; exit 77; }
. "$(dirname "$0")/agent_lib.bash"
. "$(dirname "$0")/migrate_lib.bash"
. "$(dirname "$0")/hold_lib.bash"
hold_with migrate_hold.c "$vmm"

# Each node has a file system of its own at $dir/disks, which outlives its agent.
declare -A fs
real=$pangaead; pangaead=$dir/agent
mkdir "$dir/disks"
for n in a b; do
  mkfifo "$dir/mounted-$n"
  unshare -m --propagation private sh -c "mount -t tmpfs -o size=40m none '$dir/disks' && echo ready >'$dir/mounted-$n' && exec sleep 300" &
  fs[$n]=$!
  read -r -t 20 line <"$dir/mounted-$n" && [ "$line" = ready ] || { echo "FAIL: no file system for $n"; exit 1; }
done
trap 'case $BASHPID in $$) kill "${fs[@]}" 2>/dev/null; cleanup ;; esac' EXIT
at() { local n=$1; shift; nsenter -t "${fs[$n]}" -m -- "$@"; }
cat >"$pangaead" <<W
#!/bin/bash
case \$* in *nodes/a*) ns=${fs[a]} ;; *) ns=${fs[b]} ;; esac
exec nsenter -t \$ns -m -- "$real" "\$@"
W
cat >"$dir/vmm" <<W
#!/bin/sh
case \$* in *run-b/*) [ -s "$dir/hold-b" ] && export LD_PRELOAD="$preload" MIGRATE_HOLD=" \$(cat "$dir/hold-b")" MIGRATE_GO="$dir/go-b" ;; esac
exec "$vmm" "\$@"
W
chmod +x "$pangaead" "$dir/vmm"
start_node() { start_agent "$1" --vmm "$dir/vmm"; }
both_up() { local n; for n in a b; do [ "$("$pangaea" node ls --agent $n 2>/dev/null | grep -c ' up ')" = 2 ] || return 1; done; }
commits() { grep -c ' committing$' "$dir/run-a/vm/d/migration.journal" 2>/dev/null; }
has_commits() { [ "$(commits)" = "$1" ]; }
has_pid() { [ -s "$dir/run-$1/vm/$2/pid" ]; }
disks() { at "$1" ls "$dir/disks" | paste -sd' '; }
expect_disks() { [ "$(disks "$1")" = "$2" ] && ok "disks of $1: '$2'" || fail "disks of $1: '$(disks "$1")' instead of '$2'"; }
writes_on() { expect 0 "disk: pass" timeout 60 "$pangaea" vm console "$1" --until "disk: pass" --timeout 50; }

make_cluster a b
start_node a; start_node b
wait_until 40 both_up || fail "the agents do not see each other"
img=$dir/disks/d.img
at a truncate -s 17000000 "$img"

expect 0 running "$pangaea" vm run d -k "$guests/disk" -m 64M -d "$img" -c 'blocks=3072 rate=15' --node a
writes_on d
expect 3 "$img" "$pangaea" vm migrate d --to b
expect 2 "goes with --mode precopy" "$pangaea" vm migrate d --to b --with-disk --mode postcopy
expect 2 "goes with --with-disk" "$pangaea" vm migrate d --to b --force
at b fallocate -l 36M "$dir/disks/full"
expect 8 "free, the disks take" "$pangaea" vm migrate d --to b --with-disk
at b rm "$dir/disks/full"
at b mkdir "$img"
expect 2 "is no regular file" "$pangaea" vm migrate d --to b --with-disk --force
at b rmdir "$img"

expect 0 "d: on node b" "$pangaea" vm migrate d --to b --with-disk
wait_gone a d; writes_on d
expect_disks b d.img
[ "$(at b stat -c %s "$img")" = 17000000 ] && ok "as large" || fail "size $(at b stat -c %s "$img")"
expect 7 "--force replaces it" "$pangaea" vm migrate d --to a --with-disk
expect 0 "d: on node a" "$pangaea" vm migrate d --to a --with-disk --force --encrypt --channels 3
wait_gone b d; writes_on d
expect_disks a d.img

# The old one at b is 'old' from now on.
at b sh -c "echo old >'$img'"
old_is_there() { expect_disks b d.img; [ "$(at b cat "$img")" = old ] && ok "what was there is there" || fail "the old disk is gone"; }
"$pangaea" vm migrate d --to b --with-disk --force --bandwidth 4M >"$dir/out" 2>&1 & job=$!
wait_until 20 has_pid b d || fail "no process at b: $(cat "$dir/out")"
wait_until 20 "$pangaea" vm migrate d --cancel >/dev/null 2>&1 || fail "no cancel: $(cat "$dir/out")"
wait $job && fail "a cancelled migration is done"
wait_gone b d; old_is_there

"$pangaea" vm migrate d --to b --with-disk --force --bandwidth 4M >"$dir/out" 2>&1 & job=$!
wait_until 20 has_pid b d || fail "no process at b: $(cat "$dir/out")"
kill -9 "$(pid_of b d)"
wait $job && fail "the destination was killed, and it is done"
wait_gone b d; old_is_there

# All is there and has its name, but for the commit; then the process dies, once with its agent.
for who in vmm agent; do
  before=$(commits)
  mkfifo "$dir/go-b"; echo committed >"$dir/hold-b"
  "$pangaea" vm migrate d --to b --with-disk --force >"$dir/out" 2>&1 & job=$!
  wait_until 40 has_commits $((before + 1)) || fail "no COMMIT"
  [ "$(disks b | wc -w)" = 2 ] && ok "the copy and the spare: $(disks b)" || fail "named: $(disks b)"
  rm "$dir/hold-b"
  [ $who = agent ] && stop_agent b KILL
  kill -9 "$(pid_of b d)"
  [ $who = agent ] && { start_node b; wait_until 40 both_up || fail "b does not come back"; }
  wait $job && fail "the destination died before the commit, and it is done"
  rm "$dir/go-b"
  wait_state a d running; wait_gone b d; writes_on d; old_is_there
done

at b rm "$img"
expect 0 "d: on node b" "$pangaea" vm migrate d --to b --with-disk
wait_gone a d; writes_on d
(sleep 0.2; echo .) | timeout 60 "$pangaea" vm console d --until "disk: PASS" --timeout 50 >"$dir/console" 2>&1 &&
  ok "the guest found all as it wrote it" || fail "the guest: $(tail -n 3 "$dir/console")"
grep -h FAIL "$dir"/run-?/vm/d/log "$dir/console" && fail "the guest found its disk wrong"
wait_gone b d # it has powered off

# A qcow2 image: there it is one of its own, with the same disk in it.
img=$dir/disks/q.qcow2
if command -v qemu-img qemu-nbd >/dev/null; then
  for n in a b; do at $n rm -f "$dir/disks/d.img"; done
  at a qemu-img create -q -f qcow2 -o cluster_size=128k "$img" 32M
  expect 0 running "$pangaea" vm run q -k "$guests/disk" -m 64M -d "$img,format=qcow2" -c 'blocks=2048 rate=15' --node a
  writes_on q
  expect 0 "q: on node b" "$pangaea" vm migrate q --to b --with-disk
  wait_gone a q; writes_on q
  expect_disks b q.qcow2
  expect 7 "--force replaces it" "$pangaea" vm migrate q --to a --with-disk
  expect 0 "q: on node a" "$pangaea" vm migrate q --to a --with-disk --force --encrypt
  wait_gone b q; writes_on q
  (sleep 0.2; echo .) | timeout 60 "$pangaea" vm console q --until "disk: PASS" --timeout 50 >"$dir/console" 2>&1 &&
    ok "the guest found all as it wrote it" || fail "the guest: $(tail -n 3 "$dir/console")"
  grep -h FAIL "$dir/console" && fail "the guest found its qcow2 disk wrong"
  wait_gone a q
  for n in a b; do
    expect 0 "virtual size: 32 MiB" nsenter -t "${fs[$n]}" -m -- qemu-img info "$img"
    expect 0 "No errors were found" nsenter -t "${fs[$n]}" -m -- qemu-img check "$img"
  done
else
  echo "no qemu-img or qemu-nbd: qcow2 was not tested"
fi
show_logs
exit $bad
