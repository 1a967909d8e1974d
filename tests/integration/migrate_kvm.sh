#!/bin/bash
# labels: kvm
# timeout: 180
# Two agents on loopback; a bare-metal guest that checks all its memory moves between them, in the
# clear and encrypted, and stays where it is when something breaks.
set -u
build=${PANGAEA_BUILD:?}
[ -r /dev/kvm ] && [ -w /dev/kvm ] || { echo "no /dev/kvm"; exit 77; }
dir=$(mktemp -d) || exit 1
port=$((20000 + RANDOM % 10000))
pangaea=$build/ctl/pangaea
export PANGAEA_HOME=$dir/c/admin PANGAEA_LOG=debug
agents=()
cleanup() {
  local p
  for p in "$dir"/run-*/vm/*/pid; do [ -s "$p" ] && read -r pid _ <"$p" && kill -9 "$pid" 2>/dev/null; done
  kill "${agents[@]}" 2>/dev/null; wait 2>/dev/null
  rm -rf "$dir"
}
trap 'case $BASHPID in $$) cleanup ;; esac' EXIT
fail() { echo "FAIL: $*"; tail -n 15 "$dir"/*.log "$dir"/run-*/vm/*/log 2>/dev/null; "$pangaea" events 2>/dev/null | tail -20; exit 1; }
ok() { echo "ok: $*"; }

agent() { # NODE
  "$build/node/agent/pangaead" --home "$dir/c/nodes/$1" --run-dir "$dir/run-$1" \
    --vmm "$build/node/vmm/pangaea-vmm" >>"$dir/$1.log" 2>&1 &
  agents+=($!)
}
# Each sees the other: a link that failed at first comes back a moment later.
both_up() { timeout 30 bash -c "for n in a b; do until [ \$('$pangaea' node ls --agent \$n 2>/dev/null | grep -c ' up ') = 2 ]; do :; done; done"; }
where() { "$pangaea" vm ls --json | grep -o '"node":"[ab]"' | tr -d '"' | cut -d: -f2 | paste -sd+; }
start() { "$pangaea" vm run "$1" -q --node a -k "$build/tests/guests/dirty" -m 128M -c "$2" || fail "start of $1"; }
says() { timeout 90 "$pangaea" vm console "$1" --until "$2" </dev/null >"$dir/console" 2>&1 || fail "$1 does not say '$2': $(tail -n 3 "$dir/console")"; }
# What was coming there and did not is cleared away a moment later, its pid with it.
nothing_at() { timeout 20 bash -c "while [ -e '$dir/run-$1/vm/$2' ]; do :; done" || fail "$1 keeps a half VM"; }
# Waits until the migration that runs in the background is in its second second of copying.
copying() { timeout 20 bash -c "until '$pangaea' events '$1' | grep -q 'migrate  *to b'; do :; done"; }

"$pangaea" init cluster --nodes a=127.0.0.1:$port,b=127.0.0.1:$((port + 1)) --out "$dir/c" >/dev/null || fail init
agent a; agent b
both_up || fail "the agents do not see each other"

start move 'mib=48 rate=60 seconds=25'
# Whoever asks, and whenever: it is somewhere.
(until [ -e "$dir/asked" ]; do "$pangaea" vm info move --json >"$dir/info" 2>&1 || cat "$dir/info" >>"$dir/lost"; done) & asker=$!
for round in 1 2; do
  "$pangaea" vm migrate move --to b >"$dir/out" 2>&1 || fail "round $round to b: $(cat "$dir/out")"
  [ "$(where)" = b ] || fail "after the move it is on '$(where)'"
  # What the agent answers from when the other side asks for the verdict.
  grep -q ' destination committed$' "$dir/run-b/vm/move/migration.journal" || fail "the decision is not in the journal"
  "$pangaea" vm migrate move --to a --encrypt --channels 3 --json >"$dir/out" 2>&1 || fail "round $round back: $(cat "$dir/out")"
  grep -q '"state":"done"' "$dir/out" || fail "no result in JSON"
  [ "$(where)" = a ] || fail "after the move back it is on '$(where)'"
done
touch "$dir/asked"; wait $asker
[ ! -s "$dir/lost" ] || fail "between the nodes: $(head -n 3 "$dir/lost")"
says move 'dirty: PASS'
ok "4 moves, all memory right"
timeout 10 bash -c "while '$pangaea' vm ls -q | grep -q move; do :; done" || "$pangaea" vm kill move >/dev/null

start stay 'mib=48 rate=60'
"$pangaea" vm migrate stay --to a >/dev/null 2>&1; [ $? = 2 ] || fail "a move to where it is"
"$pangaea" vm migrate stay --to nowhere >/dev/null 2>&1; [ $? = 3 ] || fail "a move to nowhere"
"$pangaea" vm migrate other --to b >/dev/null 2>&1; [ $? = 3 ] || fail "a move of nothing"
ok "refusals"

"$pangaea" vm migrate stay --to b --bandwidth 10M >"$dir/out" 2>&1 & job=$!
copying stay || fail "it does not copy"
until "$pangaea" vm migrate stay --cancel >/dev/null 2>&1; do kill -0 $job 2>/dev/null || fail "cancel: $(cat "$dir/out")"; done
wait $job && fail "a cancelled migration says it is done"
[ "$(where)" = a ] || fail "after the cancel it is on '$(where)'"
nothing_at b stay
ok "cancel"

"$pangaea" vm migrate stay --to b --bandwidth 10M >"$dir/out" 2>&1 & job=$!
timeout 20 bash -c "until [ -s '$dir/run-b/vm/stay/pid' ]; do :; done" || fail "no process at b"
read -r pid _ <"$dir/run-b/vm/stay/pid"; kill -9 "$pid" || fail "no such process"
wait $job && fail "the destination was killed, and the migration says it is done"
[ "$(where)" = a ] || fail "after the destination's death it is on '$(where)'"
nothing_at b stay
ok "death of the destination's process: $(tail -n 1 "$dir/out")"

"$pangaea" vm migrate stay --to b --bandwidth 10M >"$dir/out" 2>&1 & job=$!
timeout 20 bash -c "until [ -s '$dir/run-b/vm/stay/pid' ]; do :; done" || fail "no process at b"
read -r pid _ <"$dir/run-a/vm/stay/pid"; kill -9 "$pid" || fail "no such process"
wait $job && fail "the source was killed, and the migration says it is done"
timeout 20 bash -c "while '$pangaea' vm ls -q | grep -q stay; do :; done" || fail "something is left: $("$pangaea" vm ls)"
nothing_at b stay
ok "death of the source's process leaves nothing"

start again 'mib=16 rate=20'
"$pangaea" vm migrate again --to b >"$dir/out" 2>&1 || fail "a migration after all that: $(cat "$dir/out")"
says again 'MiB written'
"$pangaea" vm kill again >/dev/null || fail kill
ok "and the next one works"
