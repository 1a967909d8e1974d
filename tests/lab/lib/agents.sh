# Agents on the minimal hosts: they are one cluster, with nodes a, b, c... on h1, h2, h3... Sourced by lab.
# shellcheck shell=bash disable=SC2154

agent_names=(a b c d e f g h i j k l m n o p)

# agents_start N: makes keys, starts an agent on each host, waits until the first sees all.
agents_start() {
  local n=$1 i nodes='' home=$dir/cluster pids=() pid
  for ((i = 1; i <= n; i++)); do nodes=$nodes,${agent_names[i - 1]}=10.77.0.$i; done
  "$build/ctl/pangaea" init cluster --nodes "${nodes#,}" --out "$home" >/dev/null || return 1
  for ((i = 1; i <= n; i++)); do
    agent_start "h$i" "${agent_names[i - 1]}" & pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || return 1; done
  "$tools/lab-client" exec "$dir/h1" timeout 60 sh -c \
    "until [ \"\$(pangaea node ls 2>/dev/null | grep -c ' up ')\" = $n ]; do sleep 0.1; done" </dev/null
}

# agent_start HOST NODE: also after the host was booted again.
agent_start() {
  cmd_copy "$1" "$dir/cluster/nodes/$2" "$dir/cluster/admin" /run/pangaea-home/ &&
    "$tools/lab-client" exec "$dir/$1" sh -c "ln -sfn /run/pangaea-home/admin /etc/pangaea
      setsid pangaead --home /run/pangaea-home/$2 --run-dir /run/pangaea --vmm /usr/libexec/pangaea/pangaea-vmm </dev/null >/run/agent.log 2>&1 &" </dev/null
}
