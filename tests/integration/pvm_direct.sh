#!/bin/bash
# labels: root pvm
# timeout: 120
# Messages between tasks of two hosts: by a connection of their own, by IPv6, and by the encrypted
# links alone (PVM_NET=sealed); strangers at the daemons' ports are shown the door.
# shellcheck source=tests/integration/pvm_net_lib.bash
. "$(dirname "$0")/pvm_net_lib.bash" 10.91.8
up() { # ENVIRONMENT: two hosts, our daemon on the first
  export PVMHOSTS_ENV="PVM_DPATH=$B/pvm/pvmd3 $1"
  "$S" upnet 2 || fail "namespaces"
}
daemon() {
  # What the one before said is no sign of this one.
  rm -f "$W/d"; : >"$W/d"
  "$S" run 1 setsid "$B/pvm/pvmd3" >"$W/d" 2>&1 </dev/null &
  timeout 10 sh -c "until grep -q sock '$W/d'; do sleep 0.05; done" || fail "no daemon: $(cat "$W/d")"
}
pair() { timeout 50 "$S" run 1 "$B/tests/pvm/pvmtest_netpair" h2 "$1" >"$W/o" || fail "$2: $(cat "$W/o")"; echo "$2: $(paste -sd, "$W/o")"; }

up ""; daemon
pair direct "IPv4"
# Every port that listens on either host gets garbage; the machine goes on.
n=0
for h in 1 2; do
  for p in $("$S" run $h sh -c "ss -Hltn | awk '{print \$4}' | sed 's/.*://'"); do
    "$S" run $((3 - h)) timeout 10 bash -c "exec 3<>/dev/tcp/10.91.8.$h/$p; head -c 4000 /dev/urandom >&3; cat <&3 >/dev/null" 2>/dev/null
    [ $? -lt 124 ] || fail "port $p of h$h keeps a stranger that sent garbage"
    n=$((n + 1))
  done
done
[ $n -ge 3 ] || fail "only $n ports listen"
pair direct "after garbage"
"$S" down; rm -rf "$W/n"

up "PVM_NET=sealed"; daemon
pair sealed "sealed"
"$S" down; rm -rf "$W/n"

# IPv6 only: the names have no other addresses.
up ""
for i in 1 2; do
  nsenter -t "$(cat "$W/n/h$i.pid")" -n sh -c "ip addr add fd00:91::$i/64 dev eth0 nodad; ip addr del 10.91.8.$i/24 dev eth0" || { echo "no IPv6 here"; exit 0; }
done
printf '::1 localhost\nfd00:91::1 h1\nfd00:91::2 h2\n' >"$W/n/hosts"
daemon
pair direct "IPv6"
