# For scenarios and lab tests: a lab of their own that ends with them. Source it, then lab_start.
# shellcheck shell=bash
set -u
scenario_top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
PANGAEA_LAB=$(mktemp -d "${TMPDIR:-/tmp}/lab.XXXXXX")
export PANGAEA_LAB
failures=0
scenario_args=("$@")
lab() { "$scenario_top/tests/lab/lab" "$@"; }
# nap SECONDS: forks nothing. Bash 5.2 that forks often enough sometimes waits for a child for ever.
mkfifo "$PANGAEA_LAB/never" && exec {never}<>"$PANGAEA_LAB/never" || exit 1
nap() { read -rt "$1" -u "$never"; }
# A child that a signal ends right after its fork runs this as well, and there || and && go astray.
trap 'case $BASHPID in $$) lab down; rm -rf "$PANGAEA_LAB" ;; esac' EXIT
trap 'exit 130' INT TERM

# lab_start N [OPTION...]: as lab up --bare; skips the test where this machine cannot have a lab.
lab_start() {
  local tool
  for tool in qemu-system-x86_64 mmdebstrap mke2fs cpio; do
    command -v "$tool" >/dev/null || { echo "$tool is not installed; see deploy/packages/lab.txt"; exit 77; }
  done
  lab --owner $$ up ${lab_bare---bare} "$@" || { echo "the lab did not start"; exit 1; }
}

# check WHAT CMD...: runs it; prints its output only when it fails. Its names hide none of a scenario's,
# whose functions it runs.
check() {
  local check_what=$1 check_output
  shift
  if check_output=$("$@" 2>&1); then
    echo "ok: $check_what"
  else
    failures=$((failures + 1))
    printf 'FAILED: %s (%s)\n%s\n' "$check_what" "$*" "$check_output" | head -40
    again_if_lost
  fi
}
# refuse WHAT CMD...: CMD must fail.
refuse() { check "$1" not "${@:2}"; }
not() { ! "$@"; }

# The emulated machines that have failed themselves, a line each: their kernel died, or they run and answer
# nothing any more. QEMU's emulation of two processors with SVM does that to Debian's kernel now and then;
# programs cannot.
hosts_lost() {
  local host state
  lab status 2>/dev/null | while read -r host state _; do
    grep -qs -- '-accel tcg' "$PANGAEA_LAB/$host/start" || continue
    if grep -aqs 'Kernel panic - not syncing' "$PANGAEA_LAB/$host/console.log"; then
      echo "the kernel of $host died"
    elif [ "$state" = running ] && ! timeout 60 "$scenario_top/tests/lab/lab" exec "$host" true </dev/null >/dev/null 2>&1; then
      echo "$host answers nothing"
    fi
  done
}
# Then nothing is known of what was to be tested: all of it once more, and only once.
again_if_lost() {
  local lost
  [ "$BASHPID" = $$ ] && [ -z "${PANGAEA_LAB_AGAIN-}" ] || return 0
  lost=$(hosts_lost)
  [ -n "$lost" ] || return 0
  hosts_said
  echo "an emulated machine has failed ($lost): once more from the start"
  # shellcheck disable=SC2046
  kill $(jobs -p) 2>/dev/null
  lab down
  rm -rf "$PANGAEA_LAB"
  PANGAEA_LAB_AGAIN=1 exec "$0" "${scenario_args[@]}"
}

# What the hosts say themselves, where something failed: a kernel that has died, an agent that is gone.
hosts_said() {
  local log host
  for log in "$PANGAEA_LAB"/*/console.log; do
    host=$(basename "$(dirname "$log")")
    echo "---- the end of $host's console:"
    tail -n 12 "$log"
    echo "---- and of its agent's log:"
    timeout 20 "$scenario_top/tests/lab/lab" exec "$host" 'tail -n 12 /run/agent.log; pgrep -l pangaea' </dev/null 2>&1
  done
}

# lab_end: the verdict.
lab_end() {
  [ "$failures" = 0 ] || { again_if_lost; hosts_said; }
  echo "$failures failed"
  [ "$failures" = 0 ]
  exit
}
