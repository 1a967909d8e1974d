#!/bin/bash
# hosts.sh: several PVM hosts on one machine, in namespaces.  Needs root, util-linux, iproute2.
#   hosts.sh up N [M]        hosts h1..hN at 10.77.0.1..N; master pvmd on h1, the others (or those to M) added by the console
#   hosts.sh upnet N         the namespaces only, no pvmd
#   hosts.sh run I CMD...    run CMD on host hI (cwd kept, clean environment of the PVM host)
#   hosts.sh rsh HOST CMD..  what $PVM_RSH calls (options -n / -l USER are skipped)
#   hosts.sh procs [I]       pid + command of what runs on the hosts (holders not listed)
#   hosts.sh crash I         kill -9 everything on host hI (its interface disappears as well)
#   hosts.sh down            all of it away
# A "host" = a holder process (sleep) with its own net + uts + mount + ipc namespace; the pid namespace
# and the file system are shared.  Nothing is put in /run/netns or /etc/netns: when the holders and the
# processes in their net namespaces are dead, the kernel removes interfaces and mounts.
# Settings: PVMHOSTS_DIR (state), PVMHOSTS_NET (first three octets), PVMHOSTS_ENV ("A=b C=d" for the hosts),
#           PVM_ROOT, PVM_ARCH, PVM_PATH, PVMD (daemon command), PVMCON (console command).
B=${PVMHOSTS_DIR:-${TMPDIR:-/tmp}/pvmhosts}
NET=${PVMHOSTS_NET:-10.77.0}
ME=$(readlink -f "$0")
[ -e "$B/env" ] && . "$B/env"
hp() { cat "$B/h$1.pid" 2>/dev/null; }
envs() {
  echo HOME=/root USER=root LOGNAME=root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb \
   PVM_ROOT=${PVM_ROOT:-/usr/lib/pvm3} PVM_ARCH=${PVM_ARCH:-LINUX64} PVM_ALLOW_ROOT=1 PVM_TMP=$B/tmp$1 \
   PVM_PATH=${PVM_PATH:-/usr/bin} PVM_RSH=$B/rsh PVMHOSTS_DIR=$B PVMHOSTS_NET=$NET $PVMHOSTS_ENV
}
inhost() { local i=$1 p=$(hp $1); shift
  [ -n "$p" ] || { echo "pvmhosts: no host h$i" >&2; exit 1; }
  exec nsenter -t $p -n -u -m -i env -C "${PVMHOSTS_CWD:-$PWD}" -i $(envs $i) "$@"; }
nsof() { readlink /proc/$1/ns/net 2>/dev/null; }
members() { # pids in the net namespace recorded for NAME (sw, h1...); never the machine's own namespace
  local w=$(cat "$B/$1.ns" 2>/dev/null) r=$(cat "$B/root.ns" 2>/dev/null)
  [[ $w == net:* && $r == net:* && $w != "$r" ]] || return
  find /proc -maxdepth 3 -path '/proc/[0-9]*/ns/net' -lname "${w/[/\\[}" 2>/dev/null | cut -d/ -f3; }
upnet() {
  local n=$1 i k S H p
  [ -e $B ] && { echo "pvmhosts: already up (or stale): $B" >&2; exit 1; }
  mkdir -p $B; nsof self > $B/root.ns
  for k in PVM_ROOT PVM_ARCH PVM_PATH PVMHOSTS_ENV PVMD PVMCON NET; do [ -n "${!k}" ] && printf '%s=%q\n' $k "${!k}" >> $B/env; done
  printf '#!/bin/sh\nexec %s rsh "$@"\n' "$ME" > $B/rsh; chmod 755 $B/rsh
  { echo 127.0.0.1 localhost; for ((i=1;i<=n;i++)); do echo $NET.$i h$i; done; } > $B/hosts
  unshare -n sh -c "readlink /proc/self/ns/net > $B/sw.ns; echo \$\$ > $B/sw.pid; exec sleep 86400" </dev/null >/dev/null 2>&1 &   # the switch
  for ((i=1;i<=n;i++)); do
    mkdir $B/tmp$i
    unshare -n -u -m -i sh -c "hostname h$i && mount --bind $B/hosts /etc/hosts && readlink /proc/self/ns/net > $B/h$i.ns && echo \$\$ > $B/h$i.pid; exec sleep 86400" </dev/null >/dev/null 2>&1 &
  done
  for i in sw $(seq -f h%g $n); do for k in $(seq 250); do [ -s $B/$i.pid ] && break; sleep 0.02; done; [ -s $B/$i.pid ] || { echo "pvmhosts: $i did not start" >&2; exit 1; }; done
  S="nsenter -t $(cat $B/sw.pid) -n ip"
  $S link add br0 type bridge; $S link set br0 up
  for ((i=1;i<=n;i++)); do
    p=$(hp $i); H="nsenter -t $p -n ip"
    $S link add v$i type veth peer name eth0 netns $p && $S link set v$i master br0 up &&
    $H link set lo up && $H addr add $NET.$i/24 dev eth0 && $H link set eth0 up || exit 1
  done
}
case $1 in
upnet) upnet $2 ;;
up) upnet $2
  ( inhost 1 setsid ${PVMD:-pvmd} >$B/tmp1/pvmd.out 2>&1 </dev/null ) &
  for k in $(seq 250); do ls $B/tmp1/pvmd.[0-9]* >/dev/null 2>&1 && break; sleep 0.02; done
  ( for ((i=2;i<=${3:-$2};i++)); do echo add h$i; done; echo conf; echo quit ) | timeout 90 "$ME" run 1 ${PVMCON:-pvm} ;;
run) shift; inhost "$@" ;;
rsh) shift; h=
  echo "$(hostname):$(printf ' <%s>' "$@")" >> $B/rsh.log
  while :; do case $1 in -n) shift;; -l) shift 2;; *) [ -n "$h" ] && break; h=$1; shift;; esac; done
  cd /root; inhost ${h#h} sh -c "$*" ;;
procs) shift; for i in ${@:-$(ls $B | sed -n 's/^h\([0-9]*\).pid/\1/p')}; do for p in $(members h$i); do [ $p != $(hp $i) ] && echo "h$i $p $(tr '\0' ' ' </proc/$p/cmdline 2>/dev/null)"; done; done ;;
crash) kill -9 $(members h$2) ;;
down)
  for k in 1 2 3 4 5 6; do l=; for f in $B/*.ns; do f=${f##*/}; [ $f = root.ns ] || l="$l $(members ${f%.ns})"; done; [ -z "${l// /}" ] && break
    [ $k = 6 ] && echo "pvmhosts: still there: $l" >&2; kill -9 $l 2>/dev/null; sleep 0.1; done
  rm -rf "$B" ;;
*) sed -n 2,10p "$ME"; exit 2 ;;
esac
