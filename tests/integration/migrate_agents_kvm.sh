#!/bin/bash
# labels: agent kvm
# timeout: 500
# An agent dies at each step of a migration, on each side, and a new one comes: afterwards exactly one
# copy runs, with its memory right, or one is paused and one command resumes it; nothing else is left.
if ! [ -r /dev/kvm ] || ! [ -w /dev/kvm ]; then echo "no /dev/kvm"; exit 77; fi
. "$(dirname "$0")/agent_lib.bash"
. "$(dirname "$0")/migrate_lib.bash"

. "$(dirname "$0")/hold_lib.bash"
hold_with migrate_hold.c "$vmm"
# Processes of node N start with what $dir/hold-N says.
for n in a b; do
  cat >"$dir/vmm-$n" <<W
#!/bin/sh
[ -s "$dir/hold-$n" ] && export LD_PRELOAD="$preload" MIGRATE_HOLD=" \$(cat "$dir/hold-$n")" MIGRATE_GO="$dir/go-$n"
exec "$vmm" "\$@"
W
  chmod +x "$dir/vmm-$n"
done
start_node() { start_agent "$1" --vmm "$dir/vmm-$1"; }
# hold NODE ENTRY: processes that start there now wait at this entry of the journal for `release NODE`; hold -: none.
hold() { rm -f "$dir"/hold-? "$dir"/go-?; [ "$1" = - ] || { mkfifo "$dir/go-$1"; echo "$2" >"$dir/hold-$1"; }; }
release() { # NODE VM: which is not committed so far
  has_journal b "$2" committed && fail "$1 did not hold"
  timeout 10 bash -c 'echo -n . >"$1"' _ "$dir/go-$1" || fail "nobody waits at $1"
}
agent_dies() { stop_agent "$1" KILL; }
agents_see() { wait_until 40 both_up || fail "the agents do not see each other"; }
both_up() { local n; for n in a b; do [ "$("$pangaea" node ls --agent $n 2>/dev/null | grep -c ' up ')" = 2 ] || return 1; done; }

has_journal() { grep -q " $3\$" "$dir/run-$1/vm/$2/migration.journal" 2>/dev/null; }
wait_journal() { wait_until 40 has_journal "$@" || fail "no '$3' in the journal of $1"; }
has_pid() { [ -s "$dir/run-$1/vm/$2/pid" ]; }
# sent_some VM: a megabyte at least, by its process and no other.
sent_some() {
  local pid
  read -r pid _ <"$dir/run-a/vm/$1/pid" && ss -tipHO state established 2>/dev/null | grep "pid=$pid," | grep -q 'bytes_acked:[0-9]\{7,\}'
}

begin() { # VM MIGRATE-OPTIONS...
  local vm=$1; shift
  expect 0 running "$pangaea" vm run "$vm" -k "$guests/dirty" -m 64M -c 'mib=16 rate=8' --node a
  # Three seconds: all its memory has contents then.
  expect 0 "pass 1" "$pangaea" vm console "$vm" --until "pass 1," --timeout 60
  "$pangaea" vm migrate "$vm" --to b "$@" >"$dir/out" 2>&1 & job=$!
}

settled() { # VM: one copy, and nothing of another
  case $(where "$1") in
    "a running") is_gone b "$1" ;;
    "b running") is_gone a "$1" ;;
    *) return 1 ;;
  esac
}
settles() { # VM: by itself, or with one command
  wait "$job" 2>/dev/null
  if [[ $(where "$1") == *paused* ]]; then wait_until 5 settled "$1"; "$pangaea" vm migrate "$1" --resume >"$dir/resume" 2>&1; fi
  wait_until 60 settled "$1" || { fail "$1 ends as '$(where "$1")', $(ls -d "$dir"/run-?/vm/"$1" 2>&1 | paste -sd' ')"; return; }
  expect 0 "MiB written" "$pangaea" vm console "$1" --until "MiB written" --timeout 60
  grep -h FAIL "$dir"/run-?/vm/"$1"/log && fail "$1 found its memory wrong"
  ok "$1: $(where "$1")"
  expect 0 killed "$pangaea" vm kill "$1"
}

make_cluster a b
start_node a; start_node b
agents_see

for who in a b; do
  hold -
  vm=prepare-$who; begin $vm
  wait_until 20 has_pid b $vm
  agent_dies $who; start_node $who; agents_see; settles $vm

  vm=precopy-$who; begin $vm --bandwidth 20M
  wait_until 20 sent_some $vm || fail "nothing is sent"
  agent_dies $who; wait_journal b $vm committed; start_node $who; agents_see; settles $vm

  vm=copying-$who; begin $vm --bandwidth 20M
  wait_until 20 sent_some $vm || fail "nothing is sent"
  agent_dies $who; start_node $who; agents_see; settles $vm

  hold a committing
  vm=commit-$who; begin $vm
  wait_journal a $vm committing
  agent_dies $who; release a $vm; wait_journal b $vm committed; start_node $who; agents_see; settles $vm

  hold -
  vm=filling-$who; begin $vm --mode postcopy --bandwidth 1M
  wait_journal b $vm filling
  agent_dies $who; start_node $who; agents_see; settles $vm

  can_cut || continue
  hold a committing
  vm=doubt-$who; begin $vm
  wait_journal a $vm committing
  agent_dies $who; cut_link b $vm; release a $vm; start_node $who; agents_see; settles $vm

  hold b committed
  vm=held-$who; begin $vm
  wait_journal a $vm committing
  cut_link b $vm; agent_dies $who; release b $vm; start_node $who; agents_see; settles $vm

  hold -
  vm=broken-$who; begin $vm --mode postcopy --bandwidth 1M
  wait_journal b $vm filling
  agent_dies $who; cut_link b $vm; start_node $who; agents_see; settles $vm
done
can_cut || echo "the cases of broken links need 'ss -K': left out"
show_logs
exit $bad
