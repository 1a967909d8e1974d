#!/bin/sh
# Runs as root on a host of the cluster, sent there by deploy/cluster: cluster-host.sh VERB ARG...
# A line "why: TEXT" on standard output says why the host is not fit; the exit code is then 1.
set -u
fail() { echo "why: $*"; exit 1; }
stage=/var/lib/pangaea-deploy

check() { # CLUSTER: is this host fit for it?
  [ "$(id -u)" = 0 ] || fail "not root here; give the node a user root, or sudo without a password"
  [ "$(uname -m)" = x86_64 ] || fail "the processor is $(uname -m), not x86_64"
  command -v dpkg >/dev/null || fail "no dpkg: this is not Debian"
  [ -d /run/systemd/system ] || fail "systemd does not run here"
  version=$(uname -r)
  major=${version%%.*} rest=${version#*.}
  minor=${rest%%[!0-9]*}
  [ "$major" -gt 6 ] || { [ "$major" = 6 ] && [ "$minor" -ge 1 ]; } || fail "Linux $version is too old; 6.1 is needed"
  [ -e /dev/kvm ] || modprobe -q kvm_amd || modprobe -q kvm_intel
  [ -e /dev/kvm ] || fail "no /dev/kvm: switch virtualisation on in the firmware and load kvm_amd or kvm_intel"
  free=$(df -Pk /var | awk 'NR == 2 {print $4}')
  [ "$free" -ge 102400 ] || fail "less than 100 MiB are free under /var"
  if [ -e /etc/pangaea/cluster.yaml ] && ! grep -qE "^cluster: '?$1'?\$" /etc/pangaea/cluster.yaml; then
    fail "belongs to another cluster already ($(sed -n "s/^cluster: *//p" /etc/pangaea/cluster.yaml)); deploy/cluster down --purge frees it"
  fi
  mkdir -p "$stage" && chmod 700 "$stage" || fail "cannot write to /var/lib"
  echo "package: $(cat "$stage/installed" 2>/dev/null)"
}

install_package() { # DIGEST: of the package that was copied
  [ "$(sha256sum "$stage/pangaea.deb" | cut -d' ' -f1)" = "$1" ] || fail "the package arrived damaged; is the disk full?"
  if ! dpkg -i "$stage/pangaea.deb" >"$stage/log" 2>&1; then
    # What it depends on comes from the host's own package sources.
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends -f install >>"$stage/log" 2>&1
    if ! dpkg-query -W -f '${db:Status-Status}' pangaea 2>/dev/null | grep -qx installed; then
      why=$(sed -n 's/.*\(pangaea depends on [^;]*\).*/\1/p; s/^\(E: .*\)/\1/p' "$stage/log" | head -n 3 | tr '\n' ' ')
      fail "the package could not be installed: ${why:-see $stage/log}"
    fi
  fi
  rm -f "$stage/pangaea.deb"
  echo "$1" >"$stage/installed"
}

# The new configuration arrived as $stage/home; starts or restarts the agent where that is needed.
start() { # CHANGED: the package is new
  changed=$1
  chmod -R go= "$stage/home"
  if ! diff -r -q "$stage/home" /etc/pangaea >/dev/null 2>&1; then
    mkdir -p /etc/pangaea/keys && chmod 750 /etc/pangaea && chmod 700 /etc/pangaea/keys
    cp -p "$stage"/home/keys/* /etc/pangaea/keys/ && cp -p "$stage/home/node" "$stage/home/cluster.yaml" /etc/pangaea/ ||
      fail "cannot write /etc/pangaea"
    changed=1
  fi
  rm -rf "${stage:?}/home"
  systemctl enable --quiet pangaead || fail "no service pangaead"
  if [ "$changed" = 1 ]; then systemctl restart pangaead; else systemctl start pangaead; fi
  systemctl is-active --quiet pangaead ||
    fail "the agent does not start: $(journalctl -q -u pangaead -n 3 -o cat --no-pager | tr '\n' ' ')"
  echo "changed: $changed"
}

# How many nodes this one finds up. `node ls` prints one object a node.
seen() {
  systemctl is-active --quiet pangaead || fail "the agent has ended: $(journalctl -q -u pangaead -n 3 -o cat --no-pager | tr '\n' ' ')"
  echo "up: $(pangaea node ls --json 2>/dev/null | grep -o '"state": *"up"' | wc -l)"
}

status() {
  echo "package: $(dpkg-query -W -f '${Version}' pangaea 2>/dev/null)"
  echo "agent: $(systemctl is-active pangaead)"
  echo "vms: $(pgrep -c -x pangaea-vmm)"
  seen
}

stop() { # FORCE PURGE
  vms=$(pgrep -c -x pangaea-vmm)
  [ "$vms" = 0 ] || [ "$1" = 1 ] || fail "$vms VMs run here; stop them, or say --force"
  systemctl disable --now --quiet pangaead 2>/dev/null
  [ "$vms" = 0 ] || pkill -x pangaea-vmm
  rm -rf /run/pangaea/*
  if [ "$2" = 1 ]; then
    dpkg --purge pangaea >/dev/null 2>&1
    rm -rf "$stage" /etc/pangaea
  fi
}

verb=$1
shift
case "$verb" in
  check|install_package|start|seen|status|stop) "$verb" "$@" ;;
  *) fail "unknown verb $verb" ;;
esac
