#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# packages.sh FOR: makes sure that the programs needed FOR (demo, lint,
# generate, test, bench, vm) are there. On Debian and its like, as root, it installs
# the ones that are missing; anywhere else it names them and fails.
#
# It looks for programs, not for packages, so that another distribution's
# packages, or a hand-made install, are as good.
set -euo pipefail

# one line each: what for, the Debian package, the test that it is there.
needs() {
	cat <<-'END'
		demo,test,bench       docker.io          command -v dockerd && { command -v docker || apt-cache show docker-cli; }
		demo,test,bench       docker-cli         command -v docker || ! apt-cache show docker-cli
		demo,test,bench       containerd         command -v containerd && command -v ctr && command -v containerd-shim-runc-v2
		demo,test,bench,vm    runc               command -v runc
		demo,test,bench,vm    busybox-static     command -v busybox && ! ldd "$(command -v busybox)" 2>/dev/null | grep -q '=>'
		demo,test,bench       iproute2           command -v ip
		test                  containernetworking-plugins  test -x /usr/lib/cni/bridge || test -x /opt/cni/bin/bridge
		test                  crun               command -v crun
		test                  podman             command -v podman
		test                  gcc                command -v gcc
		test                  libc6-dev          test -e /usr/include/stdlib.h
		test,bench            bpftrace           command -v bpftrace
		test                  systemd-container  command -v systemd-nspawn
		test                  lxc                command -v lxc-start
		test                  lxd                command -v lxd
		test                  debootstrap        command -v debootstrap
		test                  util-linux         command -v nsenter
		test,lint,generate    git                command -v git
		test,lint,generate    clang-14           command -v clang-14
		test,lint,generate    llvm-14            command -v llvm-strip-14
		test,lint,generate    libbpf-dev         test -e /usr/include/bpf/bpf_helpers.h
		test,vm               qemu-system-x86    [[ $(uname -m) != x86_64 ]] || command -v qemu-system-x86_64
		test,lint             clang-format-14    command -v clang-format-14
	END
}

missing() {
	local uses package check
	needs | while read -r uses package check; do
		[[ ",$uses," == *",$1,"* ]] || continue
		(eval "$check") >/dev/null 2>&1 || echo "$package"
	done
}

# stop_started ends daemons that the installation itself has started on a
# machine without systemd: there, nobody asked for them. With systemd it is the
# distribution's way, and the machine's owner sees to it.
stop_started() {
	[[ ! -d /run/systemd/system ]] || return 0
	local service
	for service in docker containerd; do
		[[ " $1 " == *" $service "* || ! -x /etc/init.d/$service ]] && continue
		"/etc/init.d/$service" stop >/dev/null 2>&1 || true
	done
}

running() {
	! pidof dockerd >/dev/null 2>&1 || echo -n "docker "
	! pidof containerd >/dev/null 2>&1 || echo -n "containerd"
}

install() {
	local log
	log=$(mktemp)
	# shellcheck disable=SC2086 # a list of words is meant
	if ! { apt-get update -q && apt-get install -y -q --no-install-recommends $1; } >"$log" 2>&1 </dev/null; then
		tail -n 20 "$log" >&2
		rm -f "$log"
		echo "apt-get could not install $1" >&2
		exit 1
	fi
	rm -f "$log"
}

if [[ $# -ne 1 || " demo test lint generate bench vm " != *" $1 "* ]]; then
	echo "usage: packages.sh demo|test|lint|generate|bench|vm" >&2
	exit 2
fi
export PATH=$PATH:/usr/sbin:/sbin DEBIAN_FRONTEND=noninteractive
before=$(running)
# Twice at most: what docker.io contains shows only once apt has its lists.
for _ in 1 2; do
	list=$(missing "$1" | tr '\n' ' ')
	[[ -n $list ]] || exit 0
	if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
		echo "missing for '$1', by their Debian names: $list" >&2
		echo "install them (on Debian: apt-get install --no-install-recommends $list) and try again" >&2
		exit 1
	fi
	echo "installing $list"
	install "$list"
	stop_started "$before"
done
list=$(missing "$1" | tr '\n' ' ')
[[ -z $list ]] || { echo "installed, and still not there: $list" >&2; exit 1; }
