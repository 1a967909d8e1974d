# Typing at a program by events: what is typed goes out once it has said what it waits for. Source it.
#   session_open CMD...      starts it
#   say TEXT                 types a line
#   heard TEXT SECONDS       waits until it says TEXT, after what was heard last; fails when it does not
#   session_close            ends it
# $session_shown is all that was heard since it was opened.
# shellcheck shell=bash

session_open() {
  local fifo
  fifo=$(mktemp -u "${TMPDIR:-/tmp}/session.XXXXXX") && mkfifo -m 600 "$fifo" || return 1
  session_said='' session_shown=''
  exec {session_out}< <(exec "$@" <"$fifo" 2>&1)
  session_pid=$!
  exec {session_in}>"$fifo"
  rm -f "$fifo"
}

# A program that has ended is for `heard` to find, not the end of the script.
say() { (trap '' PIPE; printf '%s\n' "$1" >&"$session_in") 2>/dev/null || true; }

heard() {
  local chunk='' end=$((SECONDS + $2)) code=0
  until [[ $session_said == *"$1"* ]]; do
    if [ "$code" != 0 ] && [ "$code" -le 128 ]; then echo "it ended before it said '$1'" >&2; return 1; fi
    if [ $SECONDS -ge "$end" ]; then echo "it did not say '$1' within $2 s" >&2; return 1; fi
    IFS= read -r -N 4096 -t 0.2 chunk <&"$session_out"
    code=$?
    chunk=${chunk//$'\r'/} chunk=${chunk//$'\e[6n'/}
    session_said+=$chunk session_shown+=$chunk
  done
  session_said=${session_said#*"$1"}
}

session_close() {
  exec {session_in}>&- {session_out}<&-
  kill "$session_pid" 2>/dev/null
}
