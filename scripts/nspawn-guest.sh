#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# nspawn-guest.sh: makes the root file system of the systemd guest that the
# end-to-end tests boot (pure cgroup v2, systemd as PID 1, Docker with the
# systemd driver) and prints its path.
#
# It is made once, with debootstrap, from the mirror that this machine's apt is
# configured with, into PIDIGREE_CACHE (default /var/cache/pidigree). The name
# carries a hash of what goes in, so a change of the list makes a new one.
set -euo pipefail

suite=trixie
packages=ca-certificates,iproute2,iptables,procps,systemd,systemd-sysv,systemd-container,dbus,kmod,docker.io,containerd,runc,podman,busybox-static
cache=${PIDIGREE_CACHE:-/var/cache/pidigree}

# mirror prints the first Debian archive that apt is configured with: the guest
# must come from wherever this machine is allowed to fetch from.
mirror() {
	apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(LABEL)' 'Created-By: Packages' |
		awk '$2 == "Debian" && $3 == "Debian" {print $1; exit}'
}

stamp=$(printf '%s %s\n' "$suite" "$packages" | sha256sum | cut -c1-12)
root=$cache/$suite-$stamp
if [ -e "$root/.complete" ]; then
	echo "$root"
	exit 0
fi

from=$(mirror)
if [ -z "$from" ]; then
	echo "nspawn-guest.sh: apt is configured with no Debian archive; cannot make the guest" >&2
	exit 1
fi
mkdir -p "$cache"
# One maker at a time; the one that waited finds it made.
exec 9>"$cache/.lock"
flock 9
if [ ! -e "$root/.complete" ]; then
	part=$root.part
	rm -rf --one-file-system "$part"
	bootstrap() { debootstrap "$@" --variant=minbase --include="$packages" "$suite" "$part" "$from" >"$cache/debootstrap.log" 2>&1; }
	# One package of two hundred that does not come is asked for again; what came stays.
	bootstrap --download-only || bootstrap --download-only || bootstrap --download-only || true
	bootstrap || {
		tail -n 20 "$cache/debootstrap.log" >&2
		echo "nspawn-guest.sh: debootstrap of $suite did not finish; the log is $cache/debootstrap.log" >&2
		exit 1
	}
	# Docker and containerd are started by the test, with its own flags.
	for unit in docker.service docker.socket containerd.service systemd-networkd-wait-online.service \
		apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer; do
		ln -sf /dev/null "$part/etc/systemd/system/$unit"
	done
	rm -rf "$part"/var/cache/apt/archives/*.deb
	: >"$part/.complete"
	rm -rf --one-file-system "$root"
	mv "$part" "$root"
fi
echo "$root"
