// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pidigree/pidigree/internal/filter"
	"github.com/pidigree/pidigree/pkg/agent"
	"github.com/pidigree/pidigree/pkg/workload"
)

// A setting is one line of the table that flags, variables, the configuration
// file and docs/configuration.md are made from.
type setting struct {
	// key is the dotted path in the configuration file. The flag and the
	// variable follow from it: docker.host, --docker-host, PIDIGREE_DOCKER_HOST.
	key string
	// field points to where the value lives: *string, *[]string, *int or *time.Duration.
	field func(*AgentConfig) any
	// value is the default, as it would be typed; the elements of a list are separated by commas.
	value string
	// arg is what the flag's help calls the value.
	arg string
	// help is one line, and more says what one line cannot (Markdown, for the docs).
	help, more string
	// oneOf lists the only values allowed, if there are so few.
	oneOf []string
	// check looks at the parsed value. Its error says what is wrong and what would be right.
	check func(*AgentConfig) error
}

func (s setting) flag() string { return strings.ReplaceAll(s.key, ".", "-") }

func (s setting) env() string {
	return "PIDIGREE_" + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(s.key))
}

// settings is the table, in the order of the documentation.
func settings() []setting {
	return slices.Concat(socketSettings(), hostSettings(), sourceSettings(), kubeletSettings(), ecsSettings(), filterSettings(), kernelSettings(), runSettings())
}

func socketSettings() []setting {
	return []setting{
		{
			key: "socket", value: "/run/pidigree/pidigree.sock", arg: "PATH",
			field: func(c *AgentConfig) any { return &c.Socket },
			help:  "unix socket of the agent",
			more:  "The agent makes its directory (mode 0750) and the socket (0660); the other commands ask there. They also take `tls://HOST:PORT`, for an agent on another host whose `tls.listen` that is; they need `tls.cert`, `tls.key` and `tls.ca` then.",
			check: func(c *AgentConfig) error { return checkAgentAt(c.Socket) },
		},
		{
			key: "socket-group", arg: "GROUP",
			field: func(c *AgentConfig) any { return &c.SocketGroup },
			help:  "group, by name or number, that may ask the agent besides root",
			more:  "Whoever may ask learns the names, images and labels of every container on the host.",
		},
		{
			key: "others", value: "none", arg: "WHAT", oneOf: []string{"none", "self", "own"},
			field: func(c *AgentConfig) any { return &c.Others },
			help:  "what users may ask who are neither root nor in socket-group: none, self or own",
			more: "`self` and `own` open the socket to every user (0666, its directory 0755). With `self` a process may ask about itself alone; " +
				"with `own` also, by PID, about the living processes whose real, effective and saved user is its own. " +
				"Of their workloads it sees no environment variable, and of labels, annotations and tags those alone that `others-labels` names. Lists, streams and `status` stay denied.",
		},
		{
			key: "others-labels", arg: "PATTERN",
			field: func(c *AgentConfig) any { return &c.OthersLabels },
			help:  "keys of the labels, annotations and tags that such users see",
			more:  "With `others: own`. Labels can hold secrets, so none is shown unless its key matches. `*` is any characters, `?` one, `[a-z]` one of them. What a process is told of itself has all labels.",
			check: func(c *AgentConfig) error {
				_, err := filter.NewKeys(c.OthersLabels)
				return err
			},
		},
		{
			key: "tls.cert", arg: "FILE",
			field: func(c *AgentConfig) any { return &c.TLS.Certificate },
			help:  "certificate of this end, in PEM",
			more:  "Of the agent, for `tls.listen`; of the caller, for `--socket tls://HOST:PORT`. Read again when it changes; what cannot be read leaves the one from before in force.",
		},
		{
			key: "tls.key", arg: "FILE",
			field: func(c *AgentConfig) any { return &c.TLS.Key },
			help:  "key of the certificate",
			more:  "Read again with it.",
		},
		{
			key: "tls.ca", arg: "FILE",
			field: func(c *AgentConfig) any { return &c.TLS.CA },
			help:  "authority that vouches for the other end, in PEM",
			more:  "It is the only one that is believed; use one that signs for nothing else, or `tls.allow`. Read again when it changes.",
		},
		{
			key: "tls.allow", arg: "NAME",
			field: func(c *AgentConfig) any { return &c.TLS.Allow },
			help:  "names of which a caller's certificate has to have one",
			more:  "Its DNS names, its URIs (`spiffe://...`) and its common name count, whole. Empty: every certificate that `tls.ca` vouches for.",
		},
		{
			key: "tls.listen", arg: "HOST:PORT",
			field: func(c *AgentConfig) any { return &c.TLS.Listen },
			help:  "where other hosts may ask the agent, by TLS alone; empty: nowhere",
			more:  "TLS 1.3, with a certificate on both sides. Whoever is let in may ask everything that the group of the socket may. `:7443` is every address of the host. Needs `tls.cert`, `tls.key` and `tls.ca`.",
			check: func(c *AgentConfig) error { return checkListen(c.TLS.Listen) },
		},
		{
			key: "remote.address", arg: "ADDRESS",
			field: func(c *AgentConfig) any { return &c.RemoteAddress },
			help:  "another pidigree that is a source of this one: its socket, or tls://HOST:PORT; empty: none",
			more: "What it knows and this host's own sources do not is in lists, streams and answers as of the source `remote`, and never in place of what they say. " +
				"Processes are taken only where PIDs mean the same: in the same boot and PID namespace. Of another host come containers, pods, tasks and images. " +
				"While it is away, what it has said of the living is marked as stale. Over TLS it needs `tls.cert`, `tls.key` and `tls.ca`.",
			check: func(c *AgentConfig) error {
				if c.RemoteAddress == "" {
					return nil
				}
				return checkAgentAt(c.RemoteAddress)
			},
		},
		{
			key: "remote.copy", value: "off", arg: "WHEN", oneOf: []string{"on", "off"},
			field: func(c *AgentConfig) any { return &c.RemoteCopy },
			help:  "be a copy of the pidigree at remote.address, and nothing else",
			more: "The agent then looks at nothing of its own host, needs no privileges, and answers about the other one's PIDs: for an unprivileged tool, a container, a gateway. " +
				"It answers from what it was told: not about who asks (`who self`), not about the past (`--at`), and it tells who may ask by user and group, and keeps out PID namespaces below its own.",
			check: func(c *AgentConfig) error {
				if c.RemoteCopy == "on" && c.RemoteAddress == "" {
					return fmt.Errorf("needs remote.address: what to be a copy of")
				}
				return nil
			},
		},
		{
			key: "command-lines", value: "own", arg: "WHOSE", oneOf: []string{"own", "all"},
			field: func(c *AgentConfig) any { return &c.CommandLines },
			help:  "whose command lines those see who may ask and are not root: own or all",
			more:  "A command line may hold secrets. Root sees all of them; `own` shows others those of processes of their own user, `all` shows them every one.",
		},
	}
}

func hostSettings() []setting {
	return []setting{
		{
			key: "procfs", value: "/proc", arg: "DIR",
			field: func(c *AgentConfig) any { return &c.ProcFS },
			help:  "where the host's proc file system is mounted",
			more:  "It must be that of the initial PID namespace: in a container, mount the host's `/proc` and name it here.",
			check: func(c *AgentConfig) error { return checkAbs(c.ProcFS) },
		},
		{
			key: "sysfs", value: "/sys", arg: "DIR",
			field: func(c *AgentConfig) any { return &c.SysFS },
			help:  "where the host's sys file system is mounted",
			check: func(c *AgentConfig) error { return checkAbs(c.SysFS) },
		},
		{
			key: "cgroup-root", value: "/sys/fs/cgroup", arg: "DIR",
			field: func(c *AgentConfig) any { return &c.CgroupRoot },
			help:  "where the host's cgroup hierarchies are mounted",
			check: func(c *AgentConfig) error { return checkAbs(c.CgroupRoot) },
		},
		{
			key: "run-dir", value: "/run", arg: "DIR",
			field: func(c *AgentConfig) any { return &c.RunDir },
			help:  "the host's /run, below which runtimes keep their state",
			check: func(c *AgentConfig) error { return checkAbs(c.RunDir) },
		},
	}
}

func sourceSettings() []setting {
	return []setting{
		{
			key: "docker.host", value: "/run/docker.sock", arg: "SOCKET",
			field: func(c *AgentConfig) any { return &c.DockerHosts },
			help:  "sockets of Docker engines",
			more:  "An engine that is not there is no error; it is found when it appears. An empty list turns the source off.",
			check: func(c *AgentConfig) error { return checkSockets(c.DockerHosts) },
		},
		{
			key: "docker.root", arg: "DIR",
			field: func(c *AgentConfig) any { return &c.DockerRoot },
			help:  "Docker's data directory (dockerd --data-root)",
			more:  "Docker writes a container's name, image and labels there before it starts it. Empty: what the engine says.",
			check: func(c *AgentConfig) error { return checkAbsOrEmpty(c.DockerRoot) },
		},
		{
			key: "docker.nested", arg: "SOCKET",
			field: func(c *AgentConfig) any { return &c.NestedDockerHosts },
			help:  "sockets of Docker engines that run in containers",
			more:  "By paths of the host: that of a volume, or below `/proc/PID/root`. Such an engine is believed about the containers in its own container, and nothing else: which one that is, the kernel says (`SO_PEERPIDFD`, Linux 6.5). Its containers are inner links of the chain; what it does not tell stays the outer container's.",
			check: func(c *AgentConfig) error {
				return checkNested(c.NestedDockerHosts, c.DockerHosts, "docker.host")
			},
		},
		{
			key: "containerd.address", value: "/run/containerd/containerd.sock,/run/docker/containerd/containerd.sock", arg: "SOCKET",
			field: func(c *AgentConfig) any { return &c.ContainerdAddresses },
			help:  "sockets of containerd",
			more:  "The second default is the containerd that dockerd starts where the distribution's own does not run.",
			check: func(c *AgentConfig) error { return checkSockets(c.ContainerdAddresses) },
		},
		{
			key: "containerd.nested", arg: "SOCKET",
			field: func(c *AgentConfig) any { return &c.NestedContainerdAddresses },
			help:  "sockets of containerds that run in containers, as in a node of kind's",
			more:  "As with `docker.nested`. Of a node of kind's: `/proc/PID/root/run/containerd/containerd.sock`, where `docker inspect --format '{{.State.Pid}}' NODE` gives the PID. Where Docker runs in a container, give its own socket and not that of its containerd: whoever comes first names a container.",
			check: func(c *AgentConfig) error {
				return checkNested(c.NestedContainerdAddresses, c.ContainerdAddresses, "containerd.address")
			},
		},
		{
			key: "cri.endpoints", value: "/run/containerd/containerd.sock,/run/crio/crio.sock,/run/k3s/containerd/containerd.sock,/run/cri-dockerd.sock", arg: "SOCKET",
			field: func(c *AgentConfig) any { return &c.CRIEndpoints },
			help:  "sockets of engines that the kubelet uses: containerd, CRI-O, cri-dockerd",
			more:  "Which engine it is, it says itself; it needs `runtime.v1` of the CRI. One that is not there, or has no CRI, is no error. An empty list turns the source off.",
			check: func(c *AgentConfig) error { return checkSockets(c.CRIEndpoints) },
		},
		{
			key: "podman.roots", value: "auto", arg: "DIR",
			field: func(c *AgentConfig) any { return &c.PodmanRoots },
			help:  "storage directories of root's podman (podman --root)",
			more:  "`auto` is the `graphroot` of `/etc/containers/storage.conf`, or of the one in `/usr/share/containers`, as it is when the agent starts; without one `/var/lib/containers/storage`. Podman has no daemon: its database is read where it lies, without a lock. A directory that is not there is no error. An empty list turns the source off.",
			check: func(c *AgentConfig) error {
				if slices.Equal(c.PodmanRoots, []string{"auto"}) {
					return nil
				}
				return checkAbs(c.PodmanRoots...)
			},
		},
		{
			key: "podman.users", value: "auto", arg: "MODE", oneOf: []string{"auto", "off"},
			field: func(c *AgentConfig) any { return &c.PodmanUsers },
			help:  "auto reads the podmans of users who are not root as well; off does not",
			more:  "They are found by the conmons that run and in `/home`. What a user's podman says counts for processes of his own alone, and is joined with nobody else's.",
		},
		{
			key: "lxc.paths", value: "/var/lib/lxc", arg: "DIR",
			field: func(c *AgentConfig) any { return &c.LXCPaths },
			help:  "directories of root's LXC containers (lxc.lxcpath)",
			more:  "The ones that run are found by their monitors. A directory that is not there is no error. An empty list turns the source off.",
			check: func(c *AgentConfig) error { return checkAbs(c.LXCPaths...) },
		},
		{
			key: "incus.sockets", value: "/var/lib/incus/unix.socket,/var/lib/lxd/unix.socket", arg: "SOCKET",
			field: func(c *AgentConfig) any { return &c.IncusSockets },
			help:  "sockets of Incus and LXD, for their containers",
			more:  "One whose path does not name incus is LXD's. What runs is found by its monitors, in the directory that the socket is in; the rest the server says. One that is not there is no error. An empty list turns the source off. Not the socket of the LXD that is a snap: its monitors cannot be told from what a container could make.",
			check: func(c *AgentConfig) error { return checkSockets(c.IncusSockets) },
		},
		{
			key: "nspawn.machines", value: "auto", arg: "DIR",
			field: func(c *AgentConfig) any { return &c.MachinesDir },
			help:  "systemd-machined's directory, for systemd-nspawn's containers; auto or none",
			more:  "`auto` is `systemd/machines` below `run-dir`. A file there that is no machine's is counted, and the others are read.",
			check: func(c *AgentConfig) error {
				if c.MachinesDir == "auto" || c.MachinesDir == "none" {
					return nil
				}
				return checkAbs(c.MachinesDir)
			},
		},
		{
			key: "images", value: "on", arg: "MODE", oneOf: []string{"on", "off"},
			field: func(c *AgentConfig) any { return &c.Images },
			help:  "on lists the images that the engines store; off does not",
			more:  "They are listed after the containers, half a second after an engine says that they have changed, and every five minutes. No container waits for them, and a start asks nothing about them.",
		},
		{
			key: "systemd.socket", value: "auto", arg: "SOCKET",
			field: func(c *AgentConfig) any { return &c.SystemdSocket },
			help:  "D-Bus socket at which systemd is asked about its units; auto or none",
			more:  "Which unit a process is in is read from its cgroup; systemd adds the description, the state, the invocation id and the main process. `auto` is systemd's own socket below `run-dir`, which is for root, and where that may not be opened the system bus.",
			check: func(c *AgentConfig) error {
				if c.SystemdSocket == "auto" || c.SystemdSocket == "none" {
					return nil
				}
				return checkAbs(c.SystemdSocket)
			},
		},
		{
			key: "oci.roots", arg: "DIR",
			field: func(c *AgentConfig) any { return &c.OCIRoots },
			help:  "state directories of runc, crun and youki besides the usual ones",
			more:  "What `runc --root` was given. The usual ones below `run-dir` are always read.",
			check: func(c *AgentConfig) error { return checkAbs(c.OCIRoots...) },
		},
		{
			key: "env-allow", arg: "NAME",
			field: func(c *AgentConfig) any { return &c.EnvAllow },
			help:  "environment variables of containers to keep",
			more:  "Environments hold secrets, so none is kept unless it is named here.",
		},
	}
}

// filterSettings: their documentation hangs at the first one.
func filterSettings() []setting {
	each := func(list []string, check func(string) error) error {
		for _, p := range list {
			if err := check(p); err != nil {
				return fmt.Errorf("%q %w", p, err)
			}
		}
		return nil
	}
	row := func(key, arg string, text filterText, field func(*AgentConfig) *[]string, check func(string) error) setting {
		return setting{
			key: key, arg: arg, help: text.help, more: text.more,
			field: func(c *AgentConfig) any { return field(c) },
			check: func(c *AgentConfig) error { return each(*field(c), check) },
		}
	}
	rows := func(prefix string, of func(*AgentConfig) *workload.Filter, name, image, namespace, label filterText) []setting {
		return []setting{
			row(prefix+".name", "PATTERN", name, func(c *AgentConfig) *[]string { return &of(c).Names }, filter.CheckPattern),
			row(prefix+".image", "PATTERN", image, func(c *AgentConfig) *[]string { return &of(c).Images }, filter.CheckPattern),
			row(prefix+".namespace", "PATTERN", namespace, func(c *AgentConfig) *[]string { return &of(c).Namespaces }, filter.CheckPattern),
			row(prefix+".label", "KEY=VALUE", label, func(c *AgentConfig) *[]string { return &of(c).Labels }, filter.CheckLabel),
		}
	}
	return slices.Concat(
		rows("include", func(c *AgentConfig) *workload.Filter { return &c.Include },
			filterText{"names of the containers and pods to show; none for all", filterMore},
			filterText{"images of the containers to show", "With or without the tag; `nginx` also means `docker.io/library/nginx`."},
			filterText{"namespaces of what to show: the pod's, or containerd's where there is no pod", ""},
			filterText{"labels of what to show, or KEY alone", "Both sides are patterns. The labels of a pod count as those of its containers."}),
		rows("exclude", func(c *AgentConfig) *workload.Filter { return &c.Exclude },
			filterText{"names of the containers and pods to hide", ""},
			filterText{"images of the containers to hide", ""},
			filterText{"namespaces of what to hide", ""},
			filterText{"labels of what to hide, or KEY alone", ""}),
		rows("access", func(c *AgentConfig) *workload.Filter { return &c.Access },
			filterText{"names of the containers that may ask everything at the socket", accessMore},
			filterText{"images of the containers that may ask everything", ""},
			filterText{"namespaces of the containers that may ask everything", ""},
			filterText{"labels of the containers that may ask everything, or KEY alone", ""}),
	)
}

// filterText documents one part of a filter.
type filterText struct{ help, more string }

const accessMore = "A process in a container to which the socket is mounted may ask only about itself, root or not; one in a container that all of the `access` keys that are set match may ask what its user may. Patterns are those of `include`. " +
	"Whoever starts containers chooses their names and labels: grant by a namespace that only its administrators can use. The agent's own container needs no grant."

const filterMore = "A pattern is for the whole text: `*` is any characters, `?` one, `[a-z]` one of them. A filter matches where each of its keys that is set does, " +
	"and a key where one of its patterns does; what nobody has said matches nothing. An ECS task is matched by its family or service, its cluster for a namespace, and its tags for labels. What `include` does not match, or `exclude` does, is in no list and no stream. " +
	"Filters change no identity: a process of a hidden container is answered with that container's id, state and run, marked `filtered`, and never as the host's. They keep lists short, not secrets."

func ecsSettings() []setting {
	return []setting{
		{
			key: "ecs.address", arg: "URL",
			field: func(c *AgentConfig) any { return &c.ECS.Address },
			help:  "introspection of this instance's ECS agent, http://HOST:PORT; none to ask none",
			more: "Empty: `http://127.0.0.1:51678`, and where nobody listens there the task metadata endpoint of the agent's own container, which on Fargate tells of its own task, " +
				"and to a daemon of all tasks. Only addresses of this host are asked.",
			check: func(c *AgentConfig) error { return checkECS(c.ECS.Address) },
		},
		{
			key: "ecs.metadata", arg: "URL",
			field: func(c *AgentConfig) any { return &c.ECS.Metadata },
			help:  "where the tasks' metadata endpoints are, http://HOST[:PORT]",
			more: "Empty: `http://169.254.170.2`, which the ECS agent redirects to itself. The path of an endpoint is read from the environment of a task's container, " +
				"from which nothing else is taken.",
			check: func(c *AgentConfig) error { return checkECS(c.ECS.Metadata) },
		},
		{
			key: "ecs.tags", value: "off", arg: "WHEN", oneOf: []string{"on", "off"},
			field: func(c *AgentConfig) any { return &c.ECSTags },
			help:  "ask for the tags of tasks and of their container instance",
			more:  "The ECS agent then asks AWS, whose limit on such calls is the account's; the instance's role needs `ecs:ListTagsForResource`.",
		},
	}
}

func kubeletSettings() []setting {
	return []setting{
		{
			key: "kubelet.address", arg: "URL",
			field: func(c *AgentConfig) any { return &c.Kubelet.Address },
			help:  "this node's kubelet: https://HOST:PORT or http://HOST:PORT; none to ask none",
			more: "HTTP is for its read-only port. Empty: what the kubelet's process was started with (`--config`, `--port`, `--read-only-port`, `--address`; not the drop-ins of `--config-dir`), the read-only port first. " +
				"Without TLS only an address of this host is asked. k3s and others that have the kubelet inside of another process are not found: name the address.",
			check: func(c *AgentConfig) error { return checkKubelet(c.Kubelet.Address) },
		},
		{
			key: "kubelet.ca", arg: "FILE",
			field: func(c *AgentConfig) any { return &c.Kubelet.CA },
			help:  "certificates by which the kubelet's is verified: its authority's, or its own",
			more: "Empty: the kubelet's serving certificate on file, the authority of its kubeconfig, and that of the agent's service account. " +
				"There is no setting that skips the check.",
			check: func(c *AgentConfig) error { return checkAbsOrEmpty(c.Kubelet.CA) },
		},
		{
			key: "kubelet.server-name", arg: "NAME",
			field: func(c *AgentConfig) any { return &c.Kubelet.ServerName },
			help:  "name that the kubelet's certificate must have",
			more:  "Empty: the node's name (`--hostname-override`, or the host's), or the address.",
		},
		{
			key: "kubelet.token", arg: "FILE",
			field: func(c *AgentConfig) any { return &c.Kubelet.Token },
			help:  "bearer token to show to the kubelet",
			more: "Read anew for each call. Empty, and no certificate either: the token of the agent's service account, where it runs in a pod; else the certificate of the kubelet's own kubeconfig; else none. " +
				"Who asks needs `get` on `nodes/pods`, before Kubernetes 1.33 on `nodes/proxy`.",
			check: func(c *AgentConfig) error { return checkAbsOrEmpty(c.Kubelet.Token) },
		},
		{
			key: "kubelet.certificate", arg: "FILE",
			field: func(c *AgentConfig) any { return &c.Kubelet.Certificate },
			help:  "client certificate to show to the kubelet",
			more:  "Comes before a token. Read anew for each call.",
			check: func(c *AgentConfig) error { return checkAbsOrEmpty(c.Kubelet.Certificate) },
		},
		{
			key: "kubelet.key", arg: "FILE",
			field: func(c *AgentConfig) any { return &c.Kubelet.Key },
			help:  "key of the client certificate",
			more:  "Empty: it is in the certificate's file.",
			check: func(c *AgentConfig) error { return checkAbsOrEmpty(c.Kubelet.Key) },
		},
	}
}

func kernelSettings() []setting {
	programs := []string{"fork", "exec", "exit", "cgroup_mkdir", "cgroup_rmdir", "cgroup_attach"}
	return []setting{
		{
			key: "bpf", value: "auto", arg: "MODE", oneOf: []string{"auto", "off"},
			field: func(c *AgentConfig) any { return &c.BPF },
			help:  "auto uses BPF where it loads; off polls /proc",
		},
		{
			key: "disable-programs", arg: "NAME",
			field: func(c *AgentConfig) any { return &c.DisablePrograms },
			help:  "BPF programs not to load, for tests",
			more:  "Any of `" + strings.Join(programs, "`, `") + "`. Answers stay right, they only come later.",
			check: func(c *AgentConfig) error { return checkEach(c.DisablePrograms, programs) },
		},
		{
			key: "poll-interval", value: "1s", arg: "DURATION",
			field: func(c *AgentConfig) any { return &c.PollInterval },
			help:  "how often /proc is read where BPF is not used",
			check: func(c *AgentConfig) error { return checkDuration(c.PollInterval, 10*time.Millisecond, time.Hour) },
		},
	}
}

func runSettings() []setting {
	return []setting{
		{
			key: "grace", value: "5m", arg: "DURATION",
			field: func(c *AgentConfig) any { return &c.Grace },
			help:  "how long processes and containers stay answerable after their end",
			check: func(c *AgentConfig) error { return checkDuration(c.Grace, 0, 24*time.Hour) },
		},
		{
			key: "state-dir", arg: "DIR",
			field: func(c *AgentConfig) any { return &c.StateDir },
			help:  "where what has ended is kept across restarts of the agent; none for nowhere",
			more: "Empty: the socket's directory, so `/run/pidigree`. One file, `tombstones`, readable by root alone; it means nothing after a reboot. " +
				"Nobody but root may be able to write to the directory: mount it into containers read-only.",
			check: func(c *AgentConfig) error { return checkStateDir(c.StateDir) },
		},
		{
			key: "nice", value: "-10", arg: "N",
			field: func(c *AgentConfig) any { return &c.Nice },
			help:  "priority that the agent gives itself, -20 (most) to 19; 0 changes nothing",
			more: "On a busy host an agent of equal priority waits for a CPU while the container starts. Without CAP_SYS_NICE the agent says so and runs on. " +
				"A kernel that schedules sessions as groups (`sched_autogroup_enabled`) compares these first: an agent that leads its session, as a service does, gives the group the same priority. " +
				"Where cgroups have CPU weights, it is that of the agent's cgroup which counts among them: `CPUWeight=` of its unit.",
			check: func(c *AgentConfig) error { return checkRange(c.Nice, -20, 19) },
		},
		{
			key: "metrics-address", arg: "HOST:PORT",
			field: func(c *AgentConfig) any { return &c.MetricsAddress },
			help:  "loopback address to serve Prometheus metrics on; empty for none",
			check: func(c *AgentConfig) error { return checkLoopback(c.MetricsAddress) },
		},
		{
			key: "log-level", value: "info", arg: "LEVEL", oneOf: []string{"debug", "info", "warn", "error"},
			field: func(c *AgentConfig) any { return &c.LogLevel },
			help:  "least level to log: debug, info, warn or error",
		},
		{
			key: "log-format", value: "text", arg: "FORMAT", oneOf: []string{"text", "json"},
			field: func(c *AgentConfig) any { return &c.LogFormat },
			help:  "how to log on standard error: text or json",
		},
	}
}

// parse puts texts into the field; only a list takes more or fewer than one.
func (s setting) parse(c *AgentConfig, texts []string) error {
	field := s.field(c)
	if list, ok := field.(*[]string); ok {
		*list = texts
		return s.accept(c, texts)
	}
	if len(texts) != 1 {
		return fmt.Errorf("needs one value, got %d", len(texts))
	}
	text := texts[0]
	switch f := field.(type) {
	case *string:
		*f = text
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		*f = n
	case *time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration; write 500ms, 30s or 5m", text)
		}
		*f = d
	default:
		panic(fmt.Sprintf("setting %s has a field of type %T", s.key, field))
	}
	return s.accept(c, texts)
}

func (s setting) accept(c *AgentConfig, texts []string) error {
	for _, t := range texts {
		if err := s.acceptText(t); err != nil {
			return err
		}
	}
	if s.check == nil {
		return nil
	}
	return s.check(c)
}

func (s setting) acceptText(text string) error {
	if s.oneOf != nil && !slices.Contains(s.oneOf, text) {
		return fmt.Errorf("%q is not one of %s", text, strings.Join(s.oneOf, ", "))
	}
	if i := strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
		return fmt.Errorf("%q has a control character", text)
	}
	return nil
}

// split cuts what a flag or a variable says into the texts that parse takes.
func (s setting) split(text string) []string {
	if _, list := s.field(new(AgentConfig)).(*[]string); !list {
		return []string{text}
	}
	return splitList(text)
}

func splitList(text string) []string {
	var out []string
	for e := range strings.SplitSeq(text, ",") {
		if e = strings.TrimSpace(e); e != "" {
			out = append(out, e)
		}
	}
	return out
}

// text gives the value as a flag would take it.
func (s setting) text(c *AgentConfig) string {
	switch f := s.field(c).(type) {
	case *[]string:
		return strings.Join(*f, ",")
	case *string:
		return *f
	case *int:
		return strconv.Itoa(*f)
	case *time.Duration:
		return shortDuration(*f)
	default:
		panic(fmt.Sprintf("setting %s has a field of type %T", s.key, f))
	}
}

// kind names the type for the documentation.
func (s setting) kind() string {
	switch s.field(new(AgentConfig)).(type) {
	case *[]string:
		return "list"
	case *int:
		return "number"
	case *time.Duration:
		return "duration"
	}
	return "text"
}

// shortDuration is Duration.String without the zero units at its end.
func shortDuration(d time.Duration) string {
	t := d.String()
	if strings.HasSuffix(t, "m0s") {
		t = strings.TrimSuffix(t, "0s")
	}
	if strings.HasSuffix(t, "h0m") {
		t = strings.TrimSuffix(t, "0m")
	}
	return t
}

func checkAbs(paths ...string) error {
	for _, p := range paths {
		if !filepath.IsAbs(p) {
			return fmt.Errorf("%q is not an absolute path", p)
		}
	}
	return nil
}

func checkAbsOrEmpty(path string) error {
	if path == "" {
		return nil
	}
	return checkAbs(path)
}

// noStateDir is the state directory of an agent that keeps nothing.
const noStateDir = "none"

func checkStateDir(path string) error {
	if path == noStateDir {
		return nil
	}
	return checkAbsOrEmpty(path)
}

// maxSocketPath is what fits sockaddr_un.sun_path with its final NUL.
const maxSocketPath = 107

func checkSocketPath(path string) error {
	if len(path) > maxSocketPath {
		return fmt.Errorf("%q is longer than the %d bytes that a unix socket's path can have", path, maxSocketPath)
	}
	return checkAbs(path)
}

// checkAgentAt accepts a path, and tls://HOST:PORT.
func checkAgentAt(socket string) error {
	address, ok := strings.CutPrefix(socket, overTLS)
	if !ok {
		return checkSocketPath(socket)
	}
	if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
		return fmt.Errorf("%q is not tls://HOST:PORT", socket)
	}
	return nil
}

// checkListen accepts HOST:PORT, :PORT and nothing.
func checkListen(address string) error {
	if _, port, err := net.SplitHostPort(address); address != "" && (err != nil || port == "") {
		return fmt.Errorf("%q is not HOST:PORT", address)
	}
	return nil
}

// checkSockets accepts paths, with or without unix://.
func checkSockets(list []string) error {
	for _, s := range list {
		path := strings.TrimPrefix(s, "unix://")
		if strings.Contains(path, "://") {
			return fmt.Errorf("%q is not a unix socket; pidigree only asks engines of its own host", s)
		}
		if err := checkSocketPath(path); err != nil {
			return err
		}
	}
	return nil
}

// checkECS looks at the form; what a host and a port are, its collector says.
func checkECS(address string) error {
	if address == "" || address == agent.NoECS || strings.HasPrefix(address, "http://") {
		return nil
	}
	return fmt.Errorf("%q is not http://HOST:PORT; write http://127.0.0.1:51678", address)
}

// checkNested keeps one engine from being both on the host, where key has it, and in
// a container.
func checkNested(nested, host []string, key string) error {
	for _, s := range nested {
		if slices.ContainsFunc(host, func(h string) bool { return socketPath(h) == socketPath(s) }) {
			return fmt.Errorf("%q is also a socket of %s; an engine runs on the host or in a container", s, key)
		}
	}
	return checkSockets(nested)
}

// socketPath is how two names of one socket are compared.
func socketPath(s string) string { return filepath.Clean(strings.TrimPrefix(s, "unix://")) }

// checkKubelet looks at the form; what a host and a port are, its collector says.
func checkKubelet(address string) error {
	if address == "" || address == agent.NoKubelet || strings.HasPrefix(address, "https://") || strings.HasPrefix(address, "http://") {
		return nil
	}
	return fmt.Errorf("%q is not https://HOST:PORT, nor http://HOST:PORT for a read-only port; write https://127.0.0.1:10250", address)
}

func checkEach(list, allowed []string) error {
	for _, e := range list {
		if !slices.Contains(allowed, e) {
			return fmt.Errorf("%q is not one of %s", e, strings.Join(allowed, ", "))
		}
	}
	return nil
}

func checkDuration(d, least, most time.Duration) error {
	if d < least || d > most {
		return fmt.Errorf("%s is not between %s and %s", shortDuration(d), shortDuration(least), shortDuration(most))
	}
	return nil
}

func checkRange(n, least, most int) error {
	if n < least || n > most {
		return fmt.Errorf("%d is not between %d and %d", n, least, most)
	}
	return nil
}

// checkLoopback keeps the metrics, which nobody has to log in for, on the host.
func checkLoopback(addr string) error {
	if addr == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not HOST:PORT; write 127.0.0.1:9464", addr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || (n == 0 && port != "0") {
		return fmt.Errorf("%q is not a port", port)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("%q is not a loopback address; write 127.0.0.1:%s", host, port)
	}
	return nil
}
