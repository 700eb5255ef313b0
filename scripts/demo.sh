#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# demo.sh: what pidigree does, on real containers, in under two minutes. It runs
# a Docker engine, a containerd and an agent of its own beside whatever the
# machine has, in one private directory and below one private cgroup, and leaves
# the machine as it found it (packages aside). Needs root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$PATH:/usr/sbin:/sbin

if [[ $EUID -ne 0 ]]; then
	echo "the demo starts engines and loads BPF programs: run it as root" >&2
	exit 1
fi
scripts/packages.sh demo
make --no-print-directory --silent build

name=pidigree-demo-$$
dir=$(mktemp -d /tmp/pidigree-demo.XXXXXX)
pids=() # what we started, in order
image=demo.local/busybox:1
# What engines make outside of the directories that they are given.
fixed=(/etc/docker/key.json /etc/docker /run/docker/plugins /run/docker /run/containerd/s /run/containerd/fifo /run/containerd)
made=()
for path in "${fixed[@]}"; do [[ -e $path ]] || made+=("$path"); done

# Docker's own client settings of whoever runs this are not for here.
unset DOCKER_HOST DOCKER_CONTEXT CONTAINERD_ADDRESS CONTAINERD_NAMESPACE
export DOCKER_CONFIG=$dir/client PIDIGREE_SOCKET=$dir/run/pidigree.sock
engine() { docker --host "unix://$dir/docker.sock" "$@"; }
tasks() { ctr --address "$dir/containerd.sock" --namespace demo "$@"; }

# clean ends what was started, newest first, and removes what that left.
clean() {
	local code=$? i pid mount cgroup path
	trap - EXIT INT TERM
	set +e # whatever is gone already, the rest still has to go
	if ((code != 0)); then
		echo "the demo failed; the agent's log ends:" >&2
		tail -n 20 "$dir/agent.log" >&2 || true
	fi
	engine ps -aq 2>/dev/null | xargs -r docker --host "unix://$dir/docker.sock" rm -f >/dev/null 2>&1 || true
	tasks tasks rm -f odd >/dev/null 2>&1 || true
	tasks containers rm odd >/dev/null 2>&1 || true
	for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
		pid=${pids[i]}
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	grep -o " $dir/[^ ]*" /proc/self/mounts | sort -r | while read -r mount; do umount -l "$mount" || true; done
	for cgroup in /sys/fs/cgroup/"$name" /sys/fs/cgroup/*/"$name"; do
		[[ ! -d $cgroup ]] || find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
	done
	for path in "${made[@]}"; do
		if [[ -d $path ]]; then rmdir "$path" 2>/dev/null; else rm -f "$path"; fi
	done
	rm -rf --one-file-system "$dir"
	exit "$code"
}
trap clean EXIT
trap 'exit 130' INT TERM

# until_ok tries a command until it works, for 30 s.
until_ok() {
	local deadline=$((SECONDS + 30))
	until "$@" >/dev/null 2>&1; do
		((SECONDS < deadline)) || { echo "still not: $*" >&2; return 1; }
		sleep 0.05
	done
}

say() { printf '\n\033[1m# %s\033[0m\n' "$*" | if [[ -t 1 ]]; then cat; else sed 's/\x1b\[[0-9]*m//g'; fi; }
# show prints a command of pidigree and runs it.
show() {
	printf '$ pidigree %s\n' "$*"
	bin/pidigree "$@"
}

say "a private Docker, a private containerd, and the agent"
cat >"$dir/containerd.toml" <<END
version = 2
root = "$dir/containerd"
state = "$dir/containerd-state"
oom_score = 0
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "$dir/containerd.sock"
[ttrpc]
  address = "$dir/containerd.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "$dir/opt"
END
echo '{}' >"$dir/daemon.json"
containerd --config "$dir/containerd.toml" >"$dir/containerd.log" 2>&1 &
pids+=($!)
dockerd --config-file "$dir/daemon.json" --host "unix://$dir/docker.sock" --data-root "$dir/docker" --exec-root "$dir/docker-exec" \
	--pidfile "$dir/docker.pid" --cgroup-parent "/$name" --exec-opt native.cgroupdriver=cgroupfs \
	--bridge=none --iptables=false --ip6tables=false --userland-proxy=false --shutdown-timeout 3 >"$dir/docker.log" 2>&1 &
pids+=($!)
bin/pidigree agent --run-dir "$dir/nothing" --docker-host "$dir/docker.sock" --docker-root "$dir/docker" --podman-roots "$dir/nothing" --podman-users off --cri-endpoints "$dir/nothing/cri.sock" \
	--containerd-address "$dir/docker-exec/containerd/containerd.sock,$dir/containerd.sock" \
	--oci-roots "$dir/docker-exec/runtime-runc/moby,$dir/runc/*" >"$dir/agent.log" 2>&1 &
pids+=($!)
until_ok engine version
until_ok tasks version
until_ok bin/pidigree status

# The image is a static busybox and nothing else: no registry is asked.
mkdir -p "$dir/image/bin"
cp "$(command -v busybox)" "$dir/image/bin/busybox"
for applet in sh sleep usleep; do ln -s busybox "$dir/image/bin/$applet"; done
tar -C "$dir/image" -c . | engine import --change 'LABEL org.opencontainers.image.title=demo' - "$image" >/dev/null
engine save "$image" | tasks images import - >/dev/null
show status

say "a container of Docker's: who is its PID?"
engine run --detach --network none --name web --label team=shop "$image" /bin/sleep 3600 >/dev/null
web=$(engine inspect --format '{{.State.Pid}}' web)
show who "$web"

say "a process that docker exec put into it"
engine exec --detach web /bin/sleep 1111
inside=
found() { inside=$(grep -lzx 1111 /proc/[0-9]*/cmdline 2>/dev/null | while read -r f; do [[ $(<"${f%cmdline}comm") != sleep ]] || basename "${f%/cmdline}"; done) && [[ -n $inside ]]; }
until_ok found
show who "$inside"

say "a container of ctr's, in a cgroup whose path says nothing"
tasks run --detach --null-io --runc-root "$dir/runc" --cgroup "/$name/at/no/name" --label team=odd "$image" odd /bin/sleep 3600
show who "$(tasks tasks ls | awk '$1 == "odd" {print $2}')"

say "one that lived 50 ms and was removed: still answerable, by name and by the PID that it had"
code=0
engine run --rm --network none --name brief --label team=batch "$image" /bin/sh -c 'usleep 50000; exit 3' || code=$?
((code == 3)) || { echo "the short container ended with $code" >&2; exit 1; }
show who brief
show who "$(bin/pidigree who brief -o 'go-template={{(index .containers 0).pid}}')"

say "all of them, the dead one too"
show list --all

say "how pidigree knows, and when it knew"
show explain "$web"

say "done in $SECONDS s; cleaning up"
