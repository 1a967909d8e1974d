#!/bin/bash
# labels: package
# timeout: 120
# beside: yes
# The Debian package holds what a host needs, and deploy/packages/runtime.txt names all that it needs.
set -u
cd "$PANGAEA_BUILD" || exit 1
for tool in cpack dpkg-deb dpkg-shlibdeps; do
  command -v $tool >/dev/null || { echo "$tool is not installed"; exit 77; }
done
case "$(sed -n 's/^PANGAEA_SANITIZE:STRING=//p' CMakeCache.txt)" in
  '') ;;
  *) echo "a build with sanitizers is not packaged"; exit 77 ;;
esac
work=$(mktemp -d)
trap 'case $BASHPID in $$) rm -rf "$work" ;; esac' EXIT
cpack -G DEB -B "$work" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
deb=$(echo "$work"/pangaea_*.deb)
failed=0
dpkg-deb -c "$deb" >"$work/files"
for file in usr/bin/pangaea usr/sbin/pangaead usr/libexec/pangaea/pangaea-vmm usr/bin/pvmd3 usr/bin/pvmd usr/bin/pvm \
  usr/share/man/man8/pvmd3.8 usr/share/man/man3/pvm_send.3 \
  usr/lib/systemd/system/pangaead.service usr/lib/udev/rules.d/60-pangaea.rules usr/lib/tmpfiles.d/pangaea.conf \
  usr/share/bash-completion/completions/pangaea; do
  grep -q " \./$file\( ->.*\)\?$" "$work/files" || { echo "missing in the package: $file"; failed=1; }
done
if grep -q ' \./\(etc\|home\|root\|tmp\|work\)/' "$work/files"; then echo "strange files in the package"; failed=1; fi
dpkg-deb -f "$deb" Depends | tr ',' '\n' | sed 's/^ *//; s/ .*//' >"$work/depends"
[ "$(wc -l <"$work/depends")" -ge 8 ] || { echo "too few dependencies: libraries were not found"; failed=1; }
while read -r name; do
  case "$name" in libc6|libpvm3|libgcc-s1) continue ;; esac
  grep -qx "$name" "$PANGAEA_SOURCE/deploy/packages/runtime.txt" ||
    { echo "$name is missing in deploy/packages/runtime.txt"; failed=1; }
done <"$work/depends"
# What Debian's programs for PVM need (tablix2 and netpipe-pvm the console's package as well) is there.
for name in libpvm3 pvm; do
  dpkg-deb -f "$deb" Provides | tr ',' '\n' | grep -q "^ *$name (= 3.4.6" || { echo "not provided: $name"; failed=1; }
done
exit $failed
