# Slices that leave a guest and join it, on this machine. Source it after span_lib.bash.
# shellcheck shell=bash disable=SC2034,SC2154
generation=0
own_port='' own_ports='' # where they are chosen already

# starts K HOMES:PLACES PEER...: the process of a slice that is to join; its port is in $port.
starts() {
  local k=$1 joins=$2 p args
  shift 2
  generation=$((generation + 1))
  group=$(printf '%016x' $((0x1000 + generation)))
  port=${own_port:-$(ports 1)}
  args=(--name "slice$k" --slice "$k" --group "$group" --key-file "${key:-$dir/key}" --run-dir "$dir/run.$k" --joins "$joins")
  for p in "${parts[@]}"; do args+=(--part "$p"); done
  for p in "$@"; do [ "$p" = self ] && p=127.0.0.1:$port; args+=(--peer "$p"); done
  rm -rf "$dir/run.$k"; mkdir -p "$dir/run.$k"
  "$build/node/vmm/pangaea-vmm" "${args[@]}" "${more[@]}" </dev/null >"$dir/out.$k" 2>"$dir/err.$k" &
  pids[k]=$!
}

# joins K ...: the same, and it becomes a member.
joins() {
  starts "$@"
  vm 0 join "$1" "127.0.0.1:$port" "$group" && return 0
  echo "FAIL: slice $1 does not join"; show; return 1
}

# left SLICE: its process has ended well by itself.
left() { wait "${pids[$1]}" || { echo "FAIL: slice $1 has not left well"; show; }; }

# at WHAT...: the lead says so, or soon does.
at() {
  local what n
  for what in "$@"; do
    n=0
    until vm 0 places | grep -qx "$what"; do
      [ $((n++)) -lt 100 ] || { echo "FAIL: not '$what': $(vm 0 places | paste -sd' ')"; show; return 1; }
      read -rt 0.1 <> <(:)
    done
  done
}

# refused WHAT WORDS...: the lead says no, and why.
refused() {
  local said
  said=$(vm 0 "${@:2}" 2>&1) && { echo "FAIL: not refused: ${*:2}"; show; }
  grep -q "$1" <<<"$said" || { echo "FAIL: '$said' does not say '$1'"; show; }
}

# moves VCPU SLICE...
moves() {
  local to
  for to in "${@:2}"; do vm 0 move "$1" "$to" || { echo "FAIL: vCPU $1 does not move to slice $to"; show; return 1; }; done
}
begin() { # GUEST CMDLINE PART...
  read -ra list <<<"${own_ports:-$(ports $(($# - 2)))}"
  parts=("${@:3}")
  port_list=${list[*]} slices "$@"
  address=(); for p in "${list[@]}"; do address+=("127.0.0.1:$p"); done
}
