#!/usr/bin/env bash
# Installs the Debian package into a fresh Debian 12 and uses it there: the program, its manual, its C++ libraries.
# Argument: the package; without one it is made in build/deb. Needs root, mmdebstrap or debootstrap, and a mirror
# ($MIRROR), or a root file system made before ($BASE, a tar file). lintian looks at the package first where it is
# installed. About 1 GB in $TMPDIR for the time of the check.
set -euo pipefail
cd "$(dirname "$0")/.."
mirror=${MIRROR:-http://deb.debian.org/debian}

if [ "$(id -u)" -ne 0 ]; then
  echo "Only root can make a root file system: use sudo $0." >&2
  exit 1
fi

package=${1:-}
if [ -z "$package" ]; then
  # Debian has no CUDA, so the package has none.
  cmake --preset release -B build/deb -D QUANT_CUDA=OFF -D QUANT_BUILD_TESTS=OFF -D QUANT_BUILD_EXAMPLES=OFF
  cmake --build build/deb
  (cd build/deb && cpack -G DEB)
  package=$(find build/deb -maxdepth 1 -name 'quant_*.deb' -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2)
fi
echo "=== package: $package"
dpkg-deb --field "$package" Package Version Architecture Installed-Size Depends Suggests

if command -v lintian >/dev/null; then
  echo "=== lintian"
  # A package that is made for oneself closes no bug of a distribution, and its maintainer has no address there.
  lintian --fail-on error,warning --suppress-tags initial-upload-closes-no-bugs,bogus-mail-host,bogus-mail-host-in-debian-changelog "$package"
fi

work=$(mktemp -d)
chmod 755 "$work"  # apt leaves root for downloads
root=$work/root
mkdir "$root"
cleanup() {
  umount "$root/proc" 2>/dev/null || true
  rm -rf --one-file-system "$work"
}
trap cleanup EXIT

echo "=== fresh Debian 12"
if [ -n "${BASE:-}" ]; then
  tar -C "$root" -xf "$BASE"
elif command -v mmdebstrap >/dev/null; then
  mmdebstrap --quiet --variant=minbase bookworm "$root" "$mirror"
else
  debootstrap --variant=minbase bookworm "$root" "$mirror" >/dev/null
fi
mount -t proc proc "$root/proc"
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp "$package" "$root/tmp/quant.deb"
mkdir "$root/tmp/consumer"
cp tests/install/consumer/* "$root/tmp/consumer/"

inside() { chroot "$root" env LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
model=/usr/share/quant/examples/tiny-llama-novels

echo "=== the program alone"
inside apt-get update -qq
inside apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 /tmp/quant.deb >/dev/null
inside quant --version
inside quant recipes | head -n 4
inside quant run w4a16 --model "$model" --output /tmp/w4
inside quant verify /tmp/w4
inside quant convert /tmp/w4 /tmp/w4.gguf --to gguf --type Q8_0
inside quant inspect /tmp/w4.gguf >/dev/null

echo "=== the manual"
inside apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 man-db >/dev/null
inside man --warnings -E UTF-8 -P cat quant-run | head -n 4

echo "=== the libraries, from a program of one's own"
suggested=$(dpkg-deb --field "$package" Suggests | tr -d ,)
# shellcheck disable=SC2086  # a list of packages
inside apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 $suggested make >/dev/null
inside cmake -S /tmp/consumer -B /tmp/consumer/build -D CMAKE_BUILD_TYPE=Release >/dev/null
inside cmake --build /tmp/consumer/build
inside /tmp/consumer/build/consumer "$model" /usr/share/quant/recipes/w4a16.yaml

inside apt-get purge -y -qq -o Dpkg::Use-Pty=0 quant >/dev/null
if inside sh -c 'ls -d /usr/share/quant /usr/include/quant /usr/bin/quant' 2>/dev/null; then
  echo "The package left files behind." >&2
  exit 1
fi
echo "=== good: $package works on a fresh Debian 12"
