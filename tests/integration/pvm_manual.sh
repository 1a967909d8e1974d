#!/bin/bash
# labels: root pvm
# timeout: 60
# Hosts in namespaces that are added by hand: so=ms, where the user types on the other host what the daemon says and
# types its answer back, and so=pw, where the remote shell asks for a password at the daemon's terminal.
# shellcheck source=tests/integration/pvm_net_lib.bash
. "$(dirname "$0")/pvm_net_lib.bash" 10.91.11
patience=20
halt() {
  console halt >/dev/null
  timeout 20 sh -c "while ls -d '$W'/n/tmp*/pvmd.*.d; do sleep 0.1; done" >"$W/o" 2>/dev/null || fail "still there: $("$S" procs)"; }
two() { # h2 has come
  timeout 20 sh -c "until '$S' run 1 sh -c 'echo conf | $B/pvm/pvm' | grep -q '^2 hosts'; do sleep 0.3; done" || fail "h2 did not come: $(cat "$1")"; }
"$S" upnet 3 || fail "namespaces"
mkfifo "$W/in"
exec 5<>"$W/in"

printf 'h2 so=ms\n& h3 so=ms\n' >"$W/hosts"
"$S" run 1 setsid "$B/pvm/pvmd3" "$W/hosts" >"$W/d1" 2>&1 <"$W/in" 5>&- &
until_text "$W/d1" 'Type response:'
grep -q 'Login to "h2" and type:' "$W/d1" || fail "what the user is told: $(cat "$W/d1")"
command=$(grep -- '-S -d0x0 -nh2 -K' "$W/d1")
answer=$(timeout 10 "$S" run 2 sh -c "$command" </dev/null) || fail "the command: $command"
printf '\nwhat?\n' >&5
until_text "$W/d1" 'not the line of a daemon'
printf '  %s\r\n' "$answer" >&5
until_text "$W/d1" Thanks
two "$W/d1"
# One that is given up: the line of a daemon that has another key, then the end of the terminal.
console "add h3" >"$W/o" & c=$!
until_text "$W/d1" 'Login to "h3"'
key=$(printf '0%.0s' $(seq 64))
other=$(timeout 10 "$S" run 3 sh -c "$B/pvm/pvmd3 -S -nh3 -K$key" </dev/null)
echo "$other" >&5
wait $c
grep -q "Can't start pvmd\|0 successful" "$W/o" || fail "a daemon of another key: $(cat "$W/o")"
"$S" procs 3 | awk '/pvmd3/ {print $2}' | xargs -r kill
halt
# Without a terminal.
"$S" run 1 setsid "$B/pvm/pvmd3" "$W/hosts" >"$W/d2" 2>&1 </dev/null &
until_text "$W/d2" sock
console "add h3" | grep -q "Can't start pvmd" || fail "by hand without a hand"
grep -q 'cannot add h3 by hand' "$W"/n/tmp1/pvml* || fail "the reason"
halt

printf '#!/bin/sh\nprintf Password: >/dev/tty; read -r word </dev/tty || exit 1\n[ "$word" = secret ] && exec "%s/n/rsh" "$@"\n' "$W" >"$W/rsh"
chmod 755 "$W/rsh"
echo 'h2 so=pw' >"$W/hosts"
"$S" run 1 env "PVM_RSH=$W/rsh" setsid "$B/pvm/pvmd3" "$W/hosts" >"$W/d3" 2>&1 </dev/null &
until_text "$W/d3" sock
until_text "$W/n/tmp1/pvml.0" 'no terminal to ask at'
halt
script -qfc "'$S' run 1 env 'PVM_RSH=$W/rsh' '$B/pvm/pvmd3' '$W/hosts'" /dev/null >"$W/d4" 2>&1 <"$W/in" 5>&- &
until_text "$W/d4" Password:
echo secret >&5
two "$W/d4"
halt
echo "a host by hand, a host by password"
