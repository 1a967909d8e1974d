#!/bin/bash
# labels: pvm
# timeout: 180
# 64 daemons on this machine, one virtual machine; when it is halted none is left.
set -u
B=${PANGAEA_BUILD:?}
W=$(mktemp -d /tmp/pvmt.XXXXXX)
export PVM_TMP=$W/first PVM_DPATH=$B/pvm/pvmd3 PVM_RSH=$W/rsh PVM_HOSTTIMEOUT=20000
mkdir "$PVM_TMP"
# A "remote shell" that gives each host a directory of its own.
cat >"$W/rsh" <<RSH
#!/bin/sh
while :; do case \$1 in -l) shift 2 ;; -*) shift ;; *) break ;; esac; done
export PVM_TMP=$W/\$1
mkdir -p "\$PVM_TMP"
shift
exec sh -c "\$*"
RSH
chmod +x "$W/rsh"
left() { find /proc -maxdepth 2 -name environ -user "$(id -u)" -print0 2>/dev/null | xargs -0 grep -lza "^PVM_RSH=$W/rsh" 2>/dev/null | cut -d/ -f3 | while read -r p; do
  [ "$(readlink "/proc/$p/exe" 2>/dev/null)" = "$PVM_DPATH" ] && echo "$p"; done; }
cleanup() { left | xargs -r kill -9 2>/dev/null; rm -rf "$W"; }
trap 'case $BASHPID in $$) cleanup ;; esac' EXIT
fail() { echo "FAILED: $*"; tail -n 5 "$W"/*/pvml* 2>/dev/null | head -60; exit 1; }
"$PVM_DPATH" >"$W/out" 2>&1 </dev/null &
d=$!
timeout 10 sh -c "until grep -q sock '$W/out'; do sleep 0.05; done" || fail "no daemon: $(cat "$W/out")"
timeout 120 "$B/tests/pvm/pvmtest_manyhosts" 63 >"$W/o" || fail "$(cat "$W/o")"
cat "$W/o"
kill $d
wait $d
for _ in $(seq 100); do
  n=$(left | wc -l)
  [ "$n" = 0 ] && break
  sleep 0.1
done
[ "$n" = 0 ] || fail "$n daemons are left after the halt"
echo "none is left after the halt"
