# Shared by the tests of the agent: a cluster of agents on this machine. Source it.
# shellcheck shell=bash
set -u
build=${PANGAEA_BUILD:?}
pangaea=$build/ctl/pangaea
pangaead=$build/node/agent/pangaead
vmm=$build/node/vmm/pangaea-vmm
guests=$build/tests/guests
dir=$(mktemp -d /tmp/pg.XXXXXX) || exit 1
declare -A agent_pid
bad=0

# VMs outlive their agents, so they are ended by the pids in their folders.
cleanup() {
  local p f
  for p in "${agent_pid[@]}"; do kill "$p" 2>/dev/null; done
  for f in "$dir"/run-*/vm/*/pid; do
    [ -f "$f" ] && { read -r p _ <"$f"; kill -9 "$p" 2>/dev/null; }
  done
  rm -rf "$dir"
}
# A child that a signal ends right after its fork runs this as well, and there || and && go astray.
trap 'case $BASHPID in $$) cleanup ;; esac' EXIT

ok() { echo "ok: $*"; }
fail() { echo "FAIL: $*"; bad=1; }

# make_cluster NAME...: keys and homes under $dir/c, on free ports below the ephemeral ones.
make_cluster() {
  local port=$((20000 + $$ * 16 % 12000)) list='' n
  for n in "$@"; do
    while ss -Hltun "sport = :$port" 2>/dev/null | grep -q .; do port=$((port + 1)); done
    list+="${list:+,}$n=127.0.0.1:$port"; port=$((port + 1))
  done
  "$pangaea" init cluster --nodes "$list" --out "$dir/c" -q || exit 1
  export PANGAEA_HOME=$dir/c/admin
}

# start_agent NAME [ARGS]: returns once it listens; its log is $dir/NAME.log.
start_agent() {
  local n=$1 line=''; shift
  [ -p "$dir/$n.ready" ] || mkfifo "$dir/$n.ready" || exit 1
  setsid "$pangaead" --home "$dir/c/nodes/$n" --run-dir "$dir/run-$n" --vmm "$vmm" --ready-fd 9 "$@" \
    9>"$dir/$n.ready" >>"$dir/$n.log" 2>&1 &
  agent_pid[$n]=$!
  read -r -t 20 line <"$dir/$n.ready"
  [ "$line" = ready ] || { cat "$dir/$n.log"; echo "agent $n did not start"; exit 1; }
}

# stop_agent NAME [SIGNAL]
stop_agent() {
  kill "-${2:-TERM}" "${agent_pid[$1]}" && wait "${agent_pid[$1]}" 2>/dev/null
  unset "agent_pid[$1]"
}

# wait_event TEXT [ARGS]: until an event with this text comes (or has come).
wait_event() {
  local text=$1 line; shift
  while read -r -t 20 line; do
    case $line in *"$text"*) return 0 ;; esac
  done < <(exec timeout 20 "$pangaea" events --follow "$@" 2>/dev/null)
  fail "no event '$text'"; return 1
}

# expect CODE TEXT COMMAND...: exit code and a text in what it prints.
expect() {
  local code=$1 text=$2 out rc; shift 2
  out=$(timeout 60 "$@" </dev/null 2>&1); rc=$?
  if [ $rc = "$code" ] && [[ $out == *"$text"* ]]; then
    ok "${*##*/}: $rc, $text"
  else
    fail "${*}: exit code $rc instead of $code, expected '$text' in: $out"
  fi
}

# expect_log NODE TEXT
expect_log() {
  if grep -qF -- "$2" "$dir/$1.log"; then ok "log of $1: $2"; else fail "log of $1 lacks '$2'"; cat "$dir/$1.log"; fi
}

# needs_guest NAME: skips where a bare-metal guest cannot run.
needs_guest() {
  if ! [ -r /dev/kvm ] || ! [ -w /dev/kvm ]; then echo "no /dev/kvm"; exit 77; fi
  if ! [ -x "$vmm" ] || ! [ -f "$guests/$1" ]; then echo "pangaea-vmm or the test guests are not built"; exit 77; fi
}

# soon SECONDS EXPECTED COMMAND...: until it prints that.
soon() {
  local said
  timeout "$1" bash -c 'until "${@:2}" 2>&1 | grep -qF -- "$1"; do read -rt 0.1 <> <(:); done; :' _ "${@:2}" \
    && ok "${*:3}: $2" || { said=$("${@:3}" 2>&1); fail "${*:3}: no '$2' in: $said"; }
}
