#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# vm-kernel.sh KERNEL: fetches Debian's packaged kernel for the virtual machines
# of vm.sh (5.10, 6.1, 6.12, or newest: what sid has) and prints the directory
# that it is in: vmlinuz, and its release in the file `release`.
#
# The package comes from the Debian archives that this machine's apt is
# configured with, only from another suite of them, and is verified with
# Debian's archive keys. The machine's own apt state is not touched: lists and
# packages are below the cache (PIDIGREE_CACHE; /var/cache/pidigree for root,
# ~/.cache/pidigree else). Kernels get fixes, so one is looked for anew after a
# week; without a network the one that is there serves on.
set -euo pipefail

kernel=${1:-}
case $kernel in
5.10) suite=bullseye ;;
6.1) suite=bookworm ;;
6.12) suite=trixie ;;
newest) suite=sid ;;
*)
	echo "usage: vm-kernel.sh 5.10|6.1|6.12|newest" >&2
	exit 2
	;;
esac
if [[ $(uname -m) != x86_64 ]]; then
	echo "vm-kernel.sh: the virtual machines are amd64 and this machine is $(uname -m); run the tests on an amd64 one" >&2
	exit 1
fi
if [[ $EUID -eq 0 ]]; then cache=/var/cache/pidigree; else cache=${XDG_CACHE_HOME:-$HOME/.cache}/pidigree; fi
dir=${PIDIGREE_CACHE:-$cache}/vm/$kernel
apt=$dir/apt
me=vm-kernel.sh
# shellcheck source=scripts/apt-suite.sh
. "$(dirname "${BASH_SOURCE[0]}")/apt-suite.sh"
week=604800

mkdir -p "$dir"
# One fetcher at a time; the one that waited finds it fetched.
exec 9>"$dir/.lock"
flock 9

fresh() {
	[[ -e $dir/vmlinuz && -e $dir/checked ]] && (($(date +%s) - $(stat -c %Y "$dir/checked") < week))
}

# packages prints those that hold the newest cloud kernel: it is in linux-image,
# or from 7.x on in the linux-binary that this depends on.
packages() {
	private apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances linux-image-cloud-amd64 |
		grep -xE 'linux-(image|binary)-[0-9].*-cloud-amd64' | sort -u
}

fetch() {
	open_suite || return 1
	local list deb image
	list=$(packages 2>>"$apt/log") || {
		tail -n 20 "$apt/log" >&2
		echo "vm-kernel.sh: no archive that apt is configured with has linux-image-cloud-amd64 of $suite or $suite-security;" >&2
		echo "name a mirror that does in /etc/apt/sources.list (and install debian-archive-keyring, for $keys)" >&2
		return 1
	}
	# shellcheck disable=SC2086 # a list of words is meant
	(cd "$apt/debs" && private apt-get download $list) >>"$apt/log" 2>&1 || {
		tail -n 20 "$apt/log" >&2
		echo "vm-kernel.sh: could not download" $list >&2
		return 1
	}
	for deb in "$apt"/debs/*.deb; do dpkg-deb --extract "$deb" "$apt/x" || return 1; done
	image=$(find "$apt/x" -type f -name 'vmlinuz*' | head -n 1)
	if [[ -z $image ]]; then
		echo "vm-kernel.sh: no vmlinuz in" $list >&2
		return 1
	fi
	# shellcheck disable=SC2086
	printf '%s\n' $list | sed -n 's/^linux-image-//p' >"$dir/release"
	mv "$image" "$dir/vmlinuz" || return 1
	touch "$dir/checked"
	rm -rf "$apt"
}

if ! fresh && ! fetch; then
	[[ -e $dir/vmlinuz ]] || exit 1
	echo "vm-kernel.sh: going on with $(<"$dir/release"), fetched $(date -r "$dir/vmlinuz" +%F)" >&2
fi
echo "$dir"
