# For tests of several PVM hosts in namespaces (tests/pvm/hosts.sh). Source it with the first three octets of a
# network that no other test has. Their folder is $W; $PVMHOSTS_ENV may be added to before they are made.
# shellcheck shell=bash disable=SC2034
set -u
[ "$(id -u)" = 0 ] || { echo "needs root for namespaces"; exit 77; }
unshare -n true 2>/dev/null || { echo "cannot make namespaces here"; exit 77; }
B=${PANGAEA_BUILD:?}; S=${PANGAEA_SOURCE:?}/tests/pvm/hosts.sh
W=$(mktemp -d /tmp/pvmt.XXXXXX)
export PVMHOSTS_DIR=$W/n PVMHOSTS_NET=$1
export PVMHOSTS_ENV="PVM_DPATH=$B/pvm/pvmd3"
trap 'case $BASHPID in $$) "$S" down >/dev/null 2>&1; rm -rf "$W" ;; esac' EXIT
fail() { echo "FAILED: $*"; tail -n 40 "$W"/n/tmp*/pvml* 2>/dev/null; exit 1; }
patience=10
until_text() { # FILE TEXT: waits for the line, at most $patience seconds
  timeout $patience sh -c "until grep -q '$2' '$1'; do sleep 0.05; done" || fail "no '$2' in $1: $(cat "$1")"; }
console() { timeout 30 "$S" run 1 sh -c "printf '$1\n' | '$B/pvm/pvm'" 2>&1; } # COMMANDS, on the first host
