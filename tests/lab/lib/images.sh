# What lab hosts boot from: a tiny initramfs that mounts the root, and layers of read-only disk
# images (our build, extra packages, the kernel's modules, the base). Sourced by lab.
# shellcheck shell=bash disable=SC2034,SC2054,SC2154

base_packages=(busybox-static bash dash kmod iproute2 ibverbs-utils ibverbs-providers rdmacm-utils libc-bin
  ethtool procps)

# packages_fill PACKAGES DIR: the packages with all they need, unpacked but not configured.
packages_fill() {
  local dir=$2 packages=$1
  step "fetching Debian packages: $packages"
  debian_sources | mmdebstrap --quiet --variant=extract --include="${packages// /,}" \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' "$(release_name)" "$dir/root.tar" - || return 1
  mkdir "$dir/root"
  as_root tar -C "$dir/root" --exclude='./dev/*' --exclude='./usr/share/doc' --exclude='./usr/share/man' \
    --exclude='./usr/share/locale' --exclude='./var/*' --no-same-owner -xf "$dir/root.tar" || return 1
  rm "$dir/root.tar"
}

release_name() { (. /etc/os-release && echo "$VERSION_CODENAME"); }

# package_versions NAME...: what the cache's key says of packages.
package_versions() { apt-cache policy "$@" | awk '/^[^ ]/ {n=$1} $1 == "Candidate:" {print n $2}'; }

base_fill() { # DIR
  local dir=$1 name
  packages_fill "${base_packages[*]}" "$dir" || return 1
  local root=$dir/root
  mkdir -p "$root"/{dev,proc,sys,run,tmp,root,mnt,etc,var/log,usr/lib/pangaea-lab}
  "$root/bin/busybox" --list | while read -r name; do
    [ -e "$root/usr/bin/$name" ] || [ -e "$root/usr/sbin/$name" ] || ln -s busybox "$root/usr/bin/$name"
  done
  # Not busybox: its shell would prefer its own tc and ip.
  ln -sf dash "$root/usr/bin/sh"
  install -m 755 "$lab_lib/init-minimal.sh" "$root/usr/sbin/init"
  printf 'root::0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\npangaea:x:999:999::/var/lib/pangaea:/bin/false\n' >"$root/etc/passwd"
  printf 'root:x:0:\ntty:x:5:\nkvm:x:105:\npangaea:x:999:\nnogroup:x:65534:\n' >"$root/etc/group"
  printf 'passwd: files\ngroup: files\nhosts: files\n' >"$root/etc/nsswitch.conf"
  printf 'options kvm_amd nested=0 npt=%s\n' "${lab_npt:-0}" >"$root/usr/lib/modprobe.d-kvm"
  mkdir -p "$root/etc/modprobe.d"
  mv "$root/usr/lib/modprobe.d-kvm" "$root/etc/modprobe.d/kvm.conf"
  ldconfig -r "$root"
  image_make "$dir/image" "$root" || return 1
  rm -rf "$root"
}

modules_fill() { # KERNELDIR DIR
  mkdir -p "$2/root/usr/lib/modules"
  cp -r "$1"/lib/modules/* "$2/root/usr/lib/modules/"
  image_make "$2/image" "$2/root" || return 1
  rm -rf "$2/root"
}

boot_fill() { # KERNELDIR DIR
  initramfs_make "$2/initrd" "$1" "$lab_lib/init-disk.sh" virtio_pci virtio_blk ext4 overlay
}

extra_fill() { # PACKAGES DIR
  packages_fill "$1" "$2" || return 1
  image_make "$2/image" "$2/root" || return 1
  rm -rf "$2/root"
}

# built_programs: the programs and shared libraries of our build, but for unit tests and fuzzers.
built_programs() {
  find "$build" \( -path '*/CMakeFiles' -o -name 'test_*' -o -name 'fuzz_*' -o -name '_CPack*' \) -prune \
    -o -type f \( -perm -u+x -o -name '*.so*' -o -path '*/tests/guests/*' \) -print |
    while read -r f; do [ "$(head -c 4 "$f" | tr -d '\0')" = $'\x7fELF' ] && echo "$f"; done
}

# copy_libraries ROOT PROGRAM...: what the programs link to.
copy_libraries() {
  local root=$1 lib
  shift
  { ldd "$@" 2>/dev/null || true; } | awk '$2 == "=>" && $3 ~ /^\// {print $3} $1 ~ /^\// && $1 !~ /:$/ {print $1}' | sort -u |
    while read -r lib; do
      case "$lib" in "$build"/*) continue ;; /lib*) set -- "/usr$lib" ;; *) set -- "$lib" ;; esac
      mkdir -p "$root${1%/*}"
      [ -e "$root$1" ] || cp -L "$lib" "$root$1"
    done
}

build_fill() { # DIR
  local root=$1/root file name programs=()
  mkdir -p "$root"/usr/{lib/pangaea-lab,local/bin}
  DESTDIR=$root cmake --install "$build" --prefix /usr >/dev/null || return 1
  while read -r file; do
    programs+=("$file")
    name=${file#"$build"/}
    mkdir -p "$root/build/${name%/*}"
    strip --strip-debug -o "$root/build/$name" "$file" 2>/dev/null || cp "$file" "$root/build/$name"
    case "$name" in
      *.so*|tests/*) ;;
      *) [ -e "$root/usr/bin/${name##*/}" ] || ln -s "/build/$name" "$root/usr/local/bin/${name##*/}" ;;
    esac
  done < <(built_programs)
  cp "$build/tests/lab/lab-agent" "$root/usr/lib/pangaea-lab/agent"
  copy_libraries "$root" "${programs[@]}"
  image_make "$1/image" "$root" || return 1
  rm -rf "$root"
}

build_key() { # of what is in the build layer: names, sizes and times of the programs
  local f
  cache_key "@$lab_lib/images.sh" "$build" "$(built_programs | sort | while read -r f; do stat -c '%n %s %Y' "$f"; done)" \
    "$(find "$build" -name cmake_install.cmake -newer "$build/build.ninja" | wc -l)"
}

guest_fill() { # DIR
  local root=$1/root
  "$top/deploy/guest-image" "$root/guest" && "$top/deploy/guest-image" "$root/guest/cloud" --flavour cloud-amd64 || return 1
  image_make "$1/image" "$root" || return 1
  rm -rf "$root"
}

# minimal_layers KERNELDIR PACKAGES: prints the images of a minimal host, the topmost first.
minimal_layers() {
  local dir
  dir=$(cache_get lab-build "$(build_key)" build_fill) || return 1
  echo "$dir/image"
  if [ -n "$2" ]; then
    # shellcheck disable=SC2086
    dir=$(cache_get lab-extra "$(cache_key 1 "$(package_versions $2)")" extra_fill "$2") || return 1
    echo "$dir/image"
  fi
  dir=$(cache_get lab-guest "$(cache_key 1 "@$top/deploy/guest/init" "@$top/deploy/guest-image" "$(package_versions linux-image-amd64 linux-image-cloud-amd64)")" guest_fill) || return 1
  echo "$dir/image"
  dir=$(cache_get lab-modules "$(cache_key 1 "$1")" modules_fill "$1") || return 1
  echo "$dir/image"
  dir=$(cache_get lab-base "$(cache_key "@$lab_lib/images.sh" "@$lab_lib/init-minimal.sh" "npt=${lab_npt:-0}" \
    "$(package_versions "${base_packages[@]}")")" base_fill) || return 1
  echo "$dir/image"
}

# boot_initrd KERNELDIR
boot_initrd() {
  local dir
  dir=$(cache_get lab-boot "$(cache_key 2 "@$lab_lib/init-disk.sh" "$1")" boot_fill "$1") || return 1
  echo "$dir/initrd"
}
