#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# sid-containerd.sh: makes a root directory with the containerd and the runc that
# Debian's sid has, and nothing that they do not need, for the tests that run a
# newer containerd than the machine's in a chroot, and prints its path.
#
# It is below the cache (PIDIGREE_CACHE, default /var/cache/pidigree): 40 MB to
# fetch, less than half a minute. One is looked for anew after a week; without a
# network the one that is there serves on.
set -euo pipefail

suite=sid
dir=${PIDIGREE_CACHE:-/var/cache/pidigree}/sid-containerd
apt=$dir/apt
me=sid-containerd.sh
week=604800
# shellcheck source=scripts/apt-suite.sh
. "$(dirname "${BASH_SOURCE[0]}")/apt-suite.sh"

mkdir -p "$dir"
# One maker at a time; the one that waited finds it made.
exec 9>"$dir/.lock"
flock 9

fresh() {
	[[ -e $dir/checked ]] && (($(date +%s) - $(stat -c %Y "$dir/checked") < week))
}

fetch() {
	open_suite || return 1
	private apt-get install --yes --no-install-recommends --download-only containerd runc >>"$apt/log" 2>&1 || {
		tail -n 20 "$apt/log" >&2
		echo "sid-containerd.sh: no archive that apt is configured with gave containerd of sid" >&2
		return 1
	}
	local deb part=$apt/x
	mkdir -p "$part"/usr/{bin,sbin,lib,lib64} "$part"/{proc,sys,dev,run,tmp,etc,var,root} || return 1
	local top
	for top in bin sbin lib lib64; do ln -s "usr/$top" "$part/$top" || return 1; done
	for deb in "$apt"/cache/archives/*.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar --extract --keep-directory-symlink --directory "$part" || return 1
	done
	touch "$part"/etc/{hosts,resolv.conf} || return 1 # which it gives to pods
	rm -rf --one-file-system "$dir/root"
	mv "$part" "$dir/root" || return 1
	touch "$dir/checked"
	rm -rf "$apt"
}

if ! fresh && ! fetch; then
	[[ -e $dir/checked ]] || exit 1
	echo "sid-containerd.sh: going on with what was fetched on $(date -r "$dir/checked" +%F)" >&2
fi
echo "$dir/root"
