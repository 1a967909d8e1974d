#!/bin/bash
# labels: integration pvm
# timeout: 60
# What users set before a daemon starts: ~/.pvmprofile and the environment variables of the manual.
# shellcheck source=tests/integration/pvm_lib.bash
. "$(dirname "$0")/pvm_lib.bash"
export LD_LIBRARY_PATH=$B/pvm HOME=$W/home PVM_DPATH=$B/pvm/pvmd3
mkdir "$HOME" "$W/wd" "$W/bin"
console() { printf '%s\n' "$@" | timeout 20 "$B/pvm/pvm" 2>&1; }
# The profile's output does not get in the way, nor does its reading from the standard input.
cat >"$HOME/.pvmprofile" <<EOF
echo hello from the profile
cat
PVM_WD=$W/wd; export PVM_WD
PVM_PATH=$W/bin:/usr/bin; export PVM_PATH
EOF
printf '#!/bin/sh\npwd >"%s/pwd.new"; mv "%s/pwd.new" "%s/pwd"\n' "$W" "$W" "$W" >"$W/bin/where"; chmod 755 "$W/bin/where"
where() { # a task that says where it starts
  rm -f "$W/pwd"; console 'spawn where' >"$W/o"
  timeout 10 sh -c "until [ -e '$W/pwd' ]; do sleep 0.05; done" || fail "the task did not run: $(cat "$W/o")"
  cat "$W/pwd"; }
start
grep -q profile "$W/out" || fail "the profile was not read: $(cat "$W/out")"
[ "$(where)" = "$W/wd" ] || fail "PVM_WD of the profile: $(cat "$W/pwd")"
stop
# By a program that starts a daemon, as the console does.
console halt >"$W/o"
grep -q 'pvm>' "$W/o" || fail "a console with a profile: $(cat "$W/o")"
# Nothing stays, not even of the console, which it leaves no time to say good-bye.
timeout 10 sh -c "while ls -d '$W'/pvmd.*.d 2>/dev/null; do sleep 0.05; done" >"$W/o" || fail "what a halt leaves: $(ls -A "$W"/pvmd.*.d)"
rm "$HOME/.pvmprofile"
# The host file: its wrong line stands in the log.
echo 'no such option=1' >"$W/hosts"
PVMHOSTFILE=$W/hosts PVM_WD=$W/bin PVM_PATH=$W/bin PVMDDEBUG=0x8 PVMDLOGMAX=3000 start
timeout 10 sh -c "until grep -q \"option 'such' is not valid\" '$W'/pvml.*; do sleep 0.05; done" || fail "PVMHOSTFILE was not read: $(cat "$W"/pvml.*)"
[ "$(where)" = "$W/bin" ] || fail "PVM_WD: $(cat "$W/pwd")"
PVMTASKDEBUG=0x10 console getopt | grep -qi 'debugmask.*\(0x10\|16\)' || fail "PVMTASKDEBUG: $(PVMTASKDEBUG=0x10 console getopt)"
# PvmTaskHost (1) with a host that is not there: the flag reaches the spawn.
PVMTASK=1 console 'spawn where' | grep -q -i 'no such host\|0 successful' || fail "PVMTASK: $(PVMTASK=1 console 'spawn where')"
# Tasks fill the log until it is full.
printf '#!/bin/sh\nseq 2000\n' >"$W/bin/much"; chmod 755 "$W/bin/much"
console 'spawn much' >"$W/o"
timeout 15 sh -c "until grep -q 'the log is full' '$W'/pvml.*; do sleep 0.1; done" || fail "PVMDLOGMAX"
console 'spawn much' >"$W/o"
n=$(stat -c %s "$W"/pvml.*); console 'spawn much' 'ps' >"$W/o"
[ "$(stat -c %s "$W"/pvml.*)" = "$n" ] || fail "a full log grows"
stop
# The next daemon begins a new one.
PVMDLOGMAX=3000 start
[ "$(stat -c %s "$W"/pvml.*)" -lt 3000 ] || fail "an old log that is full stays"
stop
for bad in PVMDDEBUG=x PVMDLOGMAX=-1; do
  env "$bad" timeout 10 "$B/pvm/pvmd3" >"$W/o" 2>&1 </dev/null && fail "$bad is fine"
  grep -q "${bad%=*}" "$W/o" || fail "$bad: $(cat "$W/o")"
done
echo "profile, host file, directory, masks and log"
