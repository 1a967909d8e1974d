#!/bin/bash
# labels: unit
# timeout: 60
# beside: yes
# The ACPI tables as another implementation reads them: each disassembles, and what comes out
# compiles again without an error or a warning.
set -eu
command -v iasl >/dev/null || { echo "iasl is not installed (acpica-tools)"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
ACPI_DUMP=$dir "$PANGAEA_BUILD/tests/test_vmm_acpi" >/dev/null 2>&1
cd "$dir"
count=0
for table in *.dat; do
  base=${table%.dat}
  iasl -d "$table" >"$base.log" 2>&1 || { cat "$base.log"; echo "$table: cannot be disassembled"; exit 1; }
  if grep -nE 'Invalid|[Ww]arning|[Ee]rror|[Cc]hecksum.*should|Unknown' "$base.log" | grep -v '0 Errors'; then
    echo "$table: iasl complains"; exit 1
  fi
  iasl -p "$base-again" "$base.dsl" >"$base.log" 2>&1 || { cat "$base.log"; echo "$table: does not compile again"; exit 1; }
  case $base in
    *-DSDT) grep -q '0 Errors, 0 Warnings' "$base.log" || { cat "$base.log"; exit 1; } ;;
    # The header names the compiler that made it.
    *) cmp -i 36 "$table" "$base-again.aml" || { echo "$table: comes back different"; exit 1; } ;;
  esac
  count=$((count + 1))
done
[ "$count" -ge 8 ] || { echo "only $count tables"; exit 1; }
echo "$count tables"
