#!/bin/bash
# labels: tidy
# Every function of pvm3.h has a manual page, every page is sound, every .so points to a page.
cd "${PANGAEA_SOURCE:-$(dirname "$0")/../..}" || exit 1
bad=0 n=0
for f in $(grep -oE '\bpvm_[a-z]+\(' pvm/include/pvm3.h pvm/include/pvmtev.h | sed 's/.*://; s/(//' | sort -u); do
  case $f in pvm_getmwid|pvm_setmwid) continue ;; esac # only for PVM33COMPAT, and not in the library
  n=$((n + 1))
  [ -s docs/man/pvm/$f.3 ] || { echo "no manual page: $f"; bad=1; }
done
# What pages point to of ours is there.
for name in $(grep -ohE '^\.BR (pvm[a-z0-9_]*) \([0-9]\)' docs/man/pvm/* | sed 's/^\.BR //; s/ (\(.\))/.\1/' | sort -u); do
  [ -s "docs/man/pvm/$name" ] || { echo "pages point to $name, which is not there"; bad=1; }
done
for page in docs/man/pvm/*; do
  to=$(sed -n 's/^\.so man3\///p' "$page")
  if [ -n "$to" ]; then [ -s "docs/man/pvm/$to" ] || { echo "$page: .so $to"; bad=1; }; continue; fi
  grep -q '^\.SH NAME' "$page" && grep -q '^\.TH ' "$page" || { echo "$page: no NAME"; bad=1; }
done
[ $n -gt 80 ] || { echo "only $n functions found"; bad=1; }
exit $bad
