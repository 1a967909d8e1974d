#!/bin/bash
# labels: integration pvm
# timeout: 60
# beside: yes
# What Debian's libpvm3 and libgpvm3 export, ours do: all but the inside of the original
# (tests/pvm/symbols.left-out), and nothing that a packaged program imports is missing.
set -u
here=$(cd "$(dirname "$0")/.." && pwd)
build=${PANGAEA_BUILD:-$here/../build/release}/pvm
lib=/usr/lib/x86_64-linux-gnu
[ -e $lib/libpvm3.so.3 ] || { echo "Debian's libpvm3 is not installed"; exit 77; }
names() { nm -D --defined-only "$1" | awk '$2 != "w" {print $3}' | sort -u; }
bad=0
for l in libpvm3.so.3 libgpvm3.so.3; do
  missing=$(comm -23 <(names $lib/$l) <(names "$build/$l") | comm -23 - <(sort -u "$here/pvm/symbols.left-out"))
  [ -z "$missing" ] || { echo "$l: missing: $missing"; bad=1; }
done
have=$( (names "$build/libpvm3.so.3"; names "$build/libgpvm3.so.3") | sort -u)
known=$( (names $lib/libpvm3.so.3; names $lib/libgpvm3.so.3) | sort -u)
n=0
for f in $(dpkg -L pvm-examples netpipe-pvm tablix2 slang-pvm 2>/dev/null | sort -u); do
  [ -f "$f" ] && file -L "$f" 2>/dev/null | grep -q ELF || continue
  n=$((n + 1))
  gone=$(nm -D --undefined-only "$f" 2>/dev/null | awk '{print $NF}' | sed 's/@.*//' | sort -u | comm -12 - <(echo "$known") | comm -23 - <(echo "$have"))
  [ -z "$gone" ] || { echo "$f imports: $gone"; bad=1; }
done
echo "$n packaged programs looked at"
exit $bad
