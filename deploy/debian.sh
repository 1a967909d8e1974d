# Debian kernels, images and a cache of what is made from them; sourced after lib.sh.
# Package sources are the machine's own apt sources, whatever they are.
# shellcheck shell=bash

cache_dir=${PANGAEA_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/pangaea}

# cache_key WORD...: a short digest of the words; a word @FILE stands for the file's content.
cache_key() {
  local word
  for word in "$@"; do
    case "$word" in @*) cat -- "${word#@}" ;; *) printf '%s\n' "$word" ;; esac
  done | sha256sum | cut -c1-16
}

# cache_get NAME KEY FUNCTION ARG...: prints the path of the folder NAME-KEY. When there is none,
# FUNCTION fills one (called with the ARGs, then the folder; its output goes to stderr). set -e does
# not hold in it.
cache_get() {
  local name=$1 path=$cache_dir/$1-$2 fill=$3 lock tmp
  shift 3
  mkdir -p "$cache_dir" || return 1
  exec {lock}>"$cache_dir/$name.lock"
  flock "$lock"
  if [ -d "$path" ]; then
    touch "$path"
  else
    find "$cache_dir" -maxdepth 1 -name "$name-*" -mtime +30 -exec rm -rf {} +
    tmp=$(mktemp -d "$cache_dir/tmp.$name.XXXXXX") && chmod 755 "$tmp"
    if ! "$fill" "$@" "$tmp" >&2; then
      rm -rf "$tmp"
      exec {lock}>&-
      return 1
    fi
    mv -T "$tmp" "$path"
  fi
  exec {lock}>&-
  printf '%s\n' "$path"
}

# as_root CMD...: CMD sees itself as root, so that the files it makes belong to root in an image.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else unshare --map-root-user -- "$@"; fi
}

# debian_sources [SUITE]: the machine's Debian sources as one-line entries; with SUITE that suite
# at the address that serves the release's own.
debian_sources() {
  local codename keyring=/usr/share/keyrings/debian-archive-keyring.gpg option=''
  codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
  [ -e "$keyring" ] && option="[signed-by=$keyring] "
  apt-get indextargets --format "\$(ORIGIN)|\$(LABEL)|deb $option\$(REPO_URI)|\$(RELEASE)|main" \
    'Created-By: Packages' 'Component: main' |
    awk -F'|' -v suite="${1-}" -v code="$codename" '$1 == "Debian" {
      if (suite == "") print $3, $4, $5
      else if ($4 == code && $2 == "Debian" && !done++) print $3, suite, $5 }' | sort -u
}

# debian_apt SUITE: sets the array apt to options under which apt knows that suite alone, in the cache.
debian_apt() {
  local dir=$cache_dir/apt-$1
  mkdir -p "$dir/lists/partial" "$dir/archives/partial" "$dir/empty"
  apt=(-o "Dir::Etc::sourcelist=$dir/sources.list" -o "Dir::Etc::sourceparts=$dir/empty"
    -o "Dir::State::lists=$dir/lists" -o "Dir::Cache=$dir" -o APT::Sandbox::User=root)
  if [ -s "$dir/sources.list" ] && [ -n "$(find "$dir/stamp" -mtime -7 2>/dev/null)" ]; then return 0; fi
  debian_sources "$1" >"$dir/sources.list"
  [ -s "$dir/sources.list" ] || { echo "apt knows no Debian sources on this machine; run apt-get update" >&2; return 1; }
  apt-get "${apt[@]}" -qq update >&2 && touch "$dir/stamp"
}

# debian_kernel FLAVOUR [bpo]: prints the folder of Debian's kernel linux-image-FLAVOUR (amd64,
# cloud-amd64): vmlinuz, vmlinux, version, lib/modules. bpo: the one of the backports.
debian_kernel() {
  local meta=linux-image-$1 package version
  local apt=(-o APT::Sandbox::User=root)
  [ "${2-}" != bpo ] || debian_apt "$(. /etc/os-release && echo "$VERSION_CODENAME")-backports" || return 1
  package=$(apt-cache "${apt[@]}" depends "$meta" 2>/dev/null | awk '$1 == "Depends:" {print $2; exit}')
  [ -n "$package" ] || { echo "apt does not know $meta; run apt-get update" >&2; return 1; }
  version=$(apt-cache "${apt[@]}" policy "$package" | awk '$1 == "Candidate:" {print $2}')
  cache_get "kernel-$1${2+-$2}" "$(cache_key 2 "$package=$version")" kernel_fill "$package=$version"
}

kernel_fill() { # PACKAGE=VERSION DIR
  local dir=$2
  step "fetching the kernel $1"
  (cd "$dir" && apt-get "${apt[@]}" -qq download "$1") && dpkg-deb -x "$dir"/*.deb "$dir/x" || return 1
  mkdir "$dir/lib" && mv "$dir"/x/boot/vmlinuz-* "$dir/vmlinuz" || return 1
  mv "$dir/x/lib/modules" "$dir/lib/modules" || return 1
  rm -rf "$dir/x" "$dir"/*.deb
  ls "$dir/lib/modules" >"$dir/version"
  # Hardware that no virtual host has.
  (cd "$dir/lib/modules/"*/kernel && rm -rf sound drivers/{gpu,media,iio,staging,hid,usb,scsi,ata,video,mtd,isdn,hwmon,comedi,nfc,mmc,firewire,bluetooth} \
    drivers/net/{ethernet,wireless,usb,can,wwan,dsa} net/{bluetooth,mac80211,wireless,can,nfc,sctp,dccp})
  find "$dir"/lib/modules/*/kernel/drivers/input -type f ! -name 'evdev.ko*' -delete
  depmod -b "$dir" "$(cat "$dir/version")" 2>/dev/null
  kernel_unpack "$dir/vmlinuz" >"$dir/vmlinux"
}

# kernel_unpack BZIMAGE: the ELF image inside (setup header: sectors 0x1f1, payload 0x248, 0x24c).
kernel_unpack() {
  local setup offset length
  le32() { od -An -tu4 -j"$2" -N4 "$1" | tr -d ' '; }
  setup=$(od -An -tu1 -j497 -N1 "$1")
  offset=$(( (setup + 1) * 512 + $(le32 "$1" 584) ))
  length=$(le32 "$1" 588)
  # The last four bytes of the payload are its unpacked size.
  case "$(od -An -tx1 -j"$offset" -N6 "$1" | tr -d ' ')" in
    fd377a585a00) set -- "$1" xz -dc --single-stream ;;
    28b52ffd*) set -- "$1" zstd -dcq ;;
    1f8b*) set -- "$1" gzip -dcq ;;
    02214c18*) set -- "$1" lz4 -dcq ;;
    *) echo "$1: a payload of an unknown kind" >&2; return 1 ;;
  esac
  tail -c +$((offset + 1)) "$1" | head -c "$((length - 4))" | "${@:2}"
}

# initramfs_make OUT KERNELDIR INIT MODULE...: an initramfs of busybox, INIT and the modules with
# what they need, loaded in their order by INIT from /modules/NNN-*.ko.
initramfs_make() {
  local out=$1 kernel=$2 init=$3 root version n=0 file name
  shift 3
  version=$(cat "$kernel/version")
  root=$(mktemp -d) || return 1
  [ -x /bin/busybox ] || { echo "busybox-static is not installed" >&2; return 1; }
  mkdir -p "$root"/{bin,dev,proc,sys,run,root,mnt,etc,tmp,modules}
  cp /bin/busybox "$root/bin/busybox"
  for name in sh ash ls cat mount login; do ln -s busybox "$root/bin/$name"; done
  install -m 755 "$init" "$root/init"
  for name in "$@"; do
    modprobe -d "$kernel" -S "$version" --show-depends "$name" 2>/dev/null
  done | awk '$1 == "insmod" && !seen[$2]++ {print $2}' >"$root/order"
  while read -r file; do
    n=$((n + 1))
    name=$(printf '%s/modules/%03d-%s' "$root" $n "${file##*/}")
    # Newer kernels have their modules compressed; busybox insmod takes them only as they are.
    case $file in
      *.xz) xz -dc "$file" >"${name%.xz}" ;;
      *) cp "$file" "$name" ;;
    esac || return 1
  done <"$root/order"
  rm "$root/order"
  (cd "$root" && find . -mindepth 1 | sort | cpio -o -H newc -R 0:0 --quiet) >"$out" || return 1
  rm -rf "$root"
}

# image_make OUT FOLDER [FREE_MIB]: an ext4 image of the folder, to be mounted read-only unless there
# is free space.
image_make() {
  local out=$1 root=$2 free=${3:-4} size files features='^has_journal,^metadata_csum,^resize_inode'
  [ $# -lt 3 ] || features=has_journal
  size=$(du -sk --apparent-size "$root" | cut -f1)
  files=$(find "$root" | wc -l)
  rm -f "$out"
  as_root mke2fs -q -t ext4 -O "$features" -m 0 -b 4096 -N $((files + 64 + free * 16)) -E root_owner=0:0 \
    -d "$root" "$out" "$((size * 11 / 10 + files * 4 + free * 1024))k" >/dev/null
}
