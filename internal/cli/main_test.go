// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/pidigree/pidigree/internal/plain/plaintest"
	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/workload"
)

var update = flag.Bool("update", false, "write golden files and reference pages anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// outcome is what one run of the command line did.
type outcome struct {
	code           int
	stdout, stderr string
}

// world is what a run of the command line meets.
type world struct {
	agent    Backend // nil: no agent runs
	local    Backend // nil: cannot answer without one
	dialErr  error
	env      map[string]string
	stdin    string
	terminal bool
	run      func(context.Context, AgentConfig) error
	check    func(context.Context, AgentConfig, io.Writer) error
	// dialled is the socket that was asked for, localised what Local was given.
	dialled   string
	localised *AgentConfig
}

// The clocks of the tests: one hour after boot.
var (
	testNow  = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	testBoot = workload.KTime(time.Hour)
)

// main runs the command line in this world.
func (w *world) main(tb testing.TB, args ...string) outcome {
	tb.Helper()
	return w.mainContext(tb.Context(), args...)
}

func (w *world) mainContext(ctx context.Context, args ...string) outcome {
	var stdout, stderr bytes.Buffer
	code := Main(ctx, Env{
		Args: args, Stdin: strings.NewReader(w.stdin), Stdout: &stdout, Stderr: &stderr,
		Getenv: func(k string) string { return w.env[k] }, Terminal: w.terminal, Version: "v1.2.3",
		Now:       func() time.Time { return testNow },
		SinceBoot: func() workload.KTime { return testBoot },
		Dial:      w.dial,
		Local:     w.resolveLocally, RunAgent: w.runAgent, CheckAgent: w.checkAgent,
	})
	return outcome{code, stdout.String(), stderr.String()}
}

func (w *world) dial(_ context.Context, c AgentConfig) (Backend, error) {
	socket := c.Socket
	w.dialled = socket
	switch {
	case w.dialErr != nil:
		return nil, w.dialErr
	case w.agent == nil:
		return nil, fmt.Errorf("connect to %s: %w: start one", socket, client.ErrNoAgent)
	}
	return w.agent, nil
}

func (w *world) resolveLocally(_ context.Context, o LocalOptions) (Backend, error) {
	w.localised = &o.Config
	if w.local == nil {
		return nil, errRealAgent
	}
	return w.local, nil
}

// errRealAgent is what a test gets in place of a real agent. Env takes the real
// one for a function that is nil, so no test of this package leaves one nil: an
// agent would load BPF programs and take the host's own socket.
var errRealAgent = errors.New("a test of the command line would have started a real agent")

func (w *world) runAgent(ctx context.Context, c AgentConfig) error {
	if w.run == nil {
		return errRealAgent
	}
	return w.run(ctx, c)
}

func (w *world) checkAgent(ctx context.Context, c AgentConfig, out io.Writer) error {
	if w.check == nil {
		return errRealAgent
	}
	return w.check(ctx, c, out)
}

// noRun and noCheck are for tests that make their own Env.
func noRun(context.Context, AgentConfig) error               { return errRealAgent }
func noCheck(context.Context, AgentConfig, io.Writer) error  { return errRealAgent }
func noLocal(context.Context, LocalOptions) (Backend, error) { return nil, errRealAgent }

// fake answers from tables.
type fake struct {
	// results by the word that a query would be written as.
	results map[string]workload.Result
	err     error
	lists   map[workload.Kind][]workload.Entity
	listErr error
	changes []workload.Change
	// end is what the watch ends with; nil waits for the context.
	end    error
	status workload.AgentStatus
	hang   bool

	queries  []workload.Query
	selector workload.Selector
	closed   int
}

var _ Backend = (*fake)(nil)

func (f *fake) Resolve(ctx context.Context, queries ...workload.Query) ([]workload.Result, error) {
	if f.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	f.queries = append(f.queries, queries...)
	if f.err != nil {
		return nil, f.err
	}
	var out []workload.Result
	for _, q := range queries {
		r, ok := f.results[queryWord(q)]
		if !ok {
			r.Err = fmt.Errorf("resolve %s: %w", queryWord(q), workload.ErrNotFound)
		}
		r.Query = q
		if !q.Explain {
			r.Explanation = nil
		}
		if !q.Family {
			r.Family = nil
		}
		if !q.Detail {
			r.Answer.Process = plainProcess(r.Answer.Process)
		}
		out = append(out, r)
	}
	return out, nil
}

// plainProcess is a process as it is where nobody asked for its detail.
func plainProcess(p *workload.Process) *workload.Process {
	if p == nil || p.Detail == nil {
		return p
	}
	n := *p
	n.Detail = nil
	return &n
}

func queryWord(q workload.Query) string {
	switch {
	case q.Self:
		return "self"
	case q.PID != 0:
		return fmt.Sprint(q.PID)
	case q.Key.PID != 0:
		return q.Key.String()
	case q.CgroupPath != "":
		return "cgroup:" + q.CgroupPath
	}
	return q.Container
}

func (f *fake) List(_ context.Context, sel workload.Selector) iter.Seq2[workload.Entity, error] {
	f.selector = sel
	return func(yield func(workload.Entity, error) bool) {
		for _, e := range f.lists[sel.Kinds[0]] {
			if !sel.Detail {
				e.Process = plainProcess(e.Process)
			}
			if (sel.All || !e.Gone) && !yield(e, nil) {
				return
			}
		}
		if f.listErr != nil {
			yield(workload.Entity{}, f.listErr)
		}
	}
}

func (f *fake) Watch(ctx context.Context, sel workload.Selector) iter.Seq2[workload.Change, error] {
	f.selector = sel
	return func(yield func(workload.Change, error) bool) {
		for _, c := range f.changes {
			if !yield(c, nil) {
				return
			}
		}
		if f.end == nil {
			<-ctx.Done()
			yield(workload.Change{}, ctx.Err())
			return
		}
		yield(workload.Change{}, f.end)
	}
}

func (f *fake) Status(context.Context) (workload.AgentStatus, error) { return f.status, f.err }

func (f *fake) Close() error { f.closed++; return nil }

// golden compares what a command did with testdata/NAME.golden.
func golden(t *testing.T, name string, args []string, got outcome) {
	t.Helper()
	compareFile(t, filepath.Join("testdata", name+".golden"), transcript(args, got))
}

func transcript(args []string, got outcome) string {
	var b strings.Builder
	fmt.Fprintf(&b, "$ pidigree %s\n%s", strings.Join(args, " "), got.stdout)
	if got.stderr != "" {
		fmt.Fprintf(&b, "[stderr]\n%s", got.stderr)
	}
	fmt.Fprintf(&b, "[exit %d]\n", got.code)
	return b.String()
}

// compareFile compares text with a committed file, or writes it with -update.
func compareFile(t *testing.T, path, text string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; run go test ./internal/cli -update", err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("%s is not what it should be; if the change is meant, run go test ./internal/cli -update (-committed +now)\n%s", path, diff)
	}
}

const (
	webID   = "4f3a91c2d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f80"
	outerID = "aaaabbbbccccddddeeeeffff0000111122223333444455556666777788889999"
)

// webContainer has every field set.
func webContainer() *workload.Container {
	ms := func(n int) workload.KTime { return testBoot - workload.KTime(time.Minute) + workload.KTime(n)*1e6 }
	return &workload.Container{
		ID:      workload.ContainerID{Runtime: "docker", ID: webID},
		Aliases: []workload.ContainerID{{Runtime: "containerd", Namespace: "moby", ID: webID}},
		Name:    "web", Runtime: "docker",
		Image:  workload.ImageRef{Name: "nginx:1.25", Tag: "1.25", Digest: "sha256:0123", ID: "sha256:" + outerID},
		Labels: map[string]string{"app": "shop", "tier": "front"},
		Env:    map[string]string{"LANG": "C"},
		State:  workload.StateRunning, Health: workload.HealthHealthy, Created: testNow.Add(-61 * time.Second), Started: testNow.Add(-time.Minute),
		Hostname: "web-1", Networks: []workload.Network{{Name: "bridge", IPs: []string{"172.17.0.2"}, MAC: "02:42:ac:11:00:02"}},
		Ports:  []workload.Port{{Container: 80, Protocol: "tcp", HostIP: "0.0.0.0", HostPort: 8080}},
		Mounts: []workload.Mount{{Type: "bind", Source: "/srv/www", Destination: "/www", ReadOnly: true}},
		Limits: &workload.Limits{MemoryBytes: 64 << 20, NanoCPUs: 500_000_000, Pids: 100},
		User:   "101", Bundle: "/run/docker/runtime/" + webID,
		Security: &workload.Security{AddedCaps: []string{"NET_ADMIN"}, ReadOnlyRoot: true},
		Run: &workload.Run{
			Init:    workload.ProcessKey{PID: 4242, Start: 3_540_012_000_000, Inode: 7001},
			Cgroups: []workload.CgroupPath{{CgroupID: workload.CgroupID{Hierarchy: 0, ID: 8123}, Path: "/docker/" + webID}},
			Started: ms(40),
		},
		Confidence: workload.Confirmed,
		Sources:    []workload.Provenance{{Source: "oci", At: ms(12)}, {Source: "docker", At: ms(15)}},
		Timeline: []workload.Mark{
			{What: workload.MarkCgroup, Source: "kernel", At: ms(0)},
			{What: workload.MarkLayer, Source: "docker", At: ms(3)},
			{What: workload.MarkRegistered, Source: "oci", At: ms(12)},
			{What: workload.MarkKnown, Source: "correlator", At: ms(15)},
			{What: workload.MarkComplete, Source: "correlator", At: ms(15)},
			{What: workload.MarkFirstExec, Source: "kernel", At: ms(40)},
		},
	}
}

func webProcess() *workload.Process {
	return &workload.Process{
		Key: workload.ProcessKey{PID: 4242, Start: 3_540_012_000_000, Inode: 7001}, Parent: 4200, Comm: "nginx", Exe: "/usr/sbin/nginx",
		Cgroups:       []workload.CgroupID{{Hierarchy: 0, ID: 8123}, {Hierarchy: 4, ID: 17}},
		PIDNamespaces: []workload.PIDNamespace{{Inum: 4026532500, PID: 1}}, MountNS: 4026532499,
		Status: workload.StatusContainer, Confidence: workload.Confirmed, Container: workload.ContainerID{Runtime: "docker", ID: webID},
		Entry: workload.EntryInit, Started: 3_540_012_000_000, Exec: 3_540_040_000_000,
	}
}

// exitedContainer is a container of a pod, killed for its memory.
func exitedContainer() *workload.Container {
	return &workload.Container{
		ID: workload.ContainerID{Runtime: "containerd", Namespace: "k8s.io", ID: outerID}, Name: "worker", Runtime: "containerd",
		Image: workload.ImageRef{ID: "sha256:" + webID}, State: workload.StateExited, Created: testNow.Add(-3 * time.Hour),
		Finished: testNow.Add(-time.Minute), Exit: &workload.Exit{Known: true, Code: 137, Signal: 9, OOM: true, At: testBoot - 6e10},
		Pod:        &workload.PodRef{UID: "6f1e", Name: "shop-0", Namespace: "prod"},
		Run:        &workload.Run{Init: workload.ProcessKey{PID: 777, Start: 5e9}},
		Confidence: workload.Confirmed, Sources: []workload.Provenance{{Source: "containerd", At: 5e9}},
		Role: workload.RoleMain, Attempt: 3, Annotations: map[string]string{"io.kubernetes.container.hash": "5bd2"}, Reason: "OOMKilled",
	}
}

// fullPod has every field set.
func fullPod() *workload.Pod {
	return &workload.Pod{
		PodRef: *exitedContainer().Pod, Runtime: "containerd", Labels: map[string]string{"app": "shop"},
		Annotations: map[string]string{"kubernetes.io/config.source": "file"}, IPs: []string{"10.88.0.7", "fd00::7"}, HostNetwork: true,
		RuntimeHandler: "runsc", Sandboxes: []workload.ContainerID{{Runtime: "containerd", Namespace: "k8s.io", ID: webID}},
		Phase: "Running", QoS: "Burstable", Node: "node-1", ServiceAccount: "default", Static: true, ConfigHash: "0123abcd",
		Conditions: []workload.PodCondition{{Type: "Ready", Status: "False", Reason: "ContainersNotReady"}},
		Owners:     []workload.PodOwner{{Kind: "StatefulSet", Name: "shop", UID: "77aa", Controller: true}},
		Containers: []workload.PodContainer{
			{Name: "worker", Role: workload.RoleMain, ID: exitedContainer().ID, Image: "shop:2", State: workload.StateExited, Restarts: 3},
			{Name: "proxy", Role: workload.RoleSidecar, Image: "proxy:1", Ready: true},
		},
		Volumes: []workload.PodVolume{{Name: "conf", Kind: "configMap", Source: "shop-conf"}},
		Created: testNow.Add(-3 * time.Hour), Started: testNow.Add(-2 * time.Hour), Deleted: testNow.Add(-time.Minute),
		Sources: []workload.Provenance{{Source: "cri", At: 5e9}, {Source: "kubelet", At: 6e9}}, Missing: []string{"podman"},
		Truncated: []string{"labels"},
	}
}

const hostile = plaintest.Hostile

func hostileContainer() *workload.Container {
	return &workload.Container{
		ID: workload.ContainerID{Runtime: hostile, Namespace: hostile, ID: hostile}, Name: hostile, Runtime: hostile,
		Image: workload.ImageRef{Name: hostile}, Labels: map[string]string{hostile: hostile, "yes": "no", "1e3": "0x10", "<<": "~"},
		State: workload.State(hostile), Hostname: hostile, Pod: &workload.PodRef{Name: hostile, Namespace: hostile, UID: hostile},
		Missing: []string{hostile}, Timeline: []workload.Mark{{What: hostile, Source: hostile, At: 1}},
	}
}

// testAgent knows a bit of everything.
func testAgent() *fake {
	web, worker := webContainer(), exitedContainer()
	inner := &workload.Container{
		ID: workload.ContainerID{Runtime: "runc", Namespace: "runc", ID: "job-1"}, Runtime: "runc", Parent: web.ID,
		State: workload.StateRunning, Confidence: workload.Claimed, Missing: []string{"docker"},
	}
	asOf := testBoot - 1e6
	container := workload.Answer{
		Status: workload.StatusContainer, Confidence: workload.Confirmed, Process: webProcess(),
		Containers: []*workload.Container{web}, AsOf: asOf, Revision: 42,
	}
	nested := workload.Answer{
		Status: workload.StatusContainer, Confidence: workload.Claimed, Thread: 5001, Containers: []*workload.Container{web, inner}, AsOf: asOf,
		Process: &workload.Process{Key: workload.ProcessKey{PID: 5000, Start: 3_550_000_000_000, Ticks: true}, Parent: 4242, Comm: "sh", Entry: workload.EntryExec},
	}
	exited := workload.Answer{
		Status: workload.StatusContainer, Confidence: workload.Confirmed, Exited: true, Containers: []*workload.Container{worker}, AsOf: asOf,
		Pod: &workload.Pod{PodRef: *worker.Pod, Labels: map[string]string{"app": "shop"}}, Task: &workload.Task{ARN: "arn:aws:ecs:x", Cluster: "c", Family: "f"},
		Process: &workload.Process{Key: workload.ProcessKey{PID: 777, Start: 5e9}, Parent: 700, Comm: "worker", Exit: &workload.Exit{Known: true, Code: 137, Signal: 9, OOM: true, At: testBoot - 6e10}},
	}
	host := workload.Answer{
		Status: workload.StatusHost, Confidence: workload.Confirmed, AsOf: asOf, Service: &workload.Service{Unit: "sshd.service", Slice: "system.slice"},
		Process: &workload.Process{
			Key: workload.ProcessKey{PID: 900, Start: 1e9}, Parent: 1, Comm: "sshd", Exe: "/usr/sbin/sshd",
			Detail: &workload.ProcessDetail{Command: []string{"sshd: /usr/sbin/sshd -D"}, User: "root", Parent: workload.ProcessKey{PID: 1, Start: 1e7}, Namespaces: map[string]uint64{"mnt": 4026531841, "pid": 4026531836}},
		},
	}
	processes := testProcesses()
	family := &workload.Family{Ancestors: []workload.Process{*processes[5].Process}, Children: []workload.Process{*processes[0].Process, *processes[3].Process}, Truncated: []string{"children"}}
	plain := workload.Answer{Status: workload.StatusHost, AsOf: asOf, Process: &workload.Process{Key: workload.ProcessKey{PID: 2, Start: 1e7}, Comm: "kthreadd"}}
	conflict := workload.Answer{
		Status: workload.StatusConflict, Reason: "its PID namespace is another container's", AsOf: asOf,
		Process: &workload.Process{Key: workload.ProcessKey{PID: 666, Start: 1e9}, Parent: 1, Comm: "evil", ForeignNamespaces: true},
	}
	bad := hostileContainer()
	evil := workload.Answer{
		Status: workload.StatusContainer, Confidence: workload.Confirmed, Containers: []*workload.Container{bad}, Reason: hostile,
		Pod: &workload.Pod{PodRef: *bad.Pod}, Task: &workload.Task{ARN: hostile, Cluster: hostile, Family: hostile}, Service: &workload.Service{Unit: hostile, Slice: hostile},
		Process: &workload.Process{Key: workload.ProcessKey{PID: 13, Start: 1}, Comm: hostile, Exe: hostile, Reason: hostile},
	}
	hops := []workload.Hop{
		{What: "process", Detail: "PID 4242 is 4242@3540012000000#7001", Source: "pidfd", At: asOf},
		{What: "cgroup", Detail: "0:8123 /docker/" + webID, Source: "kernel", At: asOf},
		{What: "registration", Detail: "init 4242 of docker://" + webID, Source: "oci", At: testBoot - 6e10 + 12e6},
		{What: "layer", Detail: "name, image and labels"},
	}
	return &fake{
		results: map[string]workload.Result{
			"4242": {Answer: container, Explanation: hops}, "web": {Answer: container}, "self": {Answer: container},
			"4242@3540012000000": {Answer: container}, "cgroup:/docker/4f": {Answer: container},
			"5001": {Answer: nested, Explanation: hops[:2]}, "777": {Answer: exited}, "900": {Answer: host, Explanation: hops[:1], Family: family}, "2": {Answer: plain},
			"666": {Answer: conflict}, "404": {Answer: workload.Answer{Status: workload.StatusUnknown, Reason: "no such process"}},
			"13":  {Answer: evil, Explanation: []workload.Hop{{What: hostile, Detail: hostile, Source: hostile, At: 1}}},
			"two": {Err: fmt.Errorf("two: %w: two-a, two-b", workload.ErrAmbiguous)},
		},
		lists:   testLists(web, worker, inner, bad),
		changes: testChanges(web, worker),
		status:  testStatus(),
	}
}

// testProcesses are a tree: PID 1 with sshd, and the web server with what it made, one
// of them gone. The parent of evil is an earlier process with the web server's PID.
func testProcesses() []workload.Entity {
	initial := workload.ProcessKey{PID: 1, Start: 1e7, Inode: 2}
	first := &workload.Process{Key: initial, Comm: "systemd", Status: workload.StatusHost, Exe: "/usr/lib/systemd/systemd", Detail: &workload.ProcessDetail{Command: []string{"/sbin/init"}, User: "root"}}
	sshd := &workload.Process{
		Key: workload.ProcessKey{PID: 900, Start: 1e9}, Parent: 1, Comm: "sshd", Status: workload.StatusHost, Service: &workload.Service{Unit: "sshd.service"},
		Exe: "/usr/sbin/sshd", Detail: &workload.ProcessDetail{Command: []string{"sshd:", "two words", "", "say \"no\""}, UID: 1000, User: "root", Parent: initial, Namespaces: map[string]uint64{"mnt": 4026531841}},
	}
	web := webProcess()
	web.Detail = &workload.ProcessDetail{Command: []string{"nginx", "-g", "daemon off;"}, UID: 33, EUID: 33, Parent: workload.ProcessKey{PID: 4200, Start: 5}, Truncated: []string{"command"}}
	child := webProcess()
	child.Key, child.Parent, child.Entry = workload.ProcessKey{PID: 4300, Start: 3_550_000_000_000}, 4242, workload.EntryExec
	child.Detail = &workload.ProcessDetail{CommandHidden: true, UID: 33, EUID: 33, Parent: web.Key}
	ended := &workload.Process{
		Key: workload.ProcessKey{PID: 4299, Start: 3_545_000_000_000}, Parent: 4242, Comm: "sh", Status: workload.StatusContainer,
		Container: web.Container, Exit: &workload.Exit{Known: true, At: 3_546_000_000_000},
	}
	evil := webProcess()
	evil.Key, evil.Comm, evil.Exe, evil.Status, evil.Reason = workload.ProcessKey{PID: 13, Start: 3_530_000_000_000}, hostile, hostile, workload.StatusConflict, hostile
	evil.Parent = 4242
	var list []workload.Entity
	for _, p := range []*workload.Process{child, web, sshd, evil, ended, first} {
		list = append(list, workload.Entity{Kind: workload.KindProcess, Process: p, Gone: p.Exit != nil})
	}
	return list
}

func testLists(web, worker, inner, bad *workload.Container) map[workload.Kind][]workload.Entity {
	return map[workload.Kind][]workload.Entity{
		workload.KindContainer: {
			{Kind: workload.KindContainer, Container: web, Revision: 42}, {Kind: workload.KindContainer, Container: inner, Revision: 43},
			{Kind: workload.KindContainer, Container: worker, Gone: true, Revision: 44}, {Kind: workload.KindContainer, Container: bad, Revision: 45},
		},
		workload.KindProcess: testProcesses(),
		workload.KindPod: {
			{Kind: workload.KindPod, Pod: fullPod(), Revision: 46},
			{Kind: workload.KindPod, Pod: &workload.Pod{PodRef: *bad.Pod}, Gone: true},
		},
		workload.KindImage: {
			{Kind: workload.KindImage, Image: &workload.Image{ID: "sha256:" + webID, Names: []string{"nginx:1.25", "nginx:latest"}, Digests: []string{"nginx@sha256:0123"}, Size: 187_654_321}},
			{Kind: workload.KindImage, Image: &workload.Image{
				ID: "sha256:" + outerID, Runtime: "containerd", Instance: "/run/k3s.sock", Namespace: "k8s.io", Names: []string{"docker.io/library/shop:2"}, Size: 2_345_678,
				Digests: []string{"docker.io/library/shop@sha256:0123"}, Layers: []workload.ImageLayer{{Digest: "sha256:4567", Blob: "sha256:89ab", Size: 2_300_000}, {Digest: "sha256:cdef"}},
				OS: "linux", Architecture: "arm", Variant: "v7", Labels: map[string]string{"team": "shop"}, Created: testNow.Add(-50 * time.Hour),
				Sources: []workload.Provenance{{Source: "cri", At: 5e9}}, Truncated: []string{"labels"},
			}, Revision: 49},
			{Kind: workload.KindImage, Image: &workload.Image{ID: hostile, Size: 12}},
		},
		workload.KindTask: {
			{Kind: workload.KindTask, Task: &workload.Task{ARN: "arn:aws:ecs:x", Cluster: "c", Family: "f"}},
			{Kind: workload.KindTask, Task: &workload.Task{
				ARN: "arn:aws:ecs:eu-west-1:111122223333:task/c/158d1c8083dd49d6b527399fd6414f5c", Cluster: "c", Family: "shop", Revision: "7",
				Service: "web", LaunchType: "EC2", Zone: "eu-west-1a", ZoneID: "euw1-az1", VPC: "vpc-0", Instance: "arn:aws:ecs:y", Desired: "RUNNING", Known: "PENDING",
				Limits: workload.TaskLimits{NanoCPUs: 250_000_000, MemoryBytes: 1 << 29}, Tags: map[string]string{"team": "shop"}, InstanceTags: map[string]string{"rack": "7"},
				Containers: []workload.TaskContainer{
					{Name: "web", ID: workload.ContainerID{Runtime: "docker", ID: "4f3a"}, Image: "shop:2", Type: "NORMAL", Desired: "RUNNING", Known: "RUNNING", Health: "HEALTHY", Restarts: 1, Started: time.Unix(1_770_000_000, 0).UTC()},
					{Name: "done", Image: "job:1", Exited: true, ExitCode: 3, Finished: time.Unix(1_770_000_060, 0).UTC()},
				},
				PullStarted: time.Unix(1_769_999_000, 0).UTC(), PullStopped: time.Unix(1_769_999_060, 0).UTC(), Stopped: time.Unix(1_770_000_100, 0).UTC(),
				Sources: []workload.Provenance{{Source: "ecs", At: 5e9}}, Missing: []string{"docker"}, Truncated: []string{"tags"},
			}, Revision: 48},
		},
		workload.KindService: {{Kind: workload.KindService, Service: &workload.Service{Unit: `dev-disk-by\x2duuid.device`, Slice: "system.slice"}}},
	}
}

func testChanges(web, worker *workload.Container) []workload.Change {
	set := func(r workload.Revision, e workload.Entity) workload.Change {
		e.Revision = r
		return workload.Change{Type: workload.ChangeSet, Revision: r, Entity: e}
	}
	return []workload.Change{
		set(40, workload.Entity{Kind: workload.KindContainer, Container: worker}),
		{Type: workload.ChangeBookmark, Revision: 41},
		set(42, workload.Entity{Kind: workload.KindContainer, Container: web}),
		set(43, workload.Entity{Kind: workload.KindContainer, Container: hostileContainer()}),
		set(44, workload.Entity{Kind: workload.KindProcess, Process: webProcess()}),
		set(45, workload.Entity{Kind: workload.KindPod, Pod: &workload.Pod{PodRef: *worker.Pod}, Gone: true}),
		{Type: workload.ChangeResync, Revision: 46},
		{Type: workload.ChangeUnset, Revision: 47, Entity: workload.Entity{Kind: workload.KindContainer, Container: web, Gone: true}},
	}
}

func testStatus() workload.AgentStatus {
	events := map[string]uint64{"fork": 1200, "exec": 800, "exit": 1180, "cgroup_mkdir": 30}
	programs := map[string]string{"cgroup_attach": "off: disabled by the configuration"}
	for p := range maps.Keys(events) {
		programs[p] = "attached"
	}
	return workload.AgentStatus{
		Version: "v1.2.3", PID: 321, Started: testNow.Add(-3 * time.Hour), Mode: "ebpf", CgroupMode: "hybrid", Ready: true,
		Revision: 9981, Containers: 12, Pods: 3, Processes: 344, Watchers: 2,
		Sources: []workload.SourceStatus{
			{Name: "docker", State: "running", Where: "/run/docker.sock", Version: "20.10.24", LastContact: testNow.Add(-2 * time.Second), Calls: map[string]uint64{"list": 3, "inspect": 12}, Entities: 9},
			{Name: "containerd", State: "failing", Where: "/run/containerd/containerd.sock", LastError: "dial: " + hostile, LastErrorAt: testNow.Add(-30 * time.Second), Restarts: 4, Errors: 7},
			{Name: "oci", State: "absent"},
		},
		Kernel: workload.KernelStatus{
			Events: events, Lost: map[string]uint64{"exec": 17}, Skipped: map[string]uint64{"fork": 2}, Programs: programs, Repairs: 1, Lag: 1234567,
		},
	}
}
