#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# vm-init.sh: PID 1 of the virtual machines that vm.sh boots: a busybox, runc and
# the test binaries of /test, all out of an initramfs, and one serial console.
# The kernel's command line says how: vm.cgroups (v2, hybrid or v1), vm.token (a
# word that vm.sh waits for and that no test can know) and vm.shell.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
export PIDIGREE_PROGRAMS=/usr/bin

# runc's pivot_root refuses the kernel's first file system as the root, because
# that is mounted on nothing. A bind mount of it is mounted on something.
if [ "$1" != moved ]; then
	mkdir -p /self
	mount --bind / /self
	cd /self
	mount --move . /
	exec chroot . /init moved
fi

setting() { sed -n "s/.*\bvm\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
seconds() { cut -d' ' -f1 /proc/uptime; }

# v1 mounts the hierarchies of cgroup v1 as distributions did: one for each
# controller, and systemd's named one.
v1() {
	local controller
	for controller in cpuset cpu cpuacct blkio memory devices freezer net_cls perf_event net_prio hugetlb pids rdma misc; do
		grep -q "^$controller	" /proc/cgroups || continue
		mkdir "/sys/fs/cgroup/$controller"
		mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller" 2>/dev/null || rmdir "/sys/fs/cgroup/$controller"
	done
	mkdir /sys/fs/cgroup/systemd
	mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
}

cgroups() {
	local controller
	case $1 in
	v2)
		mount -t cgroup2 cgroup2 /sys/fs/cgroup
		for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do # as systemd does for what it starts
			echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
		done
		;;
	v1 | hybrid)
		mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
		v1
		[ "$1" = v1 ] && return
		mkdir /sys/fs/cgroup/unified
		mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
		;;
	esac
}

# test_package runs the tests of one package, in its own directory as go test does.
test_package() {
	local begin rc
	echo "=== vm: test $1"
	begin=$(seconds)
	cd "/test/$1"
	set --
	while read -r argument; do set -- "$@" "$argument"; done </test/args
	./test "$@" </dev/null
	rc=$?
	[ $rc = 0 ] || failed=1
	echo
	echo "=== vm: exit $rc after $begin to $(seconds)"
	cd /
}

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
chmod 1777 /tmp
chown -R 0:0 /bin /etc /lib* /root /test /usr
cgroups "$(setting cgroups)"
ip link set lo up
hostname vm
echo 4 >/proc/sys/kernel/printk # no chatter between the tests' lines

echo
echo "=== vm: up $(uname -r), cgroups $(setting cgroups), after $(seconds)"
failed=0
if [ -n "$(setting shell)" ]; then
	echo "tests are in /test; leave with 'exit'"
	cd /test
	setsid cttyhack sh
else
	while read -r package; do test_package "$package"; done </test/packages
fi
if dmesg | grep -E '(BUG|WARNING): |Oops' >/tmp/kernel; then
	echo "=== vm: the kernel complained"
	sed 's/^/kernel: /' /tmp/kernel
fi
echo
echo "=== vm: down $(setting token) $failed after $(seconds)"
poweroff -f
