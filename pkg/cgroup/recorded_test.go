// SPDX-License-Identifier: Apache-2.0

package cgroup

// recordedPaths are paths of real machines, each with where it was seen: on a
// machine of this project, or in a public report (owner/repository#number).
func recordedPaths() []recordedPath {
	return []recordedPath{
		{
			"Docker, cgroupfs driver", own + "Docker 20.10.24",
			"/docker/64a1b27b7da1569f1c6e7d969e504b2eb557fab58fd82c3fa37c6ddb53ef9e7f",
			[]string{
				"container docker 64a1b27b @1 container",
			},
			"",
		},
		{
			"Docker, --cgroup-parent the cgroup of another container", own + "Docker 20.10.24, `docker run --cgroup-parent /docker/<first>`",
			"/docker/64a1b27b7da1569f1c6e7d969e504b2eb557fab58fd82c3fa37c6ddb53ef9e7f/aa270dba619c67b46d859f9130200170d553a3f214e6c3b0062833c101b88412",
			[]string{
				"container docker 64a1b27b @1 sub",
				"container - aa270dba @2 container",
			},
			"",
		},
		{
			"Docker, --cgroup-parent of the user's own", own + "Docker 20.10.24, `docker run --cgroup-parent /batch/nightly`",
			"/batch/nightly/dcac8e95d024900633d584b5a2aee90a97e84ee9d8476ecb491875d92bb86905",
			[]string{
				"container - dcac8e95 @2 container",
			},
			"",
		},
		{
			"forged by a container with CAP_SYS_ADMIN", own + "Docker 20.10.24, mkdir and a write to cgroup.procs from inside f213c596",
			"/docker/f213c596fe565daca789df253d3dd6408c8a9bfc6d9590c0e10092fabb0588c3/docker-64a1b27b7da1569f1c6e7d969e504b2eb557fab58fd82c3fa37c6ddb53ef9e7f.scope",
			[]string{
				"container docker f213c596 @1 sub",
				"container docker 64a1b27b @2 container",
			},
			"",
		},
		{
			"init.scope in a Docker container", own + "Docker 20.10.24, mkdir from inside, as a systemd in there does",
			"/docker/f213c596fe565daca789df253d3dd6408c8a9bfc6d9590c0e10092fabb0588c3/init.scope",
			[]string{
				"container docker f213c596 @1 init-scope",
			},
			"",
		},
		{
			"docker build, BuildKit", own + "Docker 20.10.24, version 2 of the build API",
			"/docker/buildkit/pxyf0fthgewg5h6xaqvo463c0",
			[]string{
				"container buildkit pxyf0fthgewg5h6xaqvo463c0 @2 container",
			},
			"",
		},
		{
			"docker build, classic builder", own + "Docker 20.10.24, DOCKER_BUILDKIT=0",
			"/docker/df637fdaa926f94ac450a505778f9a9039f837d60584c833b34cd8b7f112dade",
			[]string{
				"container docker df637fda @1 container",
			},
			"",
		},
		{
			"ctr run, default cgroup", own + "containerd 1.6.20, `ctr run IMAGE web1`",
			"/default/web1",
			nil,
			"",
		},
		{
			"ctr run --cgroup", own + "containerd 1.6.20, `ctr run --cgroup /apps/front/web`",
			"/apps/front/web",
			nil,
			"",
		},
		{
			"containerd, namespace k8s.io", own + "containerd 1.6.20, `ctr -n k8s.io run`, an id as the CRI plugin makes it",
			"/k8s.io/2c8b08da5ce60398e1f19af0e5dccc744df274b826abe585eaba68c525434806",
			[]string{
				"container containerd 2c8b08da @1 container ns=k8s.io",
			},
			"",
		},
		{
			"containerd below kubepods, cgroupfs driver", own + "containerd 1.6.20, --cgroup as the kubelet sets it",
			"/kubepods/burstable/pod4a1c5e0e-7d3b-4b0e-9c55-0d6c1f7e2a90/27dd8ed44a83ff94d557f9fd0412ed5a8cbca69ea04922d88c01184a07300a5a",
			[]string{
				"pod - 4a1c5e0e-7d3b-4b0e-9c55-0d6c1f7e2a90 @2 sub qos=burstable",
				"container - 27dd8ed4 @3 container pod=4a1c5e0e-7d3b-4b0e-9c55-0d6c1f7e2a90 qos=burstable",
			},
			"",
		},
		{
			"a systemd path given to a runtime with the cgroupfs driver", own + "containerd 1.6.20, runc 1.1.5, --cgroup as the kubelet with the systemd driver sets it",
			"/kubepods-besteffort-pod4a1c5e0e_7d3b_4b0e_9c55_0d6c1f7e2a90.slice:cri-containerd:f6936912184481f5edd4c304ce27c5a1a827804fc7f329f43d273b8621870776",
			[]string{
				"container containerd f6936912 @0 container pod=4a1c5e0e-7d3b-4b0e-9c55-0d6c1f7e2a90 qos=besteffort",
			},
			"",
		},
		{
			"runc run", own + "runc 1.1.5, a bundle without cgroupsPath",
			"/rc1",
			nil,
			"",
		},
		{
			"runc run below its caller's cgroup", own + "runc 1.1.5, the memory line of the same container, the caller's cgroup replaced",
			"/jobs/runner/rc1",
			nil,
			"",
		},
		{
			"podman, cgroupfs manager", own + "podman 4.3.1, runc",
			"/libpod_parent/libpod-de6b8a9083b10062d5523e4ddfc026f5b5698ef0116517a4d72c634a0a06d5ff",
			[]string{
				"container podman de6b8a90 @1 container",
			},
			"",
		},
		{
			"podman's conmon, cgroupfs manager", own + "podman 4.3.1, the pids line of conmon",
			"/libpod_parent/conmon",
			[]string{
				"helper podman - @1 conmon",
			},
			"",
		},
		{
			"podman, in a pod, cgroupfs manager", own + "podman 4.3.1, a pod with an infra container",
			"/libpod_parent/6c9acf9cbe07b1094c1a9aa459fdd873065db6eab4457963d4cf206c8316f42c/libpod-c06e9166dfaa8f21773889e8048b4c795ca5d2c0571578bda4ed31006a7d5543",
			[]string{
				"pod podman 6c9acf9c @1 sub",
				"container podman c06e9166 @2 container pod=6c9acf9c",
			},
			"",
		},
		{
			"podman's conmon of a pod, cgroupfs manager", own + "podman 4.3.1, the pids line of conmon",
			"/libpod_parent/6c9acf9cbe07b1094c1a9aa459fdd873065db6eab4457963d4cf206c8316f42c/conmon",
			[]string{
				"pod podman 6c9acf9c @1 sub",
				"helper podman - @2 conmon pod=6c9acf9c",
			},
			"",
		},
		{
			"LXC", own + "LXC 5.0.2, every line",
			"/lxc.payload.c1",
			[]string{
				"container lxc c1 @0 container",
			},
			"",
		},
		{
			"LXC's monitor", own + "LXC 5.0.2, every line of lxc-start",
			"/lxc.monitor.c1",
			[]string{
				"helper lxc c1 @0 monitor",
			},
			"",
		},
		{
			"systemd-nspawn --keep-unit, payload", own + "systemd 252, the name=systemd and 0:: lines",
			"/cgrecnsp/payload",
			nil,
			"",
		},
		{
			"systemd-nspawn --keep-unit, the supervisor", own + "systemd 252, the name=systemd and 0:: lines",
			"/cgrecnsp/supervisor",
			nil,
			"",
		},
		{
			"CRI-O below kubepods, cgroupfs manager", "CRI-O 1.34.0 on Debian 12, recorded by this project, every line",
			"/kubepods/besteffort/pod11111111-2222-3333-4444-555555555555/crio-368ebfab2d2fddb2c05a198e8f7c9130c347249675a7092356fcd76c3af7323e",
			[]string{
				"pod - 11111111-2222-3333-4444-555555555555 @2 sub qos=besteffort",
				"container cri-o 368ebfab @3 container pod=11111111-2222-3333-4444-555555555555 qos=besteffort",
			},
			"",
		},
		{
			"CRI-O without a pod's parent, cgroupfs manager", "CRI-O 1.34.0 on Debian 12, recorded by this project, id replaced",
			"/crio/crio-" + idA,
			[]string{
				"container cri-o 0ba8ac17 @1 container",
			},
			"",
		},
		{
			"CRI-O's conmon, cgroupfs manager", "CRI-O 1.34.0 on Debian 12, recorded by this project, id replaced",
			"/kubepods/burstable/pod11111111-2222-3333-4444-555555555555/crio-conmon-" + idA,
			[]string{
				"pod - 11111111-2222-3333-4444-555555555555 @2 sub qos=burstable",
				"helper cri-o 0ba8ac17 @3 conmon pod=11111111-2222-3333-4444-555555555555 qos=burstable",
			},
			"",
		},
		{
			"Docker with the systemd driver in systemd-nspawn, from the host", "Docker 26.1, systemd 257 in systemd-nspawn, recorded by this project, id replaced",
			"/pidigree/payload/system.slice/docker-" + idA + ".scope",
			[]string{
				"container docker 0ba8ac17 @3 container",
			},
			"",
		},
		{
			"Docker with the systemd driver", "Debian 13, kernel 6.12, cgroup v2, Docker 26.1, recorded by this project, id replaced",
			"/system.slice/docker-" + idA + ".scope",
			[]string{
				"container docker 0ba8ac17 @1 container",
			},
			"system.slice docker-0ba8ac17e4e7a~d0.scope",
		},
		{
			"Docker with the systemd driver, --cgroup-parent", "Debian 13, kernel 6.12, cgroup v2, Docker 26.1, recorded by this project, id replaced",
			"/mygrp.slice/docker-" + idA + ".scope",
			[]string{
				"container docker 0ba8ac17 @1 container",
			},
			"mygrp.slice docker-0ba8ac17e4e7a~d0.scope",
		},
		{
			"podman with crun and the systemd manager", "Debian 13, kernel 6.12, cgroup v2, podman 5.4, recorded by this project, id replaced",
			"/machine.slice/libpod-" + idA + ".scope/container",
			[]string{
				"container podman 0ba8ac17 @1 payload",
			},
			"machine.slice libpod-0ba8ac17e4e7a~d0.scope",
		},
		{
			"ctr run --runc-systemd-cgroup", "Debian 13, kernel 6.12, cgroup v2, containerd 1.7, recorded by this project",
			"/system.slice/cri-containerd-c2.scope",
			nil,
			"system.slice cri-containerd-c2.scope",
		},
		{
			"Docker on a host of 12 hierarchies", "ctrsploit/ctrsploit#280",
			"/docker/2403ccfe427f1dc7b6120dccb9ac58c2f8456950380d587a9f33ea7f00dd303d",
			[]string{
				"container docker 2403ccfe @1 container",
			},
			"",
		},
		{
			"the v2 line of the same container, before Docker used v2 in hybrid mode", "ctrsploit/ctrsploit#280",
			"/system.slice/containerd.service",
			nil,
			"system.slice containerd.service",
		},
		{
			"Docker in a slice of Docker's own", "moby/moby#4450",
			"/system.slice/system-docker.slice/docker-d6b15f04feb95083acea4b9caa6e59f8ebe67e3e3cf9cb8c59fad543490ee3ef.scope",
			[]string{
				"container docker d6b15f04 @2 container",
			},
			"system-docker.slice docker-d6b15f04feb95~ef.scope",
		},
		{
			"rootless Docker", "docker/docs#14545 for the path, NixOS/nixpkgs#258141 for the scope",
			"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-01b27f38970b685be254e2440e8830bf9076972353b69409e268b55cc22b5b4c.scope",
			[]string{
				"container docker 01b27f38 @4 container",
			},
			"user-1000.slice user@1000.service 1000 user.slice docker-01b27f38970b6~4c.scope",
		},
		{
			"the shm mount of a Docker container, a unit of the host's", "netdata/netdata#5271",
			`/system.slice/home-docker\x2dhome-docker-containers-37e4e4b99bd5581270a9e36f34e5560556023da7c913ae6a16a11d7c29bdc41f-shm.mount`,
			nil,
			`system.slice home-docker\x2dhome-~hm.mount`,
		},
		{
			"a service of cri-dockerd's pods, systemd driver", "kontena/pharos-cluster#440",
			"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod9692aa0e_748e_11e8_8dfa_76d458035df6.slice/docker-abddff03dfd7710c79a750ce3e730365cbb2c8247a974170c1062683bc3e9152.scope",
			[]string{
				"pod - 9692aa0e-748e-11e8-8dfa-76d458035df6 @2 sub qos=besteffort",
				"container docker abddff03 @3 container pod=9692aa0e-748e-11e8-8dfa-76d458035df6 qos=besteffort",
			},
			"kubepods-besteffort-~f6.slice docker-abddff03dfd77~52.scope",
		},
		{
			"Docker below kubepods, burstable, systemd driver", "lxc/lxc#3890",
			"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod7d4424e6_bb13_42f4_a47a_45a4828bf54d.slice/docker-d0b3604b67ac7930dd34ba3a796627e3e4717d12309e90a4afe3f38b6816ac98.scope",
			[]string{
				"pod - 7d4424e6-bb13-42f4-a47a-45a4828bf54d @2 sub qos=burstable",
				"container docker d0b3604b @3 container pod=7d4424e6-bb13-42f4-a47a-45a4828bf54d qos=burstable",
			},
			"kubepods-burstable-p~4d.slice docker-d0b3604b67ac7~98.scope",
		},
		{
			"a static pod, cgroupfs driver", "netdata/netdata#3369 (with / for its _)",
			"/kubepods/burstable/pod16a4a44fea21553f3c41d03e478379f0/902093a5baef883ae52ad163ff157a2bc5d579d446d044735aa6c6a7de274a7e",
			[]string{
				"pod - 16a4a44fea21553f3c41d03e478379f0 @2 sub qos=burstable",
				"container - 902093a5 @3 container pod=16a4a44fea21553f3c41d03e478379f0 qos=burstable",
			},
			"",
		},
		{
			"a pod's own cgroup, cgroupfs driver", "google/cadvisor#2540",
			"/kubepods/burstable/pod1ff47ee6-9685-4726-ac6f-0ff070c452d6",
			[]string{
				"pod - 1ff47ee6-9685-4726-ac6f-0ff070c452d6 @2 shim qos=burstable",
			},
			"",
		},
		{
			"burstable, cgroupfs driver", "duckdb/duckdb#16608",
			"/kubepods/burstable/podc101fead-5fa2-4525-97af-5894973b336e/2b7a2f7fb72575bb50a46d68cceaf43a12a597184714cb33af2f6420f5314293",
			[]string{
				"pod - c101fead-5fa2-4525-97af-5894973b336e @2 sub qos=burstable",
				"container - 2b7a2f7f @3 container pod=c101fead-5fa2-4525-97af-5894973b336e qos=burstable",
			},
			"",
		},
		{
			"best effort, cgroupfs driver", "moby/moby#34584",
			"/kubepods/besteffort/pod9a18ffb8-8513-11e7-b26e-7e29fbe2a5a3/d28e0087cf8f3f0429f755d60b0de415b20fcf76736ded7bab6e30e7b739ee36",
			[]string{
				"pod - 9a18ffb8-8513-11e7-b26e-7e29fbe2a5a3 @2 sub qos=besteffort",
				"container - d28e0087 @3 container pod=9a18ffb8-8513-11e7-b26e-7e29fbe2a5a3 qos=besteffort",
			},
			"",
		},
		{
			"guaranteed, cgroupfs driver", "kubelet 1.34 and containerd 1.6 on Debian 12, recorded by this project, id replaced",
			"/kubepods/pod11111111-2222-3333-4444-555555555555/" + idA,
			[]string{
				"pod - 11111111-2222-3333-4444-555555555555 @1 sub qos=guaranteed",
				"container - 0ba8ac17 @2 container pod=11111111-2222-3333-4444-555555555555 qos=guaranteed",
			},
			"",
		},
		{
			"Cloud Foundry's garden in a pod", "SUSE/scf#1345",
			"/kubepods/besteffort/pod8acae59a-18e5-11e8-b613-e83935273f68/4e18770d8e492b2de08c7d622f8ba80368d97d8f6c07057985f1ea9ce8bb1e73/garden",
			[]string{
				"pod - 8acae59a-18e5-11e8-b613-e83935273f68 @2 sub qos=besteffort",
				"container - 4e18770d @3 sub pod=8acae59a-18e5-11e8-b613-e83935273f68 qos=besteffort",
			},
			"",
		},
		{
			"minikube in a job of GitHub's runner", "kubernetes/minikube, comment on the freezer in its wait for the API server",
			"/actions_job/e62ef4349cc5a70f4b49f8a150ace391da6ad6df27073c83ecc03dbf81fde1ce/kubepods/burstable/poda1de58db0ce81d19df7999f6808def1b/5df53230fe3483fd65f341923f18a477fda92ae9cd71061168130ef164fe479c",
			[]string{
				"container - e62ef434 @1 sub",
				"pod - a1de58db0ce81d19df7999f6808def1b @4 sub qos=burstable",
				"container - 5df53230 @5 container pod=a1de58db0ce81d19df7999f6808def1b qos=burstable",
			},
			"",
		},
		{
			"containerd, burstable, systemd driver", "netdata/netdata#4868",
			"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod55c6c714_b240_4dec_9a45_57b61696ab6e.slice/cri-containerd-2032491dcae31e6746f47daa0ac74564f2843a1bd847c5e6c4eb501ca132ac36.scope",
			[]string{
				"pod - 55c6c714-b240-4dec-9a45-57b61696ab6e @2 sub qos=burstable",
				"container containerd 2032491d @3 container pod=55c6c714-b240-4dec-9a45-57b61696ab6e qos=burstable",
			},
			"kubepods-burstable-p~6e.slice cri-containerd-20324~36.scope",
		},
		{
			"containerd, a static pod, systemd driver", "netdata/netdata#4868",
			"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod8daa50c3a64c9ff60bb9eab7b44b56fd.slice/cri-containerd-2884d57c0e100d7a9a2f9487ce0bc2986bca3430e988af7a4865aff061f51ac5.scope",
			[]string{
				"pod - 8daa50c3a64c9ff60bb9eab7b44b56fd @2 sub qos=burstable",
				"container containerd 2884d57c @3 container pod=8daa50c3a64c9ff60bb9eab7b44b56fd qos=burstable",
			},
			"kubepods-burstable-p~fd.slice cri-containerd-2884d~c5.scope",
		},
		{
			"containerd, guaranteed, systemd driver", "netdata/netdata#4868",
			"/kubepods.slice/kubepods-pod91f5b561_369f_4103_8015_66391059996a.slice/cri-containerd-24c53b774a586f06abc058619b47f71d9d869ac50c92898adbd199106fd0aaeb.scope",
			[]string{
				"pod - 91f5b561-369f-4103-8015-66391059996a @1 sub qos=guaranteed",
				"container containerd 24c53b77 @2 container pod=91f5b561-369f-4103-8015-66391059996a qos=guaranteed",
			},
			"kubepods-pod91f5b561~6a.slice cri-containerd-24c53~eb.scope",
		},
		{
			"containerd that was told a systemd path, in the root", "open-telemetry/opentelemetry-java#4507, the cpuset line",
			"/kubepods-besteffort-pod0125ec2f_b64a_4868_8f5b_94b56cbab864.slice:cri-containerd:ee4b20e90ac7f42a10bd004d05646b13d8ab5e2c5e7cbc01abf8006bac016459",
			[]string{
				"container containerd ee4b20e9 @0 container pod=0125ec2f-b64a-4868-8f5b-94b56cbab864 qos=besteffort",
			},
			"",
		},
		{
			"containerd that was told a systemd path, in its own service", "open-telemetry/opentelemetry-java#4507, the devices line",
			"/system.slice/containerd.service/kubepods-besteffort-pod0125ec2f_b64a_4868_8f5b_94b56cbab864.slice:cri-containerd:ee4b20e90ac7f42a10bd004d05646b13d8ab5e2c5e7cbc01abf8006bac016459",
			[]string{
				"container containerd ee4b20e9 @2 container pod=0125ec2f-b64a-4868-8f5b-94b56cbab864 qos=besteffort",
			},
			"system.slice containerd.service",
		},
		{
			"the same with burstable", "containerd/containerd#5226",
			"/system.slice/containerd.service/kubepods-burstable-pod7a875b5c_4d3c_4345_ac0f_5c847d8d7129.slice:cri-containerd:ee05f876e981d258209f91f25f139f7abc13a0246a5f343298572602fea8c7bb",
			[]string{
				"container containerd ee05f876 @2 container pod=7a875b5c-4d3c-4345-ac0f-5c847d8d7129 qos=burstable",
			},
			"system.slice containerd.service",
		},
		{
			"the same with a name that is no id", "containerd/containerd#5226",
			"/system.slice/containerd.service/kubepods-burstable-pod7a875b5c_4d3c_4345_ac0f_5c847d8d7129.slice:cri-containerd:webapp",
			nil,
			"system.slice containerd.service",
		},
		{
			"kind: Kubernetes in a Docker container, systemd in there", "a public issue-tracker example of kind with containerd (Example line of a pod hook server)",
			"/docker/65a1b6ad09655b3f1475ede1aa0061a97c0d1ada9f2b2acac959afbc92094463/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod96dd7de3_0783_4613_a707_e0effc077ef5.slice/cri-containerd-13a0f64b909e3ff2d63f196d6947927a8af997ab68f8fa9ebb6d6c7018af4ec9.scope",
			[]string{
				"container docker 65a1b6ad @1 sub",
				"pod - 96dd7de3-0783-4613-a707-e0effc077ef5 @5 sub qos=besteffort",
				"container containerd 13a0f64b @6 container pod=96dd7de3-0783-4613-a707-e0effc077ef5 qos=besteffort",
			},
			"",
		},
		{
			"kind on a host with the systemd driver", "public",
			"/system.slice/docker-3350ade4226f0adcd9e4e9545d7c2a16a5aa362d12315f2a88e2024cea1246cf.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podb6a16766_05ee_446a_8ee5_ff96a817f47c.slice/cri-containerd-679f3691f7f1b20198548be43b86f265f9fff9be0ac4c973638f5ee89decbca9.scope",
			[]string{
				"container docker 3350ade4 @1 sub",
				"pod - b6a16766-05ee-446a-8ee5-ff96a817f47c @5 sub qos=besteffort",
				"container containerd 679f3691 @6 container pod=b6a16766-05ee-446a-8ee5-ff96a817f47c qos=besteffort",
			},
			"system.slice docker-3350ade4226f0~cf.scope",
		},
		{
			"CRI-O in a Docker container (minikube)", "kubernetes/minikube#11280",
			"/docker/d6701ec289c56e4391acb11d07474b3139466857a305490575508a8b7a9fcf22/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod2ca4a155_3599_498d_bb9d_4446693fa3ea.slice/crio-0ba8ac17e4e7a31fb82279503552fe94e64bab4745bf6fd2ff231e7c8ca8bed0.scope",
			[]string{
				"container docker d6701ec2 @1 sub",
				"pod - 2ca4a155-3599-498d-bb9d-4446693fa3ea @4 sub qos=besteffort",
				"container cri-o 0ba8ac17 @5 container pod=2ca4a155-3599-498d-bb9d-4446693fa3ea qos=besteffort",
			},
			"",
		},
		{
			"CRI-O's conmon in system.slice", "openshift/microshift#697",
			"/system.slice/crio-conmon-e0c85fe7644a858988d9687c2e0736a7d31922740d0f3e001c6b2e0aa7e5f528.scope",
			[]string{
				"helper cri-o e0c85fe7 @1 conmon",
			},
			"system.slice crio-conmon-e0c85fe7~28.scope",
		},
		{
			"CRI-O's conmon in the pod", "opencontainers/runc#4620",
			"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod207aaad1_659f_4db8_88e0_46e0cdcc3004.slice/crio-conmon-32da98c8522068be05a7510a3eddb09cad6ed2f03286180d0e931d0d0b6224a6.scope",
			[]string{
				"pod - 207aaad1-659f-4db8-88e0-46e0cdcc3004 @2 sub qos=burstable",
				"helper cri-o 32da98c8 @3 conmon pod=207aaad1-659f-4db8-88e0-46e0cdcc3004 qos=burstable",
			},
			"kubepods-burstable-p~04.slice crio-conmon-32da98c8~a6.scope",
		},
		{
			"CRI-O, slices encoded twice by a bug", "cri-o/cri-o#842",
			"/kubepods.slice.slice/kubepods.slice-kubepods_burstable.slice.slice/kubepods.slice-kubepods_burstable.slice-kubepods_burstable_pod12723d69_9268_11e7_84d0_c85b76cda386.slice.slice",
			nil,
			"kubepods.slice-kubep~ce.slice",
		},
		{
			"podman, systemd manager", "podman-container-tools/podman#507",
			"/machine.slice/libpod-0411a2a82311fbc65b137ca550d5f7e6b6863bc734759be2f515b0b67062d49a.scope",
			[]string{
				"container podman 0411a2a8 @1 container",
			},
			"machine.slice libpod-0411a2a82311f~9a.scope",
		},
		{
			"podman's conmon, systemd manager", "podman-container-tools/podman#507",
			"/machine.slice/libpod-conmon-0411a2a82311fbc65b137ca550d5f7e6b6863bc734759be2f515b0b67062d49a.scope",
			[]string{
				"helper podman 0411a2a8 @1 conmon",
			},
			"machine.slice libpod-conmon-0411a2~9a.scope",
		},
		{
			"podman, the infra container of a pod, systemd manager", "podman-container-tools/podman#13673",
			"/machine.slice/machine-libpod_pod_ddf44d54b520f0b4469fcd01c3155ca49e6911dc2175471eb3a7b789187a7a89.slice/libpod-1dadda571b14eefb3158a15d0fff7e0089f9dd92f922679ed0116cccdfe8bb0f.scope/container",
			[]string{
				"pod podman ddf44d54 @1 sub",
				"container podman 1dadda57 @2 payload pod=ddf44d54",
			},
			"machine-libpod_pod_d~89.slice libpod-1dadda571b14e~0f.scope",
		},
		{
			"podman --cgroups=split", "podman-container-tools/podman#13673",
			"/srv.slice/container-homeassistant.service/libpod-payload-c4e8e0d642078c90dde4a8a65883a7c0bee26f751d7c6a3096dc322519c658d3",
			[]string{
				"container podman c4e8e0d6 @2 container",
			},
			"srv.slice container-homeassistant.service",
		},
		{
			"conmon with --cgroups=split", "podman-container-tools/podman#16589",
			"/system.slice/quadlet-minimal.service/runtime",
			nil,
			"system.slice quadlet-minimal.service",
		},
		{
			"rootless podman in a pod", "podman-container-tools/podman#6400, ids replaced",
			"/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_ddf44d54b520f0b4469fcd01c3155ca49e6911dc2175471eb3a7b789187a7a89.slice/libpod-" + idA + ".scope/container",
			[]string{
				"pod podman ddf44d54 @4 sub",
				"container podman 0ba8ac17 @5 payload pod=ddf44d54",
			},
			"user-1000.slice user@1000.service 1000 user-libpod_pod_ddf4~89.slice libpod-0ba8ac17e4e7a~d0.scope",
		},
		{
			"the rootless podman command itself", "containers/crun#376",
			"/user.slice/user-1000.slice/user@1000.service/user.slice/podman-6696.scope",
			nil,
			"user-1000.slice user@1000.service 1000 user.slice podman-6696.scope",
		},
		{
			"ECS on EC2, new task ids, with the cluster", "DataDog/libdatadog, documentation of its container ids",
			"/ecs/haissam-ecs-classic/5a0d5ceddf6c44c1928d367a815d890f/38fac3e99302b3622be089dd41e7ccf38aff368a86cc339972075136ee2710ce",
			[]string{
				"task ecs 5a0d5ceddf6c44c1928d367a815d890f @2 sub ns=haissam-ecs-classic",
				"container docker 38fac3e9 @3 container",
			},
			"",
		},
		{
			"ECS on Fargate 1.3", "DataDog/libdatadog, documentation of its container ids",
			"/ecs/55091c13-b8cf-4801-b527-f4601742204d/432624d2150b349fe35ba397284dea788c2bf66b885d14dfc1569b01890ca7da",
			[]string{
				"task ecs 55091c13-b8cf-4801-b527-f4601742204d @1 sub",
				"container docker 432624d2 @2 container",
			},
			"",
		},
		{
			"ECS on Fargate 1.4", "DataDog/libdatadog, documentation of its container ids",
			"/ecs/8cd79a803caf4d2aa945152e934a5c00/8cd79a803caf4d2aa945152e934a5c00-1053176469",
			[]string{
				"task ecs 8cd79a803caf4d2aa945152e934a5c00 @1 sub",
				"container ecs 8cd79a803caf4d2aa945152e934a5c00-1053176469 @2 container",
			},
			"",
		},
		{
			"an ECS task's own cgroup", "aws/amazon-ecs-agent#4077",
			"/ecs/bf1ddbfbbc8f45c9b1ac4f779368741e",
			[]string{
				"task ecs bf1ddbfbbc8f45c9b1ac4f779368741e @1 shim",
			},
			"",
		},
		{
			"an ECS task's own cgroup, with the cluster", "open-telemetry/opentelemetry-collector-contrib#33716",
			"/ecs/AL2023/dc454d1e84c0478fa8ed683523fe7e55",
			[]string{
				"task ecs dc454d1e84c0478fa8ed683523fe7e55 @2 shim ns=AL2023",
			},
			"",
		},
		{
			"ECS on cgroup v2", "aws/amazon-ecs-agent#3127 and #4077, the container's id replaced",
			"/ecstasks.slice/ecstasks-bf1ddbfbbc8f45c9b1ac4f779368741e.slice/docker-" + idA + ".scope",
			[]string{
				"task ecs bf1ddbfbbc8f45c9b1ac4f779368741e @1 sub",
				"container docker 0ba8ac17 @2 container",
			},
			"ecstasks-bf1ddbfbbc8f45c9b1ac4f779368741e.slice docker-0ba8ac17e4e7a~d0.scope",
		},
		{
			"garden", "elastic/apm-agent-nodejs#1191",
			"/system.slice/garden.service/garden/70eb4ce5-a065-4401-6990-88ed",
			[]string{
				"container garden 70eb4ce5-a065-4401-6990-88ed @3 container",
			},
			"system.slice garden.service",
		},
		{
			"garden without its own level", "cloudfoundry/routing-release#56",
			"/c2014f15-e490-4124-75e4-e5b5a08ca89f",
			nil,
			"",
		},
		{
			"garden in runit's service", "concourse/concourse#3613",
			"/system.slice/runit.service/0d233f08-00c2-43d8-5b57-2c2af4f5bfc0",
			nil,
			"system.slice runit.service",
		},
		{
			"LXC before 3.1", "lxc/lxc#1275",
			"/lxc/c",
			[]string{
				"container lxc c @1 container",
			},
			"",
		},
		{
			"Proxmox", "a public collector's comment, seen on a running container",
			"/lxc/100/ns/init.scope",
			[]string{
				"container lxc 100 @1 init-scope",
			},
			"",
		},
		{
			"a service in an LXC container on Proxmox", "public",
			"/lxc/108/ns/system.slice/ollama.service",
			[]string{
				"container lxc 108 @1 sub",
			},
			"",
		},
		{
			"LXC before cgroup namespaces, with a name of the user's", "lxc/lxc#121",
			"/container",
			nil,
			"",
		},
		{
			"systemd-nspawn's payload", "systemd/systemd#18104, machine name replaced",
			`/machine.slice/machine-web\x2d1.scope/payload`,
			[]string{
				"container nspawn web-1 @1 payload",
			},
			`machine.slice machine-web\x2d1.scope`,
		},
		{
			"systemd-nspawn from a unit of the user's, --keep-unit", "systemd/systemd#8189, name replaced",
			"/machine.slice/web.service",
			nil,
			"machine.slice web.service",
		},
		{
			"a virtual machine of libvirt", "public kernel audit log",
			`/machine.slice/machine-qemu\x2d1\x2dWin10.scope`,
			[]string{
				"vm libvirt qemu-1-Win10 @1 container",
			},
			`machine.slice machine-qemu\x2d1\x2dWin10.scope`,
		},
		{
			"the emulator thread of a virtual machine", "public kernel sched_debug dump",
			`/machine.slice/machine-qemu\x2d1\x2dinstance\x2d0000001d.scope/emulator`,
			[]string{
				"vm libvirt qemu-1-instance-0000001d @1 sub",
			},
			`machine.slice machine-qemu\x2d1\x2dinstance\x2d0000001d.scope`,
		},
		{
			"libvirt's LXC driver without machined", "systemd/systemd#13629",
			"/machine/lxc-1268-sl.libvirt-lxc",
			nil,
			"",
		},
		{
			"a service of the host", "canonical/microk8s#1418",
			"/system.slice/snap.microk8s.daemon-kubelet.service",
			nil,
			"system.slice snap.microk8s.daemon-kubelet.service",
		},
		{
			"a template service", "xapi-project/xen-api#6150",
			"/vm.slice/qemu-datapath@199.service",
			nil,
			"vm.slice qemu-datapath@199.service",
		},
		{
			"a login session", "netdata/netdata#329",
			"/user.slice/user-0.slice/session-1911.scope",
			nil,
			"user-0.slice session-1911.scope 0",
		},
		{
			"a terminal", "podman-container-tools/podman#20910",
			"/user.slice/user-10000.slice/user@10000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-f22f14d2-3d44-4304-9879-3fdd0df7b08e.scope",
			nil,
			"user-10000.slice user@10000.service 10000 app-org.gnome.Terminal.slice vte-spawn-f22f14d2-3~8e.scope",
		},
		{
			"a slice itself", "kontena/pharos-cluster#440",
			"/system.slice",
			nil,
			"system.slice",
		},
		{
			"the host's init", "podman-container-tools/podman#20073",
			"/init.scope",
			nil,
			"- init.scope",
		},
		{
			"a systemd that is not in the root", "moby/moby#53531",
			"/wsl-user/distro-0/systemd/user.slice/user-1000.slice",
			nil,
			"",
		},
	}
}
