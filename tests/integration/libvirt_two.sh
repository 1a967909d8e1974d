#!/bin/bash
# labels: root libvirt
# timeout: 180
# Two hosts on this machine, each a libvirtd with QEMU (TCG) and an agent in namespaces of its own: a
# domain that dirties memory is started, moved live there and back by `pangaea vm migrate`, with
# progress; a move is cancelled; libvirtd dies and comes back.
set -u
[ "$(id -u)" = 0 ] || { echo "needs root for namespaces"; exit 77; }
for tool in libvirtd virsh qemu-system-x86_64; do
  command -v $tool >/dev/null || { echo "$tool is not installed; see deploy/packages"; exit 77; }
done
if [ "${1-}" != in ]; then
  unshare -n -m true 2>/dev/null || { echo "cannot make namespaces here"; exit 77; }
  # Its first process only waits: libvirtd waits for the end of the QEMUs it asks for their features, and
  # whoever inherits those must reap them at once, which bash does not while it reads.
  exec unshare --net --mount --pid --fork --kill-child --mount-proc bash -c '"$0" in & wait $!' "$0"
fi
# All below runs in a process namespace that ends with this script, and everything in it.
build=${PANGAEA_BUILD:?}
dir=$(mktemp -d /tmp/pgv.XXXXXX) || exit 1
pangaea=$build/ctl/pangaea
declare -A host virtd
trap 'case $BASHPID in $$) rm -rf "$dir" ;; esac' EXIT
ok() { echo "ok: $*"; }
fail() {
  echo "FAIL: $*"
  tail -n 25 "$dir"/*-agent.log; tail -n 3 "$dir"/?/log/libvirt/qemu/*.log
  grep -v ethtool "$dir"/*-libvirtd.log | tail -n 10
  exit 1
}
# wait_for SECONDS WHAT CMD...
wait_for() {
  local s=$1 what=$2 end=$((SECONDS + $1)); shift 2
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt "$end" ] || fail "$what: not after $s s: $(tail -n 2 "$dir/out" 2>/dev/null)"; done
}
address() { [ "$1" = a ] && echo 10.78.0.1 || echo 10.78.0.2; }
on() { local n=$1; shift; nsenter -t "${host[$n]}" --net --mount --uts -- "$@"; }
# With the process of its own as $!.
start_on() { local n=$1 log=$2; shift 2; nsenter -t "${host[$n]}" --net --mount --uts -- "$@" >>"$dir/$n-$log.log" 2>&1 & }
in_a() { on a env PANGAEA_HOME="$dir/c/admin" "$pangaea" "$@"; }

# A host: its own network, names and mounts, with private folders for libvirt and an empty /run.
make_host() { # NAME
  mkdir -p "$dir/$1"/{etc,lib,log,lib/qemu} "$dir/$1/log/libvirt"
  mkfifo "$dir/$1/up"
  # The users that libvirtd looks for even if it does not use them; the package libvirt-daemon makes none.
  { grep -v '^libvirt-qemu:' /etc/passwd; echo 'libvirt-qemu:x:64055:64055::/:/bin/false'; } >"$dir/$1/passwd"
  { grep -v '^libvirt-qemu:\|^kvm:' /etc/group; echo 'libvirt-qemu:x:64055:'; echo 'kvm:x:64056:'; } >"$dir/$1/group"
  unshare --net --uts --mount bash -c "
    hostname host-$1
    cp -a /etc/libvirt/. '$dir/$1/etc/' 2>/dev/null
    mount --bind '$dir/$1/etc' /etc/libvirt && mount --bind '$dir/$1/passwd' /etc/passwd &&
    mount --bind '$dir/$1/group' /etc/group &&
    mount --bind '$dir/$1/lib' /var/lib/libvirt && mount --bind '$dir/$1/log/libvirt' /var/log/libvirt &&
    mount -t sysfs sys /sys && mount -t tmpfs run /run && mkdir -p /run/libvirt && echo up >'$dir/$1/up'
    exec sleep infinity" &
  host[$1]=$!
  read -r _ <"$dir/$1/up"
  printf '%s\n' 'listen_tls = 0' 'listen_tcp = 1' 'auth_tcp = "none"' 'auth_unix_rw = "none"' \
    "listen_addr = \"$(address "$1")\"" "host_uuid = \"$(cat /proc/sys/kernel/random/uuid)\"" >"$dir/$1/etc/libvirtd.conf"
  printf '%s\n' 'user = "root"' 'group = "root"' 'security_driver = "none"' 'cgroup_controllers = []' \
    'namespaces = []' 'stdio_handler = "file"' 'remember_owner = 0' >"$dir/$1/etc/qemu.conf"
  ip link set "v$1" netns "${host[$1]}"
  on "$1" ip link set lo up
  on "$1" ip addr add "$(address "$1")/24" dev "v$1"
  on "$1" ip link set "v$1" up
}
start_libvirtd() {
  start_on "$1" libvirtd libvirtd --listen
  virtd[$1]=$!
}
start_agent() {
  start_on "$1" agent "$build/node/agent/pangaead" --home "$dir/c/nodes/$1" --run-dir "$dir/run-$1" \
    --libvirt-peer "qemu+tcp://$(address "$1")/system"
}
# wait_event N TEXT [ARGS]: until N events with this text have come.
wait_event() {
  local n=$1 text=$2 line; shift 2
  while read -r -t 40 line; do
    [[ $line != *"$text"* ]] || n=$((n - 1))
    [ "$n" -gt 0 ] || return 0
  done < <(exec timeout 40 nsenter -t "${host[a]}" --net --mount --uts -- env PANGAEA_HOME="$dir/c/admin" "$pangaea" events --follow "$@" 2>/dev/null)
  fail "no event '$text'"
}
where() { in_a vm ls --json | grep -o '"name":"dom","node":"[ab]","state":"running"' | grep -o '"node":"[ab]"' | tr -d '"' | cut -d: -f2 | paste -sd+; }
writes_on() { [ "$(wc -l <"$dir/serial")" -gt $((seen + 1)) ]; } # since $seen was set
there() { [ "$(where)" = "$1" ]; }

mkdir -p /etc/libvirt /var/lib/libvirt /var/log/libvirt
ip link add va type veth peer name vb
ip link set lo up
make_host a; make_host b
"$pangaea" init cluster --nodes a="$(address a)",b="$(address b)" --out "$dir/c" -q || fail init
for n in a b; do start_libvirtd $n; start_agent $n; done
wait_event 2 'connected to qemu:///system'
in_a node info b | grep libvirt

cat >"$dir/dom.xml" <<X
<domain type='qemu'><name>dom</name><memory unit='MiB'>96</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><kernel>$build/tests/guests/dirty</kernel><cmdline>mib=32 rate=20</cmdline></os>
<features><acpi/></features><cpu mode='custom' match='exact'><model>qemu64</model></cpu>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator><serial type='file'><source path='$dir/serial' append='on'/></serial>
<memballoon model='none'/></devices></domain>
X
on a virsh -q define "$dir/dom.xml" || fail "define"
wait_event 1 defined --node a dom
in_a vm ls --json | grep -q '"name":"dom","node":"a","state":"off"' || fail "not in the list: $(in_a vm ls)"
in_a vm start dom >"$dir/out" 2>&1 || fail "start: $(cat "$dir/out")"
wait_for 10 running there a
wait_for 30 'the guest writes' grep -q 'MiB written' "$dir/serial"
ok "started"
in_a vm ls

in_a vm migrate dom --to b --json >"$dir/out" 2>&1 || fail "to b: $(cat "$dir/out")"
wait_for 10 'at b' there b
grep -q '"state":"done".*"round":[1-9].*"downtime_ns":[1-9]' "$dir/out" || fail "no summary: $(cat "$dir/out")"
in_a vm migrate dom --to a >"$dir/out" 2>&1 || fail "back: $(cat "$dir/out")"
cat "$dir/out"
wait_for 10 'at a' there a
seen=$(wc -l <"$dir/serial")
wait_for 10 'the guest goes on' writes_on
ok "there and back"

in_a vm migrate dom --to b --bandwidth 1M --json >"$dir/out" 2>&1 & job=$!
wait_for 60 'progress' grep -q '"state":"copying".*"pages_left":[1-9]' "$dir/out"
in_a vm migrate dom --cancel || fail "cancel"
wait $job && fail "a cancelled migration says it is done"
there a || fail "after the cancel it is on '$(where)'"
seen=$(wc -l <"$dir/serial")
wait_for 10 'the guest goes on' writes_on
ok "cancel: $(tail -n 1 "$dir/out")"

kill -9 "${virtd[b]}"; wait "${virtd[b]}" 2>/dev/null
wait_event 1 'connection to libvirtd was lost' --node b
in_a vm migrate dom --to b >"$dir/out" 2>&1; [ $? = 4 ] || fail "to a node without libvirtd: $(cat "$dir/out")"
start_libvirtd b
wait_event 2 'connected to qemu:///system' --node b
in_a vm migrate dom --to b >"$dir/out" 2>&1 || fail "after libvirtd came back: $(cat "$dir/out")"
wait_for 10 'at b' there b
ok "libvirtd came back, and so did its agent"

in_a vm kill dom || fail kill
wait_event 3 stopped --node b dom
in_a vm ls --json | grep -q '"name":"dom","node":"b","state":"off"' || fail "not off: $(in_a vm ls)"
grep -q FAIL "$dir/serial" && fail "the guest's memory was wrong: $(grep FAIL "$dir/serial")"
ok "memory right all the time"
