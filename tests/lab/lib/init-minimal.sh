#!/bin/sh
# /sbin/init of a minimal lab host: the network, the agent, /dev/kvm, a shell on the console.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=linux
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
mkdir -p /dev/pts /dev/shm /run/lock /root /var/log
mount -t devpts -o gid=5,mode=620,ptmxmode=666 pts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t tracefs trace /sys/kernel/tracing
value() { sed -n "s/.*\<$1=\([^ ]*\).*/\1/p" /proc/cmdline; }

# The largest module, beside the others.
{ modprobe -q kvm_amd || modprobe -q kvm_intel; } 2>/dev/null &
kvm=$!
modprobe -qa virtio_console virtio_net tun 2>/dev/null || true
n=$(value pangaea.host)
hostname "h$n"
{ echo "127.0.0.1 localhost"; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do echo "10.77.0.$i h$i"; done; } >/etc/hosts
ip link set lo up
ip addr add "10.77.0.$n/24" dev eth0
ip link set eth0 up mtu "$(value pangaea.mtu)"
sysctl -qw kernel.panic_on_oops=1 kernel.core_pattern=core
wait $kvm
chmod 666 /dev/kvm 2>/dev/null
/usr/lib/pangaea-lab/agent &
echo "h$n ready after $(cut -d' ' -f1 /proc/uptime) s" >/dev/console

while :; do
  setsid cttyhack sh -l
  sleep 1
done
