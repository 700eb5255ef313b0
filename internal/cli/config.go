// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/pidigree/pidigree/internal/plain"
	"github.com/pidigree/pidigree/pkg/agent"
	"github.com/pidigree/pidigree/pkg/workload"
)

// AgentConfig is every setting of the agent. Its defaults, names and checks are
// in the table of settings.go; docs/configuration.md is made from that.
type AgentConfig struct {
	// Socket is the unix socket that the agent serves and that the commands ask.
	Socket string
	// SocketGroup is the group that may connect, besides root; empty for root only.
	SocketGroup string
	// Others is "none", "self" or "own".
	Others string
	// OthersLabels are patterns for keys of labels.
	OthersLabels []string
	// CommandLines is "own" or "all".
	CommandLines string

	// ProcFS, SysFS and CgroupRoot are where the host's file systems are mounted.
	ProcFS     string
	SysFS      string
	CgroupRoot string
	// RunDir is the host's /run, below which runtimes keep their state.
	RunDir string

	// DockerHosts are the engines' sockets, DockerRoot Docker's data directory.
	DockerHosts []string
	DockerRoot  string
	// NestedDockerHosts are the sockets of Docker engines that run in containers.
	NestedDockerHosts []string
	// NestedContainerdAddresses are the sockets of containerds that run in containers.
	NestedContainerdAddresses []string
	// ContainerdAddresses are containerd's sockets.
	ContainerdAddresses []string
	// CRIEndpoints are the sockets of engines that the kubelet uses.
	CRIEndpoints []string
	// PodmanRoots are the storage directories of root's podman, or "auto" alone.
	PodmanRoots []string
	// PodmanUsers is "auto" or "off".
	PodmanUsers string
	// SystemdSocket is a D-Bus socket, "auto" or "none".
	SystemdSocket string
	// LXCPaths are the directories of root's LXC containers.
	LXCPaths []string
	// TLS is for those who ask from other hosts, and for asking an agent on another one.
	TLS agent.TLS
	// RemoteAddress is where another pidigree is, RemoteCopy "on" or "off".
	RemoteAddress, RemoteCopy string
	// IncusSockets are those of Incus and LXD.
	IncusSockets []string
	// MachinesDir is systemd-machined's directory, "auto" or "none".
	MachinesDir string
	// OCIRoots are state directories of runc, crun and youki beyond the usual ones.
	OCIRoots []string
	// Kubelet says where the kubelet is and who asks.
	Kubelet agent.Kubelet
	// ECS says where the ECS agent is and what is asked of it.
	ECS agent.ECS
	// ECSTags is "on" or "off".
	ECSTags string

	// Include and Exclude decide which containers and pods are shown.
	Include, Exclude workload.Filter
	// Access is for the containers that may ask everything.
	Access workload.Filter

	// BPF is "auto" or "off".
	BPF string
	// DisablePrograms names BPF programs that are not loaded; for tests.
	DisablePrograms []string
	// PollInterval is how often the poller reads /proc where BPF cannot be used.
	PollInterval time.Duration

	// Images is "on", or "off" to leave out the images that the engines store.
	Images string

	// Grace is how long what is gone stays answerable.
	Grace time.Duration
	// StateDir is where what is gone is kept across restarts of the agent:
	// empty for the socket's directory, "none" for nowhere.
	StateDir string
	// EnvAllow names the environment variables of containers that are kept.
	EnvAllow []string
	// Nice is the priority that the agent gives itself; 0 leaves it as it is.
	Nice int

	// MetricsAddress is where Prometheus metrics are served; empty for nowhere.
	MetricsAddress string
	// LogLevel is debug, info, warn or error; LogFormat text or json.
	LogLevel  string
	LogFormat string
}

// stateDir is where state is kept, empty for nowhere.
func (c AgentConfig) stateDir() string {
	switch c.StateDir {
	case "":
		return filepath.Dir(c.Socket)
	case noStateDir:
		return ""
	}
	return c.StateDir
}

// Logger makes the logger that the settings ask for. What is quoted there may
// come from a container: slog quotes values, and what a terminal would act on
// that slog leaves as it is is spelled out.
func (c AgentConfig) Logger(w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		level = slog.LevelInfo // only a config that was not checked gets here
	}
	opts := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(plainJSONWriter{w}, opts))
	}
	return slog.New(slog.NewTextHandler(&plain.Writer{Out: w}, opts))
}
