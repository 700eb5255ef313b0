// SPDX-License-Identifier: Apache-2.0

package main

// figures are the promises, in the order of the page. A benchmark that was
// renamed shows as "not measured" until it is renamed here too.
func figures() []figure {
	all := selfFigures()
	all = append(all, lookupFigures()...)
	return append(all, hostFigures()...)
}

// selfFigures: the container asks about itself, in every form.
func selfFigures() (all []figure) {
	for _, engine := range []string{"docker", "containerd"} {
		for _, form := range []struct{ name, at string }{
			{"everything on", "everything_on"},
			{"every runtime event dropped", "every_runtime_event_dropped"},
			{"cgroup programs not loaded", "cgroup_programs_not_loaded"},
		} {
			for _, nice := range []struct{ name, at string }{{"equal priority", "nice_0"}, {"raised priority", "nice_-10"}} {
				at := "tests/e2e AContainerAsksAboutItself/" + engine + "/" + form.at + "/" + nice.at + " "
				all = append(all, figure{
					what: "60 containers of " + engine + " ask about themselves, 12 at a time, three runs in a row; " + form.name + ", " + nice.name,
					at:   at + "right", goal: "60 of 60 in each run", limit: 60, least: true,
					baselines: []baseline{
						{"known before the program's first act, least", at + "least-lead-ns"},
						{"median", at + "median-lead-ns"},
						{"before its exec by bpftrace's clock, least", at + "least-bpftrace-lead-ns"},
						{"known only after that exec, of 180", at + "late"},
						{"the two clocks apart, most", at + "clock-ns"},
					},
				})
			}
		}
	}
	return all
}

// lookupFigures: what a question costs.
func lookupFigures() []figure {
	floor := []baseline{
		{"a Go map without a writer", "pkg/store ResolveAgainstMap/pids-spread map-ns"},
		{"the store", "pkg/store ResolveAgainstMap/pids-spread store-ns"},
		{"read and parse /proc/PID/cgroup", "pkg/store Resolve/proc-cgroup ns/op"},
		{"gopsutil's create time", "pkg/store Resolve/gopsutil-create-time ns/op"},
	}
	return []figure{
		{
			what: "a hit, uniform over 100,000 live keys, with a writer at 1,000 changes a second", at: "pkg/store ResolveAgainstMap/pids-spread x-map",
			goal: "1.5 times a Go map", limit: 1.5, baselines: floor,
		},
		{
			what: "allocations of a hit", at: "pkg/store Resolve/pids-spread/store allocs/op", goal: "0", limit: 0.5,
			baselines: []baseline{{"a Go map", "pkg/store Resolve/pids-spread/plain-map allocs/op"}},
		},
		{
			what: "a live bare PID, in process", at: "pkg/resolve PID/pidigree ns/op", goal: "10 µs", limit: 10e3,
			baselines: []baseline{{"read /proc/PID/cgroup, not parsed", "pkg/resolve PID/read-proc-cgroup ns/op"}},
		},
		{
			what: "the same over the socket by the Go client (frames), p50", at: "tests/e2e TheSocket/resolve_one p50-ns", goal: "100 µs", limit: 100e3,
			baselines: []baseline{
				{"a gRPC call of Resolve", "tests/e2e TheSocket/gRPC_call_of_Resolve p50-ns"},
				{"a gRPC stream of ResolveStream", "tests/e2e TheSocket/gRPC_stream_of_ResolveStream p50-ns"},
				{"gRPC's health check on the same socket", "tests/e2e TheSocket/health_check p50-ns"},
				{"a message each way on an open stream of gRPC's reflection", "tests/e2e TheSocket/open_stream_of_reflection p50-ns"},
				{"read /proc/PID/cgroup, not parsed", "tests/e2e TheSocket/read_and_not_parse_proc_PID_cgroup p50-ns"},
			},
		},
		{
			what: "1,000 processes in one call of the Go client, p50", at: "tests/e2e TheSocket/resolve_1000_processes p50-ns", goal: "3 ms", limit: 3e6,
			baselines: []baseline{
				{"one process a thousand times", "tests/e2e TheSocket/resolve_1000 p50-ns"},
				{"one process", "tests/e2e TheSocket/resolve_one p50-ns"},
			},
		},
	}
}

// hostFigures: what is remembered, and what the host pays.
func hostFigures() []figure {
	const brief = "tests/e2e AThousandBriefContainersAMinuteLater "
	all := []figure{
		{what: "containerd's containers of 50 ms, a minute later, by name: name, image, exit code", at: brief + "by-name", goal: "1,000 of 1,000", limit: 1000, least: true},
		{what: "the same, by the PID that they had", at: brief + "by-pid", goal: "1,000 of 1,000", limit: 1000, least: true},
	}
	for _, engine := range []string{"docker", "containerd"} {
		all = append(all, figure{
			what: "calls to " + engine + " about one start, most of 10", at: "tests/e2e RuntimeCalls/" + engine + " calls/start", goal: "2", limit: 2,
		})
	}
	for _, event := range []string{"fork", "exec", "exit"} {
		all = append(all, figure{
			what: "BPF for one " + event + ", as fast as the machine starts processes", at: "pkg/kernel BPFCost ns/" + event, goal: "2 µs", limit: 2000,
			baselines: []baseline{{"an empty program", "pkg/kernel BPFCost ns/empty-" + event}},
		})
	}
	const idle = "tests/e2e AnIdleAgent/"
	return append(all,
		figure{
			what: "an idle agent beside 100 containers: memory", at: idle + "beside_100_containers MiB-RssAnon", goal: "40 MiB", limit: 40,
			baselines: []baseline{{"beside none", idle + "beside_none MiB-RssAnon"}},
		},
		figure{
			what: "an idle agent beside 100 containers: CPU", at: idle + "beside_100_containers %core", goal: "0.5 % of a core", limit: 0.5,
			baselines: []baseline{{"beside none", idle + "beside_none %core"}},
		})
}
