# Shared by the scripts of deploy/. Source it; it sets $top and fails on unset variables.
# shellcheck shell=bash
set -u
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export top

if [ -t 1 ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi
step() { printf '%s==> %s%s\n' "$bold" "$*" "$plain"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# install_packages LIST...: the packages of deploy/packages/LIST.txt that are missing.
install_packages() {
  local list name want=()
  for list in "$@"; do
    while read -r name _; do
      case "$name" in '#'*|'') continue ;; esac
      [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || want+=("$name")
    done <"$top/deploy/packages/$list.txt"
  done
  [ ${#want[@]} -eq 0 ] && return 0
  [ "$(id -u)" = 0 ] || die "these packages are missing and only root can install them: apt-get install ${want[*]}"
  step "installing ${#want[@]} Debian packages: ${want[*]}"
  apt-get -qq update || die "apt-get update failed; check the machine's package sources"
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${want[@]}" >"${TMPDIR:-/tmp}/pangaea-apt.log" 2>&1 ||
    { tail -20 "${TMPDIR:-/tmp}/pangaea-apt.log" >&2; die "apt-get could not install the packages above"; }
}

# build_preset PRESET [TARGET]: configures and builds into build/PRESET.
build_preset() {
  step "building ($1)"
  (cd "$top" && cmake --preset "$1" && cmake --build --preset "$1" --target "${2-all}") >"$top/build-$1.log" 2>&1 ||
    { tail -40 "$top/build-$1.log" >&2; echo "${0##*/}: the build failed; the whole log is build-$1.log" >&2; return 1; }
  rm -f "$top/build-$1.log"
}
