# Shared by the tests of migrations that break; after agent_lib.bash.
# shellcheck shell=bash disable=SC2154

# NODE VM
pid_of() { local p; read -r p _ <"$dir/run-$1/vm/$2/pid" && echo "$p"; }

# "NODE STATE" of a VM, of each node that shows it.
where() { "$pangaea" vm ls --json | grep -o "{[^{}]*\"name\":\"$1\"[^{}]*}" | sed 's/.*"node":"\([^"]*\)".*"state":"\([^"]*\)".*/\1 \2/' | paste -sd+; }

wait_until() { # SECONDS COMMAND...: a state that comes by itself
  local end=$((SECONDS + $1)); shift
  until "$@"; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.05
  done
  return 0
}
is_where() { [ "$(where "$1")" = "$2" ]; }
is_gone() { ! [ -e "$dir/run-$1/vm/$2" ]; }
wait_state() { wait_until 60 is_where "$2" "$1 $3" || fail "$2 is '$(where "$2")' instead of '$1 $3'"; }
wait_gone() { wait_until 60 is_gone "$1" "$2" || fail "node $1 keeps $2: $("$pangaea" vm ls)"; }

expect_journal() { # NODE VM WORDS
  local got; got=$(sed 's/.* //' "$dir/run-$1/vm/$2/migration.journal" | paste -sd' ')
  [[ " $got " == *" $3 "* ]] && ok "journal: $3" || fail "journal of $1: $got instead of $3"
}

# Whether this kernel lets us break connections.
can_cut() {
  [ "$(id -u)" = 0 ] && command -v ss >/dev/null && python3 - <<'P'
import socket, subprocess, sys
s = socket.create_server(("127.0.0.1", 0))
c = socket.create_connection(s.getsockname())
subprocess.run(["ss", "-K", "-t", "dport", "=", ":%d" % s.getsockname()[1]], capture_output=True)
c.settimeout(1)
try:
    c.recv(1)
except TimeoutError:
    sys.exit(1)
except OSError:
    pass
P
}

# NODE VM: breaks all connections of the VM's process there.
cut_link() {
  local pid ports p; pid=$(pid_of "$1" "$2")
  ports=$(ss -tnpH state established | grep "pid=$pid," | awk '{print $3 " " $4}' | sed 's/[^ ]*:\([0-9]*\) [^ ]*:\([0-9]*\)/\1 \2/')
  [ -n "$ports" ] || { fail "$2 on $1 has no connections"; return 1; }
  while read -r p _; do ss -K -t "sport = :$p" or "dport = :$p" >/dev/null; done <<<"$ports"
  ok "the link of $2 is cut"
}

# As expect, but it may take some tries until the other side is ready for it.
expect_retry() {
  local code=$1 text=$2 out rc end=$((SECONDS + 40)); shift 2
  while :; do
    out=$(timeout 60 "$@" </dev/null 2>&1); rc=$?
    if [ $rc = "$code" ] && [[ $out == *"$text"* ]]; then ok "${*##*/}: $rc, $text"; return; fi
    [ $SECONDS -lt $end ] || { fail "${*}: exit code $rc instead of $code, expected '$text' in: $out"; return; }
  done
}

# At the end: what helps with a failure.
show_logs() {
  [ $bad = 0 ] && return
  "$pangaea" events 2>&1 | tail -n 60
  tail -n 12 "$dir"/*.log "$dir"/run-*/vm/*/log 2>/dev/null
}
