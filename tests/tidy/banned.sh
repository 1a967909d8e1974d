#!/bin/bash
# labels: tidy
# Calls that have a safer form, and words that must not reach the tree.
cd "${PANGAEA_SOURCE:-$(dirname "$0")/../..}" || exit 1
bad=0
# Not in pvm3.h, whose macros are an interface that programs know, nor in comments.
find_bad() { # WHAT REGEX WHY
  local hits
  hits=$(grep -rnE --include="*.[ch]" "$2" base proto dsm migrate pvm node ctl |
    grep -v "^pvm/include/pvm3.h:\|:[0-9]*: \*") || return 0
  printf '%s\n' "$hits" | head -20
  echo "^ $1: $3"; bad=1
}
find_bad unbounded '[^a-z_](strcpy|strcat|sprintf|vsprintf|gets|strtok)\(' 'use the bounded form'
find_bad number '[^a-z_](atoi|atol|atoll|atof)\(' 'use strtol and check the end'
find_bad random '[^a-z_](rand|srand|random)\(' 'use base/rng.h, or getrandom for secrets'
find_bad shell '[^a-z_](system|popen)\(' 'use posix_spawn with an argument vector'
find_bad temp '[^a-z_](mktemp|tmpnam|tempnam)\(' 'use mkstemp'
exit $bad
