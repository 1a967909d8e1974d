#!/bin/bash
# labels: root pvm
# timeout: 60
# Hosts in namespaces: a registered hoster (tests/pvm/hoster.c) starts the daemons, whose orders go sealed
# over the network and not by its command line; where it fails, or ends, the call says so at once.
# shellcheck source=tests/integration/pvm_net_lib.bash
. "$(dirname "$0")/pvm_net_lib.bash" 10.91.9
PVMHOSTS_ENV+=" HOSTER_RSH=$W/rsh"
"$S" upnet 4 || fail "namespaces"
printf '#!/bin/sh\nexec "%s" rsh "$@"\n' "$S" >"$W/rsh"; chmod 755 "$W/rsh"
# Only the hoster can start something: the daemon's own way is closed.
"$S" run 1 env PVM_RSH=/bin/false setsid "$B/pvm/pvmd3" >"$W/d1" 2>&1 </dev/null &
until_text "$W/d1" sock
console "add h2" | grep -q "Can't start pvmd" || fail "a host came up without a hoster"
hoster() { # STOPFILE [SETTING]
  "$S" run 1 env "${2:-A=b}" "$B/tests/pvm/pvmtest_hoster" "$1" >"$W/hoster" 2>&1 </dev/null &
  h=$!
  until_text "$W/hoster" registered
}
hoster "$W/stop"
console "add h2 h3" >"$W/o"
grep -q '^2 successful' "$W/o" || fail "two hosts by the hoster: $(cat "$W/o" "$W/hoster")"
grep -c 'ddpro' "$W/hoster" | grep -qx 2 || fail "the hoster was asked for others: $(cat "$W/hoster")"
console "conf" >"$W/o"
grep -q '^3 hosts' "$W/o" || fail "who is in: $(cat "$W/o")"
console "spawn -h2 -> hostname" >"$W/o"
# What everybody may see of the daemon is the public key alone.
for i in 2 3; do
  [ "$("$S" procs $i | grep -cE -- "pvmd3 -s -d0x0 -nh$i -K[0-9a-f]{64} ?$")" = 1 ] || fail "the daemon of h$i: $("$S" procs $i)"
done
console "add h3" | grep -q 'Duplicate host' || fail "twice the same host"
touch "$W/stop"; wait $h || fail "the hoster: $(cat "$W/hoster")"
hoster "$W/stop2" HOSTER_RSH=/bin/false
console "add h4" | grep -q "Can't start pvmd" || fail "a hoster that cannot"
touch "$W/stop2"; wait $h
# One that is killed while it is at work.
printf '#!/bin/sh\ntouch "%s/asked"; exec sleep 60\n' "$W" >"$W/slow"; chmod 755 "$W/slow"
hoster "$W/stop3" "HOSTER_RSH=$W/slow"
console "add h4" >"$W/o" & c=$!
timeout 10 sh -c "until [ -e '$W/asked' ]; do sleep 0.05; done" || fail "the third hoster was not asked"
kill -9 $h
wait $c
grep -q "Can't start pvmd" "$W/o" || fail "a dead hoster: $(cat "$W/o")"
echo "2 hosts by a hoster; failures are told"
