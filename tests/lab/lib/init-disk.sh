#!/bin/busybox sh
# shellcheck shell=dash
# First step of every lab host: loads the drivers of its disks, mounts the root and goes there.
# Minimal hosts: all disks are read-only layers, the first on top, under a tmpfs.
bb=/bin/busybox
$bb mount -t devtmpfs dev /dev
$bb mount -t proc proc /proc
for m in /modules/*.ko; do $bb insmod "$m"; done
read -r cmdline </proc/cmdline
case " $cmdline " in
*' pangaea.root=disk '*)
  $bb mount -t ext4 /dev/vda /mnt || exec $bb sh
  ;;
*)
  lower=''
  for d in /dev/vd?; do
    $bb mkdir -p "/run/layer/${d##*/}"
    $bb mount -t ext4 -o ro "$d" "/run/layer/${d##*/}" || exec $bb sh
    lower=$lower:/run/layer/${d##*/}
  done
  $bb mkdir -p /run/rw
  $bb mount -t tmpfs -o mode=755,size=60% rw /run/rw
  $bb mkdir /run/rw/u /run/rw/w
  $bb mount -t overlay -o "lowerdir=${lower#:},upperdir=/run/rw/u,workdir=/run/rw/w" root /mnt || exec $bb sh
  ;;
esac
$bb mount --move /dev /mnt/dev
$bb umount /proc
exec $bb switch_root /mnt /sbin/init
