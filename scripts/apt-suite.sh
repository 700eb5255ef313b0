# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# apt-suite.sh: to be sourced by who wants packages of another suite of the Debian
# archives that this machine's apt is configured with, verified with Debian's
# archive keys, without touching the machine's own apt state. Who sources it has
# set `suite`, `apt` (a directory for all that is kept meanwhile) and `me` (its
# own name, for messages).

keys=/usr/share/keyrings/debian-archive-keyring.gpg
arch=$(dpkg --print-architecture)

# open_suite fetches the suite's lists.
open_suite() {
	rm -rf "$apt"
	mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/debs" "$apt/x"
	: >"$apt/status"
	sources >"$apt/sources.list"
	if [[ ! -s $apt/sources.list ]]; then
		[[ ! -e $apt/log ]] || tail -n 20 "$apt/log" >&2
		echo "$me: apt knows no Debian archive: add one to /etc/apt/sources.list, and see that 'apt-get update' works" >&2
		return 1
	fi
	# An archive without the suite is an error to apt and none to us, as long as one has it.
	private apt-get update >"$apt/log" 2>&1 || true
}

# sources prints one line for each suite that may have the kernel, in each Debian
# archive that apt knows. One whose lists were never fetched, or were removed,
# does not know whose its archives are: the lists are fetched, to one side.
sources() {
	local origin label uri s
	targets >"$apt/debian"
	if [[ ! -s $apt/debian ]]; then
		mkdir -p "$apt/own/partial"
		apt-get -q -o Dir::State::Lists="$apt/own" -o APT::Sandbox::User= update >"$apt/log" 2>&1 || true
		targets -o Dir::State::Lists="$apt/own" >"$apt/debian"
	fi
	while IFS='|' read -r origin label uri; do
		for s in "$suite" "$suite-security"; do
			[[ $label == Debian && $s == *-security || $label == Debian-Security && $s != *-security ]] && continue
			echo "deb [arch=$arch signed-by=$keys] $uri $s main"
		done
	done <"$apt/debian" | sort -u
}

targets() {
	apt-get "$@" indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | grep '^Debian|' | sort -u || true
}

# private runs one of apt's programs on the private state. Suites that are no
# longer updated have Release files past their date: signed, and as good as ever.
private() {
	local program=$1
	shift
	"$program" -q -o Dir::State::Lists="$apt/lists" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" \
		-o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
		-o APT::Sandbox::User= -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false -o Acquire::Retries=3 \
		-o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false "$@"
}
