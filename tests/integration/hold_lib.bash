# For tests that preload a library into pangaea-vmm. Source it where $dir is set.
# shellcheck shell=bash disable=SC2034,SC2154

# hold_with SOURCE PROGRAM: builds it; $preload is then what to load into PROGRAM: a sanitizer's runtime comes first.
hold_with() {
  local runtime
  runtime=$(ldd "$2" | awk '/lib[at]san\./ {print $3}')
  if [ -z "$runtime" ] && grep -q '__[at]san_init' "$2"; then
    echo "its sanitizer is part of $2, so nothing can be loaded after it"; exit 77
  fi
  "${CC:-cc}" -O1 -Wall -shared -fPIC -o "$dir/hold.so" "$(dirname "$0")/$1" || exit 1
  preload=${runtime:+$runtime:}$dir/hold.so
}
