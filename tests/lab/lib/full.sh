# Full hosts: a Debian root with systemd and sshd, made once; each host writes to its own overlay.
# Sourced by lab.
# shellcheck shell=bash disable=SC2034,SC2054,SC2154

full_packages=(systemd-sysv dbus udev kmod openssh-server iproute2 iputils-ping procps less
  ibverbs-utils ibverbs-providers rdmacm-utils)

# runtime_packages: what our Debian package needs; hosts of a lab reach no package source.
runtime_packages() { sed 's/#.*//; /^$/d' "$top/deploy/packages/runtime.txt"; }

full_fill() { # KERNELDIR DIR
  local dir=$2 root=$2/root packages
  packages="${full_packages[*]} $(runtime_packages | tr '\n' ' ')"
  packages=${packages% }
  step "making a Debian root (mmdebstrap; once)"
  debian_sources | mmdebstrap --quiet --variant=apt --include="${packages// /,}" \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' "$(release_name)" "$dir/root.tar" - || return 1
  mkdir "$root"
  tar -C "$root" --exclude='./dev/*' -xf "$dir/root.tar" || return 1
  rm "$dir/root.tar"
  cp -r "$1"/lib/modules "$root/usr/lib/"
  full_configure "$root"
  image_make "$dir/image" "$root" 2048 || return 1
  rm -rf "$root"
}

full_configure() { # ROOT
  local root=$1 unit
  mkdir -p "$root/lab"
  rm -f "$root"/etc/ssh/ssh_host_* "$root"/etc/machine-id
  : >"$root/etc/machine-id"
  printf '/dev/vda / ext4 defaults,noatime 0 0\n' >"$root/etc/fstab"
  printf 'options kvm_amd nested=0 npt=%s\n' "${lab_npt:-0}" >"$root/etc/modprobe.d/kvm.conf"
  printf 'kvm_amd\nvirtio_console\nvirtio_net\n' >"$root/etc/modules-load.d/lab.conf"
  printf '[Manager]\nDefaultTimeoutStopSec=10s\n' >"$root/etc/systemd/system.conf.d.lab"
  mkdir -p "$root/etc/systemd/system.conf.d"
  mv "$root/etc/systemd/system.conf.d.lab" "$root/etc/systemd/system.conf.d/lab.conf"
  cat >"$root/etc/systemd/system/lab.service" <<'UNIT'
[Unit]
Description=What the lab puts into this host
DefaultDependencies=no
After=systemd-modules-load.service systemd-remount-fs.service systemd-udevd.service local-fs.target
Before=network.target ssh.service
Wants=network.target
[Service]
ExecStartPre=/bin/mount -o ro /dev/vdb /lab
ExecStartPre=/bin/sh /lab/setup
ExecStart=/lab/agent
KillMode=process
[Install]
WantedBy=multi-user.target
UNIT
  mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
  ln -s ../lab.service "$root/etc/systemd/system/multi-user.target.wants/lab.service"
  for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer systemd-timesyncd.service systemd-pstore.service getty@tty1.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  chroot_passwordless "$root"
}

# A login on the console without a password; sshd takes keys only.
chroot_passwordless() {
  sed -i 's/^root:[^:]*:/root::/' "$1/etc/shadow"
  mkdir -p "$1/etc/ssh/sshd_config.d"
  printf 'PasswordAuthentication no\nPermitRootLogin prohibit-password\nUseDNS no\n' >"$1/etc/ssh/sshd_config.d/lab.conf"
}

# full_prepare: the base image, and what makes this lab's hosts reachable by its own key.
full_prepare() {
  local base
  base=$(cache_get lab-full "$(cache_key 3 "$kernel" "@$lab_lib/full.sh" "npt=${lab_npt:-0}" "$(runtime_packages)" \
    "$(package_versions "${full_packages[@]}")")" full_fill "$kernel") || return 1
  full_base=$base/image
}

# full_seed: the read-only disk with the agent, the keys and the set-up script, and ssh_config.
full_seed() {
  local seed=$dir/seed n=$1 i
  mkdir -p "$seed"
  ssh-keygen -q -t ed25519 -N '' -C lab -f "$dir/key" && ssh-keygen -q -t ed25519 -N '' -C lab -f "$seed/host_key" || return 1
  cp "$tools/lab-agent" "$seed/agent"
  cp "$dir/key.pub" "$seed/authorized_keys"
  cat >"$seed/setup" <<'SETUP'
n=$(sed -n 's/.*pangaea.host=\([0-9]*\).*/\1/p' /proc/cmdline)
mtu=$(sed -n 's/.*pangaea.mtu=\([0-9]*\).*/\1/p' /proc/cmdline)
hostname "h$n"; echo "h$n" >/etc/hostname
modprobe -a virtio_net virtio_console
udevadm settle --exit-if-exists=/sys/class/net/eth0
ip addr replace "10.77.0.$n/24" dev eth0 && ip link set eth0 up mtu "$mtu"
{ echo 127.0.0.1 localhost; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do echo "10.77.0.$i h$i"; done; } >/etc/hosts
install -d -m 700 /root/.ssh
install -m 600 /lab/authorized_keys /root/.ssh/authorized_keys
install -m 600 /lab/host_key /etc/ssh/ssh_host_ed25519_key
install -m 644 /lab/host_key.pub /etc/ssh/ssh_host_ed25519_key.pub
SETUP
  image_make "$dir/seed.img" "$seed" || return 1
  for ((i = 1; i <= n; i++)); do
    printf 'Host h%d\n  User root\n  HostKeyAlias lab\n  IdentityFile %s/key\n  UserKnownHostsFile %s/known_hosts\n' "$i" "$dir" "$dir"
    printf '  StrictHostKeyChecking yes\n  KexAlgorithms curve25519-sha256\n  IdentitiesOnly yes\n  LogLevel ERROR\n  ProxyCommand %s/lab-client tcp %s/%%n 127.0.0.1 22\n' "$tools" "$dir"
  done >"$dir/ssh_config"
  echo "lab $(cut -d' ' -f1,2 "$seed/host_key.pub")" >"$dir/known_hosts"
  rm -rf "$seed"
}

full_host() { # NAME INDEX
  mkdir -p "$dir/$1"
  qemu-img create -q -f qcow2 -F raw -b "$full_base" "$dir/$1/disk.qcow2" || return 1
  host_script "$1" "$2" "$kernel/vmlinux" "$initrd" "pangaea.root=disk systemd.show_status=0" \
    -drive "if=none,id=d0,file=disk.qcow2,format=qcow2,cache=unsafe" -device virtio-blk-pci,drive=d0 \
    -drive "if=none,id=d1,file=$dir/seed.img,format=raw,readonly=on,file.locking=off" -device virtio-blk-pci,drive=d1
}

# full_wait NAME: until sshd answers with a session.
full_wait() {
  local end=$((SECONDS + 200))
  until ssh -F "$dir/ssh_config" -o BatchMode=yes "$1" true </dev/null 2>"$dir/$1/ssh.log"; do
    [ $SECONDS -lt $end ] || { cat "$dir/$1/ssh.log" >&2; return 1; }
    sleep 0.3
  done
}
