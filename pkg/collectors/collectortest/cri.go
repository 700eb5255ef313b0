// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PauseImage is what the sandboxes of StartCRI run.
const PauseImage = "registry.test/pause:1"

// CRI is a containerd with its CRI plugin, used as the kubelet uses it. Its
// containers are in the namespace k8s.io, their runc's state in RuncRoot/k8s.io.
type CRI struct {
	*Containerd
	// Runtime and Images are the services, for what has no method here.
	Runtime runtimeapi.RuntimeServiceClient
	Images  runtimeapi.ImageServiceClient
	// Subnet is where pods with a network of their own get addresses: "10.231.7.".
	Subnet string

	bridge string
}

// A PodConfig is a pod to be made.
type PodConfig struct {
	Name, Namespace, UID string
	Attempt              uint32
	// Labels and Annotations are the pod's own; the kubelet's are added.
	Labels, Annotations map[string]string
	// CgroupParent is the pod's cgroup, as "/kubepods/besteffort/pod<uid>"; by
	// default containers are in /k8s.io.
	CgroupParent string
	// Network gives it a network namespace and an address; otherwise it has the host's.
	Network bool
	// HostPID gives its containers the host's PID namespace.
	HostPID bool
}

// A ContainerConfig is a container to be made in a pod.
type ContainerConfig struct {
	Name    string
	Attempt uint32
	// Image is BusyboxImage by default.
	Image   string
	Command []string
	// Labels and Annotations are added to the kubelet's.
	Labels, Annotations map[string]string
	// Mounts are directories of the host by where they are in the container.
	Mounts map[string]string
	// Memory is its limit in bytes, 0 for none.
	Memory int64
}

// StartCRI starts a containerd, gives it BusyboxImage, the images of opts and
// PauseImage where CRI finds them, and a bridge for pods that want a network. All
// of it is gone when the test ends.
func StartCRI(tb testing.TB, opts EngineOptions) *CRI {
	tb.Helper()
	images := opts
	opts.NoImages = true
	e := &CRI{Containerd: StartContainerd(tb, opts)}
	cc, err := grpc.NewClient("passthrough:///cri", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", e.Address)
		}))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { e.removeAll(); _ = cc.Close() })
	e.Runtime, e.Images = runtimeapi.NewRuntimeServiceClient(cc), runtimeapi.NewImageServiceClient(cc)
	e.startNetwork()
	if images.NoImages {
		return e
	}
	e.loadImages(images)
	return e
}

// loadImages waits until the plugin has heard of what was imported.
func (e *CRI) loadImages(images EngineOptions) {
	e.tb.Helper()
	pause, err := Busybox()
	if err != nil {
		e.tb.Fatal(err)
	}
	pause.Name, pause.Cmd, pause.Labels = PauseImage, []string{"/bin/sleep", "2147483647"}, nil
	images.Images = append([]Image{pause}, images.Images...)
	loadImages(e.tb, e.Dir, images, func(ctx context.Context, tar string) error { return e.Import(ctx, "k8s.io", tar) })
	ctx, cancel := context.WithTimeout(e.tb.Context(), commandTimeout)
	defer cancel()
	for _, img := range append(images.Images, Image{Name: BusyboxImage}) {
		if err := poll(ctx, func() error { return e.hasImage(ctx, img.Name) }); err != nil {
			e.tb.Fatal(err)
		}
	}
}

func (e *CRI) hasImage(ctx context.Context, name string) error {
	r, err := e.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	if err == nil && r.Image == nil {
		err = fmt.Errorf("image %s: %w", name, os.ErrNotExist)
	}
	return err
}

// startNetwork configures a bridge of this engine's own; the first pod makes it.
func (e *CRI) startNetwork() {
	n := os.Getpid() % 200
	e.bridge = "pd" + filepath.Base(e.Dir)[3:]
	e.bridge = e.bridge[:min(len(e.bridge), 15)]
	e.Subnet = fmt.Sprintf("10.231.%d.", n)
	conf := fmt.Sprintf(`{"cniVersion":"0.4.0","name":"pidigree","plugins":[{"type":"bridge","bridge":%q,"isGateway":true,"ipMasq":false,
"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"%s0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`, e.bridge, e.Dir+"/ipam", e.Subnet)
	if err := os.MkdirAll(e.Dir+"/cni", 0o700); err != nil {
		e.tb.Fatal(err)
	}
	if err := os.WriteFile(e.Dir+"/cni/10-pidigree.conflist", []byte(conf), 0o600); err != nil {
		e.tb.Fatal(err)
	}
}

// RunPod makes a pod's sandbox and gives its id. It may be called from any goroutine.
func (e *CRI) RunPod(ctx context.Context, p PodConfig) (string, error) {
	if p.Network {
		if err := poll(ctx, func() error { return e.networkReady(ctx) }); err != nil {
			return "", err
		}
	}
	r, err := e.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: e.sandboxConfig(p)})
	if err != nil {
		return "", fmt.Errorf("run pod %s: %w", p.Name, err)
	}
	return r.PodSandboxId, nil
}

func (e *CRI) networkReady(ctx context.Context) error {
	r, err := e.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return err
	}
	for _, c := range r.Status.Conditions {
		if !c.Status {
			return errors.New(c.Type + ": " + c.Message)
		}
	}
	return nil
}

func (e *CRI) sandboxConfig(p PodConfig) *runtimeapi.PodSandboxConfig {
	labels := kubeletLabels(p)
	c := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: p.Name, Namespace: p.Namespace, Uid: p.UID, Attempt: p.Attempt},
		Labels:   labels, Annotations: p.Annotations, LogDirectory: e.logDir(p),
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    p.CgroupParent,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: namespaces(p)},
		},
	}
	if p.Network {
		c.Hostname = p.Name
	}
	return c
}

func namespaces(p PodConfig) *runtimeapi.NamespaceOption {
	o := &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_CONTAINER}
	if p.Network {
		o.Network = runtimeapi.NamespaceMode_POD
	}
	if p.HostPID {
		o.Pid = runtimeapi.NamespaceMode_NODE
	}
	return o
}

// kubeletLabels are a pod's own with the kubelet's over them.
func kubeletLabels(p PodConfig) map[string]string {
	labels := map[string]string{}
	maps.Copy(labels, p.Labels)
	labels["io.kubernetes.pod.name"], labels["io.kubernetes.pod.namespace"], labels["io.kubernetes.pod.uid"] = p.Name, p.Namespace, p.UID
	return labels
}

func (e *CRI) logDir(p PodConfig) string {
	return e.Dir + "/log/" + p.Namespace + "_" + p.Name + "_" + p.UID
}

// CreateContainer makes a container in a sandbox and gives its id.
func (e *CRI) CreateContainer(ctx context.Context, sandbox string, p PodConfig, c ContainerConfig) (string, error) {
	image := c.Image
	if image == "" {
		image = BusyboxImage
	}
	labels := kubeletLabels(PodConfig{Name: p.Name, Namespace: p.Namespace, UID: p.UID, Labels: c.Labels})
	labels["io.kubernetes.container.name"] = c.Name
	config := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: c.Attempt},
		Image:    &runtimeapi.ImageSpec{Image: image, UserSpecifiedImage: image},
		Command:  c.Command, Labels: labels, Annotations: c.Annotations, LogPath: c.logName(),
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: namespaces(p)}},
	}
	if c.Memory > 0 {
		config.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: c.Memory}
	}
	for dst, src := range c.Mounts {
		config.Mounts = append(config.Mounts, &runtimeapi.Mount{HostPath: src, ContainerPath: dst})
	}
	if err := os.MkdirAll(e.logDir(p), 0o755); err != nil {
		return "", err
	}
	r, err := e.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, Config: config, SandboxConfig: e.sandboxConfig(p)})
	if err != nil {
		return "", fmt.Errorf("create container %s: %w", c.Name, err)
	}
	return r.ContainerId, nil
}

// RunContainer makes and starts a container in a sandbox, and gives its id.
func (e *CRI) RunContainer(ctx context.Context, sandbox string, p PodConfig, c ContainerConfig) (string, error) {
	id, err := e.CreateContainer(ctx, sandbox, p, c)
	if err != nil {
		return "", err
	}
	if err := e.StartContainer(ctx, id); err != nil {
		return "", fmt.Errorf("start container %s: %w", c.Name, err)
	}
	return id, nil
}

// StartContainer starts a container that CreateContainer has made.
func (e *CRI) StartContainer(ctx context.Context, id string) error {
	_, err := e.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
	return err
}

// Wait waits until a container has ended, and gives its exit code. The CRI has no
// call that waits.
func (e *CRI) Wait(ctx context.Context, id string) (int, error) {
	code := 0
	err := poll(ctx, func() error {
		r, err := e.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if err == nil && r.Status.State != runtimeapi.ContainerState_CONTAINER_EXITED {
			err = errors.New("it runs")
		}
		if err == nil {
			code = int(r.Status.ExitCode)
		}
		return err
	})
	return code, err
}

// A CRIEnd is what the engine itself says of a container's end.
type CRIEnd struct {
	Code     int32
	Reason   string
	Finished time.Time
}

// EndOf gives how a container has ended.
func (e *CRI) EndOf(ctx context.Context, id string) (CRIEnd, error) {
	r, err := e.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return CRIEnd{}, err
	}
	return CRIEnd{r.Status.ExitCode, r.Status.Reason, time.Unix(0, r.Status.FinishedAt)}, nil
}

func (c ContainerConfig) logName() string { return fmt.Sprintf("%s_%d.log", c.Name, c.Attempt) }

// LogOf gives what a container wrote to its standard output.
func (e *CRI) LogOf(p PodConfig, c ContainerConfig) (string, error) {
	b, err := os.ReadFile(e.logDir(p) + "/" + c.logName())
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		// Each is "<time> stdout F|P <text>"; P is a part of a line.
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(f) != 4 || f[1] != "stdout" {
			continue
		}
		out.WriteString(f[3])
		if f[2] == "F" {
			out.WriteByte('\n')
		}
	}
	return out.String(), nil
}

// RemovePod stops and removes a sandbox with all that is in it.
func (e *CRI) RemovePod(ctx context.Context, sandbox string) error {
	if _, err := e.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: sandbox}); err != nil {
		return err
	}
	_, err := e.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: sandbox})
	return err
}

// StopContainer ends a container at once.
func (e *CRI) StopContainer(ctx context.Context, id string) error {
	_, err := e.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id})
	return err
}

// RemoveContainer ends a container and makes the engine forget it. One that ended
// by itself the moment before is stopped to containerd, and still runs to what removes it.
func (e *CRI) RemoveContainer(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	return poll(ctx, func() error {
		if err := e.StopContainer(ctx, id); err != nil {
			return err
		}
		_, err := e.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
		return err
	})
}

// A CRIContainer is what the engine itself says of one of its containers.
type CRIContainer struct {
	ID, Name, Image string
	// State is created, running, exited or unknown.
	State  string
	Labels map[string]string
	// PID is a running one's init, on the host.
	PID int
}

// Containers gives all of the engine's containers, sandboxes not among them: a
// call for each sandbox and container, for one may be too large for a list.
func (e *CRI) Containers(ctx context.Context) ([]CRIContainer, error) {
	pods, err := e.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	var out []CRIContainer
	for _, p := range pods.Items {
		list, err := e.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: p.Id}}, grpc.MaxCallRecvMsgSize(64<<20))
		if err != nil {
			return nil, err
		}
		for _, l := range list.Containers {
			c, err := e.describe(ctx, l.Id)
			if err != nil {
				return nil, err
			}
			out = append(out, c)
		}
	}
	return out, nil
}

func (e *CRI) describe(ctx context.Context, id string) (CRIContainer, error) {
	r, err := e.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true}, grpc.MaxCallRecvMsgSize(64<<20))
	if err != nil {
		return CRIContainer{}, err
	}
	s := r.Status
	c := CRIContainer{
		ID: id, Name: s.Metadata.GetName(), Image: s.Image.GetImage(), Labels: s.Labels,
		State: strings.ToLower(strings.TrimPrefix(s.State.String(), "CONTAINER_")),
	}
	var info struct{ PID int }
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil {
		return c, err
	}
	if s.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
		c.PID = info.PID
	}
	return c, nil
}

// InitOf gives the host's PID of a container's init, from runc's state.
func (e *CRI) InitOf(id string) int {
	e.tb.Helper()
	return e.InitPID("k8s.io", id)
}

// removeAll removes the pods, the networks of which are the plugin's to take down.
func (e *CRI) removeAll() {
	_ = e.d.signal(syscall.SIGCONT)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if r, err := e.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{}); err == nil {
		for _, s := range r.Items {
			_ = e.RemovePod(ctx, s.Id)
		}
	}
	_, _ = run(ctx, tool(e.tb, "ip"), "link", "delete", e.bridge)
}
