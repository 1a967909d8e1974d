# Guests that span several pangaea-vmm on this machine. Source it; it sets $dir and skips without KVM.
# shellcheck shell=bash disable=SC2034
set -u
build=${PANGAEA_BUILD:?}
[ -r /dev/kvm ] && [ -w /dev/kvm ] || { echo "no /dev/kvm"; exit 77; }
dir=$(mktemp -d) || exit 1
# A child that a signal ends right after its fork runs this as well, and there || and && go astray.
trap 'case $BASHPID in $$) kill $(jobs -p) 2>/dev/null; rm -rf "$dir" ;; esac' EXIT
head -c 32 /dev/urandom >"$dir/key"
bad=0
more=()
input=/dev/null
lead=() # what only slice 0 gets
lead_env=() # and NAME=VALUE of its environment
declare -A reach=() # reach[K,P]: the port by which slice K reaches slice P, where it is not P's own

# A free port each, below those that the kernel hands out: nobody takes one before its slice binds it.
ports() {
  python3 -c "
import random, socket
low = int(open('/proc/sys/net/ipv4/ip_local_port_range').read().split()[0])
held = []
for port in random.sample(range(max(1024, low - 20000), low), 500):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try: s.bind(('127.0.0.1', port))
    except OSError: continue
    held.append(s)
    if len(held) == $1: break
else: raise SystemExit('no free ports')
print(*[s.getsockname()[1] for s in held])"
}

# slices GUEST CMDLINE PART...: starts all; fills pids[] and the files of $dir. $port_list: their ports.
slices() {
  local guest=$1 cmdline=$2 k p
  shift 2
  local n=$# parts=("$@") list
  read -ra list <<<"${port_list:-$(ports $#)}"
  pids=()
  for ((k = n - 1; k >= 0; k--)); do
    local env=() args=(--name "slice$k" --slice $k --group 0123456789abcdef --key-file "$dir/key" --run-dir "$dir/run.$k")
    for ((p = 0; p < n; p++)); do args+=(--part "${parts[p]}" --peer "127.0.0.1:${reach[$k,$p]:-${list[p]}}"); done
    [ $k -gt 0 ] || args+=(--kernel "$build/tests/guests/$guest" --cmdline "$cmdline" --console stdio "${lead[@]}")
    [ $k -gt 0 ] || env=("${lead_env[@]}")
    mkdir -p "$dir/run.$k"
    env "${env[@]}" "$build/node/vmm/pangaea-vmm" "${args[@]}" "${more[@]}" <>"$input" >"$dir/out.$k" 2>"$dir/err.$k" &
    pids[k]=$!
  done
}

show() { tail -n 20 "$dir"/out.* "$dir"/err.*; bad=1; }
vm() { "$build/tests/lab/lab-vm" "$dir/run.$1" "${@:2}"; }

# Until the guest has said so, for a minute at most.
wait_for() {
  local n=0
  until grep -q "$1" "$dir/out.0" 2>/dev/null; do
    kill -0 "${pids[0]}" && [ $((n++)) -lt 600 ] || { echo "FAIL: the guest did not say '$1'"; show; return 1; }
    read -rt 0.1 <> <(:)
  done
  return 0
}

# ended SECONDS: all slices end by themselves in that time; rcs: their exit codes. Kills those that do not.
ended() {
  local start=$SECONDS late='' pid watch
  { read -rt "$1" <> <(:); kill -9 "${pids[@]}" 2>/dev/null; } & watch=$!
  rcs=''
  for pid in "${pids[@]}"; do
    wait "$pid"
    rcs+="$? "
  done
  kill $watch 2>/dev/null
  [ $((SECONDS - start)) -lt "$1" ] || late=1
  took=$((SECONDS - start))
  [ -z "$late" ]
}

# over EXPECTED WHAT: within $patience seconds the guest has ended well and has said EXPECTED.
patience=90
over() {
  if ended "$patience" && ! tr -d '0 ' <<<"$rcs" | grep -q . && grep -q "$1" "$dir/out.0"; then
    echo "ok: $2"
  else
    echo "FAIL: $2: exit codes $rcs, expected '$1'"; show
  fi
  rm -rf "$dir"/out.* "$dir"/err.* "$dir"/run.*
}

# guest EXPECTED GUEST CMDLINE PART...: every slice ends well, and the guest says EXPECTED.
guest() {
  local expected=$1 what="${*:2}"
  shift
  slices "$@"
  patience=60 over "$expected" "$what"
}
