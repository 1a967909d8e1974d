# A cluster on the minimal hosts of a lab, for scenarios; source it after scenario.sh.
# shellcheck shell=bash disable=SC2154
. "$scenario_top/deploy/session.sh"

# cluster_start N [OPTION...]: a lab of N hosts, an agent on each: nodes a, b, c... are h1, h2, h3...
cluster_start() {
  lab_bare='' lab_start "$@"
}

# cluster_wait N: until node a sees N nodes.
cluster_wait() {
  lab exec h1 timeout 60 sh -c "until [ \"\$(pangaea node ls 2>/dev/null | grep -c ' up ')\" = $1 ]; do sleep 0.2; done"
}
pangaea() { lab exec h1 pangaea "$@"; }

# Not under `check`, whose subshell would forget what was heard. hears WHAT TEXT SECONDS
hears() {
  if heard "$2" "$3" 2>/dev/null; then
    echo "ok: $1"
  else
    failures=$((failures + 1))
    printf 'FAILED: %s: no "%s" in %s s\n%s\n' "$1" "$2" "$3" "$session_shown" | tail -n 30
    again_if_lost
  fi
}
