#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# vm.sh: runs Go tests on other kernels, in qemu: static test binaries in an
# initramfs with busybox and runc, on Debian's packaged kernels.
#
#   vm.sh test [CELL...]       the packages of PKGS (default: below) in each cell (default: 5.10 and newest)
#   vm.sh run CELL PKG...      these packages in one cell
#   vm.sh shell CELL [PKG...]  a shell in it, with the tests of the packages in /test; leave with `exit`
#
# A cell is a kernel of vm-kernel.sh (5.10, 6.1, 6.12, newest) and, after a
# slash, how cgroups are mounted: v2 (the default), hybrid or v1. RUN is a
# pattern of tests as for `go test -run`, SKIP one as for `go test -skip`,
# VM_TIMEOUT how many seconds a cell may take, V=1 shows all that a machine says.
#
# It needs neither root nor KVM: without KVM qemu emulates, some five times
# slower. Test binaries are static, and therefore without the race detector;
# that runs on the host. In the machine tests see PIDIGREE_PROGRAMS: where the
# built programs are, as there is no Go.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$PATH:/usr/sbin:/sbin

# What meets the kernel, and needs no engine but runc.
default_packages=(pkg/kernel pkg/cgroup pkg/resolve pkg/server pkg/client pkg/collectors/oci tests/e2e/bare)
# Of these, what needs an engine or crun, and what measures milliseconds of a
# machine that is not emulated.
default_skip='^(TestRealContainerds|TestRealCrun|TestRealDockers|TestAHintComesWithinAFewMilliseconds)'
default_cells=(5.10 newest)

usage() {
	sed -n 's/^# \{0,1\}//; /^vm\.sh:/,/^VM_TIMEOUT/p' "scripts/vm.sh" >&2
	exit 2
}

# The machine. Emulated, more than one CPU oopses in static-key patching before
# qemu 8, and cmpxchg16b is what the kernel's allocator then trips over.
machine() {
	local accel='-accel tcg,thread=multi -cpu max,-cx16' cpus=1 version
	version=$(qemu-system-x86_64 --version | sed -n 's/.*version \([0-9]*\).*/\1/p')
	if kvm_works; then
		accel='-accel kvm -cpu host' cpus=2
	elif ((version >= 8)); then
		cpus=2
	fi
	echo "$accel -smp $cpus"
}

# kvm_works: /dev/kvm may be there and refuse, or spin for ever at the first
# instruction of a kernel. One that prints its first line in time shows it.
kvm_works() {
	local place
	[[ -w /dev/kvm ]] || return 1
	place=$(scripts/vm-kernel.sh "${cells[0]%%/*}") || return 1
	timeout -s KILL 5 qemu-system-x86_64 -accel kvm -cpu host -m 256 -nodefaults -no-user-config -display none -no-reboot -nic none -serial stdio \
		-kernel "$place/vmlinuz" -append 'console=ttyS0 panic=-1' </dev/null 2>/dev/null | grep -q 'Linux version'
}

# library_paths prints the shared libraries of a program, with its loader.
library_paths() { ldd "$1" 2>/dev/null | grep -o '/[^ ]*' || true; }

# build PKG...: what every cell boots from, in $dir/initrd.
build() {
	local root=$dir/root package file applet
	mkdir -p "$root"/{bin,sbin,dev,etc,proc,sys,run,tmp,root,test,usr/bin,usr/sbin}
	cp scripts/vm-init.sh "$root/init"
	chmod 755 "$root/init"
	cp "$(command -v busybox)" "$root/bin/busybox"
	for applet in $(busybox --list); do [[ $applet == busybox ]] || ln -s busybox "$root/bin/$applet"; done
	cp "$(command -v runc)" "$root/usr/bin/runc"
	for file in $(library_paths "$root/usr/bin/runc"); do
		mkdir -p "$root/${file%/*}"
		cp -L "$file" "$root/$file"
	done
	echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
	echo 'root:x:0:' >"$root/etc/group"
	export CGO_ENABLED=0 GOFLAGS="${GOFLAGS:-} -trimpath"
	for file in pidigree=cmd/agent asker=tests/e2e/asker work=tests/e2e/oracle/work servant=tests/e2e/bare/servant villain=tests/e2e/attack/villain; do # as harness.Build names them
		go build -ldflags='-s -w' -o "$root/usr/bin/${file%%=*}" "./${file#*=}"
	done
	for package in "$@"; do
		package=${package#./}
		mkdir -p "$root/test/$package"
		go test -vet=off -ldflags='-s -w' -c -o "$root/test/$package/test" "./$package"
		if [[ ! -e $root/test/$package/test ]]; then
			echo "vm.sh: ./$package has no tests" >&2
			exit 2
		fi
		[[ ! -d $package/testdata ]] || cp -r "$package/testdata" "$root/test/$package/"
		echo "$package" >>"$root/test/packages"
	done
	{
		printf '%s\n' -test.v -test.timeout=8m "-test.skip=${SKIP:-$default_skip}"
		[[ -z ${RUN:-} ]] || echo "-test.run=$RUN"
	} >"$root/test/args"
	(cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null) >"$dir/initrd"
	rm -rf "$root"
}

# qemu CELL ARG...: boots it, with its console on standard input and output.
qemu() {
	local kernel=${1%%/*} cgroups=v2 place
	[[ $1 != */* ]] || cgroups=${1#*/}
	place=$(scripts/vm-kernel.sh "$kernel")
	shift
	# shellcheck disable=SC2086 # words are meant
	exec qemu-system-x86_64 $hardware -machine q35 -m 1536 -nodefaults -no-user-config -display none -no-reboot -nic none \
		-kernel "$place/vmlinuz" -initrd "$dir/initrd" -serial stdio \
		-append "console=ttyS0 quiet panic=-1 vm.cgroups=$cgroups vm.token=$token $*"
}

# cell CELL: boots it and gives what its tests gave; its console goes to a log.
cell() {
	local log=$dir/${1//\//-}.log begin=$SECONDS code=0
	(qemu "$1" </dev/null) >"$log" 2>&1 &
	local pid=$!
	trap 'kill -KILL "$pid" 2>/dev/null; exit 143' TERM # from clean; we are a job of our own
	watch "$pid" "$((SECONDS + ${VM_TIMEOUT:-900}))" || code=$?
	tr -d '\r' <"$log" >"$log.text"
	report "$1" "$log.text" "$code" $((SECONDS - begin))
}

# watch PID DEADLINE: waits for a machine, and ends one that takes too long.
watch() {
	local code=0
	while kill -0 "$1" 2>/dev/null && ((SECONDS < $2)); do sleep 0.2; done
	if kill -0 "$1" 2>/dev/null; then
		kill -KILL "$1"
		code=124
	fi
	wait "$1" 2>/dev/null || code=$((code ? code : $?))
	return "$code"
}

# report CELL LOG CODE SECONDS: one line for each package and each skip, all of a
# package that failed; fails unless the machine came to its end and said that all
# was well.
report() {
	local verdict=ok
	echo "--- vm $1"
	[[ -z ${V:-} ]] || cat "$2"
	awk -v all="${RUN:-}" -f <(summary) "$2" || verdict=FAILED
	if ! grep -qE "^=== vm: down $token [01] " "$2"; then
		verdict=FAILED
		if (($3 == 124)); then echo "took longer than ${VM_TIMEOUT:-900} s (VM_TIMEOUT) and was ended"; fi
		echo "the machine did not come to its end (qemu: $3); it said at last:"
		grep -vE '^=== (RUN|PAUSE|CONT|NAME)|^ *--- PASS' "$2" | tail -n 60
	elif ! grep -qE "^=== vm: down $token 0 " "$2"; then
		verdict=FAILED
	fi
	echo "--- vm $1: $verdict, $4 s"
	[[ $verdict == ok ]]
}

summary() {
	cat <<-'END'
		/^=== vm: up/ { sub(/^=== vm: /, ""); print "  " $0 " s" }
		/^=== vm: test/ { package = $4; passed = skipped = failed = lines = 0; next }
		/^=== vm: exit/ {
			bad = $4 != 0 || failed || (passed + skipped == 0 && all == "")
			if (bad) { for (i = 0; i < lines; i++) print text[i]; wrong = 1 }
			printf "  %-6s %-24s %3d passed, %d failed, %d skipped, %.0f s\n", bad ? "FAILED" : "ok", package, passed, failed, skipped, $8 - $6
			package = ""
		}
		/^kernel: / { print "  " $0 }
		package == "" { next }
		/^ *--- PASS/ { passed += /^---/; next }
		/^=== (RUN|PAUSE|CONT|NAME)/ { next }
		/^ *--- FAIL/ { failed += /^---/ }
		/^ *--- SKIP/ { skipped += /^---/; reason = text[lines - 1]; sub(/^ *[a-z_0-9]*\.go:[0-9]*: /, "", reason); print "  skip   " package " " $3 ": " reason }
		{ text[lines++] = $0 }
		END { exit wrong }
	END
}

# run_cells CELL...: two at a time, as each keeps one CPU busy.
run_cells() {
	local failed=0 pids=() one
	for one in "$@"; do
		while (($(jobs -rp | wc -l) >= parallel)); do wait -n || true; done
		cell "$one" >"$dir/${one//\//-}.report" 2>&1 &
		pids+=($!)
	done
	for one in "$@"; do
		wait "${pids[0]}" || failed=1
		pids=("${pids[@]:1}")
		cat "$dir/${one//\//-}.report"
	done
	return $failed
}

clean() {
	local code=$? pid
	trap - EXIT
	for pid in $(jobs -p); do kill "$pid" 2>/dev/null || true; done
	wait 2>/dev/null || true
	rm -rf "$dir"
	exit "$code"
}

command=${1:-}
[[ -n $command ]] || usage
shift
case $command in
test)
	cells=("$@")
	[[ $# -gt 0 ]] || cells=("${default_cells[@]}")
	;;
run | shell)
	[[ $# -gt 0 ]] || usage
	cells=("$1")
	shift
	[[ $command == shell || $# -gt 0 ]] || usage
	PKGS="$*"
	;;
*) usage ;;
esac
for one in "${cells[@]}"; do
	if [[ ! $one =~ ^(5\.10|6\.1|6\.12|newest)(/(v1|v2|hybrid))?$ ]]; then
		echo "vm.sh: no cell '$one': KERNEL or KERNEL/CGROUPS, of 5.10, 6.1, 6.12, newest and v2, hybrid, v1" >&2
		exit 2
	fi
done
scripts/packages.sh vm

dir=$(mktemp -d "${TMPDIR:-/tmp}/pidigree-vm.XXXXXX")
trap clean EXIT
trap 'exit 130' INT TERM
token=$(tr -dc 'a-z0-9' </dev/urandom | head -c 16 || true)
parallel=$(nproc)
begin=$SECONDS
for one in "${cells[@]}"; do scripts/vm-kernel.sh "${one%%/*}" >/dev/null; done
machine >"$dir/machine" & # takes as long as the build where KVM does not work
read -r -a packages <<<"${PKGS-${default_packages[*]}}"
build "${packages[@]}"
wait $!
hardware=$(<"$dir/machine")
echo "built in $((SECONDS - begin)) s; qemu $hardware"
if [[ $command == shell ]]; then
	(qemu "${cells[0]}" vm.shell=1)
else
	run_cells "${cells[@]}"
fi
