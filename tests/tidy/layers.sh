#!/bin/bash
# labels: tidy
# Checks cmake/layers.txt against every #include "folder/..." and the external headers kept at edges.
set -u
cd "${PANGAEA_SOURCE:-$(dirname "$0")/../..}" || exit 1
table=cmake/layers.txt
bad=0
declare -A may
declare -a hdr_re hdr_dirs
while IFS= read -r line; do
  case "$line" in
    '#'*|'') ;;
    HEADER*) rest=${line#HEADER }; hdr_re+=("${rest%%: *}"); hdr_dirs+=("${rest#*: }") ;;
    *) may[${line%%:*}]=${line#*:} ;;
  esac
done <$table
checked=0
while IFS=: read -r file lineno text; do
  checked=$((checked + 1))
  inc=${text#*[<\"]}; inc=${inc%%[>\"]*}
  top=${file%%/*}
  case "$text" in
    *'"'*/*)
      to=${inc%%/*}
      if [ "$to" != "$top" ] && [ -n "${may[$to]+x}" ] && ! [[ " ${may[$top]-} " == *" $to "* ]]; then
        echo "$file:$lineno: $top/ may not include $to/ ($inc)"; bad=1
      fi ;;
  esac
  [ "$top" = tests ] && continue
  for i in "${!hdr_re[@]}"; do
    if [[ $inc =~ ^(${hdr_re[$i]})$ ]]; then
      ok=0
      for d in ${hdr_dirs[$i]}; do [[ $file == "$d"/* ]] && ok=1; done
      [ $ok = 1 ] || { echo "$file:$lineno: <$inc> belongs to ${hdr_dirs[$i]}/ only"; bad=1; }
    fi
  done
done < <(find base proto dsm migrate pvm node ctl tests -name '*.[ch]' -print0 2>/dev/null |
  xargs -0 grep -nE '^[[:space:]]*#[[:space:]]*include' /dev/null)
[ $checked -gt 0 ] || { echo "no includes found: wrong folder?"; exit 1; }
echo "$checked includes checked"
exit $bad
