#!/bin/bash
# Checks page.pml: 3 nodes x 2 pages with 2 accesses each, 3 nodes x 1 page without end, and that a
# planted error is found. Prints the number of states of each.
set -eu
command -v spin >/dev/null || { echo "skip: spin is not installed"; exit 77; }
model=$(cd "$(dirname "$0")" && pwd)/page.pml
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

verify() { # NAME WANT_ERRORS SPIN_FLAGS CC_FLAGS PAN_FLAGS
  # shellcheck disable=SC2086
  spin $3 -a "$model" >spin.log || { cat spin.log; exit 1; }
  # shellcheck disable=SC2086
  "${CC:-cc}" -O1 -w -DCOLLAPSE -DMEMLIM=2000 $4 -o pan pan.c
  # shellcheck disable=SC2086
  timeout 120 ./pan -m2000000 -n $5 >pan.log || true
  errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' pan.log)
  states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' pan.log)
  echo "$1: ${states:-?} states, errors: ${errors:-no result}"
  if grep -q 'max search depth too small\|out of memory' pan.log || [ "$errors" != "$2" ]; then
    head -40 pan.log
    exit 1
  fi
}

verify "3 nodes x 2 pages, safety" 0 "-DOPS=2" "-DSAFETY" ""
verify "3 nodes x 1 page, endless, progress" 0 "-DPROGRESS -DP=1" "" "-a"
verify "planted error is found" 1 "-DOPS=2 -DP=1 -DBUG_NO_ACKS" "-DSAFETY" ""
