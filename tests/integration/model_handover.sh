#!/bin/bash
# labels: model
# timeout: 120
# beside: yes
# Spin explores the hand-over protocol of migration (tests/model/handover.pml).
set -u
command -v spin >/dev/null || { echo "spin is not installed"; exit 77; }
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
spin -a "$PANGAEA_SOURCE/tests/model/handover.pml" && ${CC:-cc} -O1 -w -o pan pan.c || exit 1
./pan -m100000 >out || { cat out; exit 1; }
grep -E 'errors:|states, stored' out
grep -q 'errors: 0' out && ! grep -q 'search depth too small\|max search' out
