#!/bin/bash
# labels: tidy
# Every C file is as .clang-format says. Mend with: tests/tidy/format.sh --fix
cd "${PANGAEA_SOURCE:-$(dirname "$0")/../..}" || exit 1
tool=$(command -v clang-format-14 || command -v clang-format) || { echo "clang-format is not installed"; exit 77; }
mapfile -d '' files < <(find base proto dsm migrate pvm node ctl tests -name '*.[ch]' -print0)
[ ${#files[@]} -gt 0 ] || { echo "no files"; exit 1; }
if [ "${1-}" = --fix ]; then exec "$tool" -i "${files[@]}"; fi
"$tool" --dry-run -Werror "${files[@]}" 2>&1 | grep -E 'error:' | cut -d: -f1,2 | sort -u | head -40
[ "${PIPESTATUS[0]}" = 0 ]
