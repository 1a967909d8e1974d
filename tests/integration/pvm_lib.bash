# For tests of one daemon: its folder $W, start and stop, fail. Source it.
# shellcheck shell=bash
set -u
B=${PANGAEA_BUILD:?}
W=$(mktemp -d /tmp/pvmt.XXXXXX)
export PVM_TMP=$W
daemon=
# A child that a signal ends right after its fork runs this as well, and there || and && go astray.
trap 'case $BASHPID in $$) [ -n "$daemon" ] && kill -9 "$daemon" 2>/dev/null; rm -rf "$W" ;; esac' EXIT
fail() { echo "FAILED: $*"; tail -n 20 "$W"/pvml* 2>/dev/null; exit 1; }
start() { # [DESCRIPTORS]
  rm -f "$W/out"
  (ulimit -n "${1:-1024}"; exec "$B/pvm/pvmd3") >"$W/out" 2>&1 </dev/null &
  daemon=$!
  timeout 20 sh -c "until grep -q sock '$W/out' 2>/dev/null; do sleep 0.05; done" || fail "the daemon did not start: $(cat "$W/out")"
}
stop() { kill "$daemon"; wait "$daemon" 2>/dev/null; daemon=; }
