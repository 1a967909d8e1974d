# Starting, reaching and ending lab hosts. Sourced by lab.
# shellcheck shell=bash disable=SC2034,SC2054,SC2154

keeper() { "$tools/lab-client" control "$dir" "$@"; }

# choose_accel: QEMU's options for the best virtualisation that nests here.
choose_accel() {
  local nested
  tsc=''
  nested=$(cat /sys/module/kvm_amd/parameters/nested /sys/module/kvm_intel/parameters/nested 2>/dev/null)
  if [ -w /dev/kvm ] && [[ $nested == [1Y] ]] && grep -qwE 'svm|vmx' /proc/cpuinfo; then
    accel=(-accel kvm -cpu host)
  else
    accel=(-accel tcg,thread=multi,tb-size=256 -cpu "EPYC,+svm,+npt,$(tcg_lacks)")
    # TCG's TSC is this machine's. A host that measures it itself while others keep the processors busy can be
    # wrong by a factor, and so its clock.
    tsc=tsc_early_khz=$("$tools/lab-client" tsc) || return 1
  fi
}

# What TCG cannot emulate and QEMU would warn of on every start.
tcg_lacks() { echo -n 'rdseed=off,sha-ni=off,osvw=off,nrip-save=off,xsavec=off'; }

# cryptomgr.notests: the kernel's tests of its own ciphers take a tenth of an emulated boot.
# With maxcpus=1 the agent switches the other processors on when it has a VM (see keep_a_vm() there); emulated
# hosts seemed to panic more often so, while guests run.
# host_script NAME INDEX KERNEL INITRD APPEND DISK-OPTION...: the start script of a host.
host_script() {
  local name=$1 n=$2 kernel=$3 initrd=$4 append=$5 i
  shift 5
  local cmd=(exec qemu-system-x86_64 -name "$name" -M "$machine" "${accel[@]}" -smp "$cpus" -m "$memory"
    -nodefaults -no-user-config -display none -no-reboot -rtc base=utc
    -kernel "$kernel" -initrd "$initrd"
    -append "console=ttyS0 panic=-1 net.ifnames=0 random.trust_cpu=on mitigations=off cryptomgr.notests=1 tsc=reliable $tsc quiet pangaea.host=$n pangaea.mtu=$mtu $append"
    -chardev "socket,id=console,path=console,server=on,wait=off,logfile=console.log" -serial chardev:console
    -qmp "unix:qmp,server=on,wait=off"
    -device virtio-rng-pci
    -netdev "dgram,id=lab,local.type=unix,local.path=../$name.net,remote.type=unix,remote.path=../$name.sw"
    -device "virtio-net-pci,netdev=lab,mac=52:54:00:77:00:$(printf %02x "$n"),romfile=,host_mtu=$mtu"
    -device virtio-serial-pci,max_ports=16)
  for i in 0 1 2 3 4 5 6 7; do
    cmd+=(-chardev "socket,id=x$i,path=x$i,server=on,wait=off" -device "virtserialport,chardev=x$i,name=lab.$i")
  done
  cmd+=("$@")
  mkdir -p "$dir/$name"
  printf '%s\n' "$n" >"$dir/$name/index"
  { echo '#!/bin/sh'; echo "rm -f ../$name.net console qmp x?"; printf '%q ' "${cmd[@]}"; echo; } >"$dir/$name/start"
  chmod 755 "$dir/$name/start"
}

minimal_host() { # NAME INDEX
  local disks=() i=0 layer
  for layer in "${layers[@]}"; do
    disks+=(-drive "if=none,id=d$i,file=$layer,format=raw,readonly=on,file.locking=off"
      -device "virtio-blk-pci,drive=d$i")
    i=$((i + 1))
  done
  host_script "$1" "$2" "$kernel/vmlinux" "$initrd" '' "${disks[@]}"
}

# host_wait NAME SECONDS
host_wait() {
  "$tools/lab-client" exec -w "$2" "$dir/$1" true </dev/null && return 0
  echo "the end of $dir/$1/console.log:" >&2
  tail -n 15 "$dir/$1/console.log" "$dir/$1/qemu.log" >&2 2>/dev/null
  return 1
}

# An emulated machine that has failed itself: QEMU's emulation of two processors with SVM loses one now and then.
emulation_failed() { # NAME
  grep -qs -- '-accel tcg' "$dir/$1/start" &&
    grep -aqsE 'Kernel panic - not syncing|soft lockup - CPU#[0-9]+ stuck for ([6-9][0-9]|[0-9]{3,})s' "$dir/$1/console.log"
}

# answers NAME SECONDS: false at once where there is nothing to wait for.
answers() {
  local end=$((SECONDS + $2)) said
  until said=$("$tools/lab-client" exec -w 10 "$dir/$1" true </dev/null 2>&1); do
    [[ $said == *'does not answer'* ]] && [ $SECONDS -lt $end ] && ! emulation_failed "$1" || return 1
  done
}

# host_ready NAME: waits until it can be used. On an idle machine that takes seconds; where others keep its
# processors busy, minutes. One whose emulation fails meanwhile is switched off and on, once.
host_ready() {
  local wait=200
  [ ! -e "$dir/ssh_config" ] || wait=400
  if ! answers "$1" "$wait" && emulation_failed "$1"; then
    echo "lab: the emulation of $1 has failed: once more" >&2
    mv "$dir/$1/console.log" "$dir/$1/console-failed.log"
    keeper kill "$1" && keeper start "$1" || return 1
    answers "$1" "$wait"
  fi
  host_wait "$1" 10 && { [ ! -e "$dir/ssh_config" ] || full_wait "$1"; }
}

lab_hosts() { local h; for h in "$dir"/*/start; do [ -e "$h" ] && h=${h%/start} && echo "${h##*/}"; done; }

lab_running() { [ -S "$dir/control" ] && "$tools/lab-client" control "$dir" status >/dev/null 2>&1; }

need_host() {
  lab_running || die "no lab runs in $dir; start one with: lab up 2"
  [ -e "$dir/${1:?}/start" ] || die "no host $1; there are: $(lab_hosts | tr '\n' ' ')"
}
