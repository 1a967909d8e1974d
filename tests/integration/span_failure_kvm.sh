#!/bin/bash
# labels: kvm
# timeout: 600
# A spanning guest's slices die, its links break, its peers lie: it goes on, or ends everywhere in the
# time that span.h states (window 10 s + 2 s) with the reason in the state, and leaves no process.
# shellcheck source=tests/integration/span_lib.bash
. "$(dirname "$0")/span_lib.bash"
late=13

# told K: what the control socket of slice K says at the end goes to $dir/told.K.
told() { vm "$1" wait failed >"$dir/told.$1" 2>&1 & listeners+=($!); }

# fails_everywhere WHAT REASON...: REASON K is a pattern of what slice K must say.
fails_everywhere() {
  local what=$1 k=0 ok=1 pattern
  shift
  ended $late || ok=''
  for pattern in "$@"; do
    [ -z "$pattern" ] || grep -Eq "^failed .*$pattern" "$dir/told.$k" || ok=''
    k=$((k + 1))
  done
  if [ -n "$ok" ]; then
    echo "ok: $what: ended everywhere after $took s"
  else
    echo "FAIL: $what: $took s, exit codes $rcs"; tail "$dir"/told.*; show
  fi
  wait "${listeners[@]}" 2>/dev/null
  rm -rf "$dir"/out.* "$dir"/err.* "$dir"/run.* "$dir"/told.*
}

start() { # PART...
  listeners=()
  slices pingpong rounds=100000000 "$@"
  wait_for "both run" || { tail "$dir"/err.* "$dir"/out.*; exit 1; }
}

# A slice dies: the others say which.
start 1:32M 1:32M 1:32M
told 0; told 2
kill -9 "${pids[1]}"
fails_everywhere 'a killed slice' 'lost slice 1|slice 1' '' 'lost slice 1|slice 1'

start 1:32M 1:32M
told 1
kill -9 "${pids[0]}"
fails_everywhere 'a killed lead' '' 'slice 0'

# From here on slice 1 reaches slice 0 through a proxy.
proxied() { # PART...
  local port
  port_list=$(ports $#)
  coproc PROXY { exec python3 "$(dirname "$0")/span_proxy.py" "${port_list%% *}"; }
  read -ru "${PROXY[0]}" port || exit 1
  reach=([1,0]="$port")
}
proxy() { echo "$1" >&"${PROXY[1]}" && read -ru "${PROXY[0]}" _; }
proxy_end() { kill "$PROXY_PID"; wait "$PROXY_PID" 2>/dev/null; reach=(); port_list=''; }

# Short breaks are survived without a wrong byte.
proxied 1 2
slices dirty 'mib=48 seconds=4 rate=100' 1:32M 1:64M
wait_for 'pass' && for _ in 1 2 3; do proxy cut; read -rt 0.4 <> <(:); done
again=$(vm 0 stats | sed -n 's/^dsm.peer.1.reconnects //p')
if ended 60 && grep -q 'dirty: PASS' "$dir/out.0" && [ "${again:-0}" -ge 1 ]; then
  echo "ok: $again short breaks of the link"
else
  echo "FAIL: short breaks: ${again:-no} reconnects, exit codes $rcs"; show
fi
proxy_end
rm -rf "$dir"/out.* "$dir"/err.* "$dir"/run.*

# A break that lasts.
proxied 1 2
start 1:32M 1:32M
told 0; told 1
proxy block
fails_everywhere 'a link that stays broken' 'slice 1' 'slice 0'
proxy_end

# Nonsense.
proxied 1 2
start 1:32M 1:32M
told 0; told 1
proxy flip
fails_everywhere 'nonsense from a peer' '' ''
proxy_end

# Strangers at the door change nothing.
faults() { vm 1 stats | awk '/^dsm.faults/ {n += $2} END {print n}'; }
faults_on() { # BEFORE: until there are more
  local n=0
  while [ "$(faults)" = "$1" ] && [ $((n++)) -lt 600 ]; do read -rt 0.1 <> <(:); done
  [ $n -lt 600 ]
}
port_list=$(ports 2)
mkfifo "$dir/keys"
input=$dir/keys
slices pingpong rounds=0 1:32M 1:32M
wait_for 'both run'
head -c 4000 /dev/urandom >"$dir/noise"
for _ in 1 2 3; do timeout 5 bash -c "exec 3<>/dev/tcp/127.0.0.1/${port_list%% *}; cat '$dir/noise' >&3; cat <&3" >/dev/null 2>&1; done
printf '\n\n' >"$dir/keys"
input=/dev/null
if ended 60 && grep -q 'pingpong: PASS' "$dir/out.0"; then echo 'ok: strangers'; else echo 'FAIL: strangers'; show; fi
port_list=''
rm -rf "$dir"/out.* "$dir"/err.* "$dir"/run.*

# Killed on request, at either slice: both end well.
for k in 0 1; do
  start 1:32M 1:32M
  vm $k kill >/dev/null
  if ended $late; then
    echo "ok: kill at slice $k: exit codes $rcs"
  else
    echo "FAIL: kill at slice $k: exit codes $rcs"; show
  fi
  rm -rf "$dir"/out.* "$dir"/err.* "$dir"/run.*
done

# Stands and goes on; the counters are there.
start 1:32M 1:32M
vm 0 pause >/dev/null && vm 1 status | grep -q ^paused || { echo 'FAIL: pause'; show; }
before=$(faults)
[ "$before" = "$(faults)" ] || { echo 'FAIL: a paused guest faults'; show; }
vm 0 resume >/dev/null && vm 1 wait running >/dev/null || { echo 'FAIL: resume'; show; }
vm 1 pause >/dev/null 2>&1 && { echo 'FAIL: a follower paused by itself'; show; }
faults_on "$before" && echo 'ok: pause and resume' || { echo 'FAIL: the guest does not go on'; show; }
vm 0 reset >/dev/null || { echo 'FAIL: reset'; show; }
n=0
until [ "$(grep -c 'both run' "$dir/out.0")" = 2 ] || [ $((n++)) -gt 600 ]; do read -rt 0.1 <> <(:); done
[ $n -le 600 ] && echo 'ok: reset' || { echo 'FAIL: reset'; show; }
vm 0 kill >/dev/null
ended $late || { echo 'FAIL: kill'; show; }
exit $bad
