#!/bin/bash
# labels: tidy
# Every shell script passes shellcheck.
cd "${PANGAEA_SOURCE:-$(dirname "$0")/../..}" || exit 1
command -v shellcheck >/dev/null || { echo "shellcheck is not installed"; exit 77; }
mapfile -t files < <({ grep -rlE -m1 '^#!/bin/(bash|sh|busybox sh)' deploy tests/lab tests/integration tests/tidy .ci 2>/dev/null
  find deploy tests/lab -name '*.sh'; } | sort -u)
[ ${#files[@]} -gt 0 ] || { echo "no scripts"; exit 1; }
printf '%s\0' "${files[@]}" | xargs -0 -n 6 -P "$(nproc)" shellcheck -x -P SCRIPTDIR -P . -S warning && echo "${#files[@]} scripts checked"
