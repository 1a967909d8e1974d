# A cluster on the minimal hosts of a lab, for scenarios; source it after scenario.sh.
# shellcheck shell=bash disable=SC2154
. "$scenario_top/deploy/session.sh"

# cluster_start N [OPTION...]: a lab of N hosts, an agent on each: nodes a, b, c... are h1, h2, h3...
cluster_start() {
  local n=$1 i nodes='' names=(a b c d e f g h) home=$PANGAEA_LAB-cluster
  lab_start "$@"
  for ((i = 1; i <= n; i++)); do nodes=$nodes,${names[i - 1]}=10.77.0.$i; done
  rm -rf "$home"
  "$(lab_build)/ctl/pangaea" init cluster --nodes "${nodes#,}" --out "$home" >/dev/null || { echo 'no keys'; exit 1; }
  for ((i = 1; i <= n; i++)); do
    lab copy "h$i" "$home/nodes/${names[i - 1]}" "$home/admin" /run/pangaea-home/
    lab exec "h$i" "ln -sfn /run/pangaea-home/admin /etc/pangaea
      setsid pangaead --home /run/pangaea-home/${names[i - 1]} --run-dir /run/pangaea --vmm /usr/libexec/pangaea/pangaea-vmm </dev/null >/run/agent.log 2>&1 &"
  done
  rm -rf "$home"
  cluster_wait "$n" || { echo 'the agents do not see each other'; lab exec h1 cat /run/agent.log; exit 1; }
}

# cluster_wait N: until node a sees N nodes.
cluster_wait() {
  lab exec h1 timeout 60 sh -c "until [ \"\$(pangaea node ls 2>/dev/null | grep -c ' up ')\" = $1 ]; do sleep 0.2; done"
}
lab_build() { echo "${PANGAEA_BUILD:-$scenario_top/build/release}"; }
pangaea() { lab exec h1 pangaea "$@"; }

# Not under `check`, whose subshell would forget what was heard. hears WHAT TEXT SECONDS
hears() {
  if heard "$2" "$3" 2>/dev/null; then
    echo "ok: $1"
  else
    failures=$((failures + 1))
    printf 'FAILED: %s: no "%s" in %s s\n%s\n' "$1" "$2" "$3" "$session_shown" | tail -n 30
  fi
}
