// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// The objects of -o json and -o yaml. Their names and meanings are a promise to
// programs: fields are added, never renamed or removed. What the design lists for
// an answer is always there, null or empty if there is nothing to say; a field
// with omitempty is left out then. A name that ends in Ns is nanoseconds since
// boot, or a span of nanoseconds; other times are RFC 3339.

// answerJSON is the outcome of one question.
type answerJSON struct {
	Query       string           `json:"query"`
	PID         *uint32          `json:"pid"`
	StartTimeNs *uint64          `json:"startTimeNs"`
	Status      string           `json:"status"`
	Confidence  string           `json:"confidence"`
	Exited      bool             `json:"exited"`
	Exit        *exitJSON        `json:"exit"`
	Reason      string           `json:"reason"`
	Error       string           `json:"error,omitempty"`
	Thread      uint32           `json:"thread,omitempty"`
	Containers  []containerJSON  `json:"containers"`
	Pod         *podJSON         `json:"pod"`
	Task        *taskJSON        `json:"task"`
	Service     *serviceJSON     `json:"service"`
	Process     *processJSON     `json:"process"`
	Sources     []provenanceJSON `json:"sources"`
	Missing     []string         `json:"missing"`
	AsOf        *time.Time       `json:"asOf"`
	AsOfNs      int64            `json:"asOfNs"`
	Revision    uint64           `json:"revision"`

	Family      *familyJSON `json:"family,omitempty"`
	Explanation []hopJSON   `json:"explanation,omitempty"`
	Timeline    []markJSON  `json:"timeline,omitempty"`
}

type exitJSON struct {
	Known  bool  `json:"known"`
	Code   int32 `json:"code"`
	Signal int32 `json:"signal"`
	OOM    bool  `json:"oom"`
	AtNs   int64 `json:"atNs,omitempty"`
}

type provenanceJSON struct {
	Source string `json:"source"`
	AtNs   int64  `json:"atNs"`
	Stale  bool   `json:"stale,omitempty"`
}

type hopJSON struct {
	What   string `json:"what"`
	Detail string `json:"detail"`
	Source string `json:"source"`
	AtNs   int64  `json:"atNs,omitempty"`
}

// markJSON is a point of a timeline; SinceFirstNs counts from the first one.
type markJSON struct {
	What         string `json:"what"`
	Source       string `json:"source"`
	AtNs         int64  `json:"atNs"`
	SinceFirstNs int64  `json:"sinceFirstNs"`
}

type serviceJSON struct {
	Unit         string `json:"unit"`
	Slice        string `json:"slice,omitempty"`
	Cgroup       string `json:"cgroup,omitempty"`
	User         string `json:"user,omitempty"`
	UserUnit     string `json:"userUnit,omitempty"`
	UserSlice    string `json:"userSlice,omitempty"`
	Confidence   string `json:"confidence,omitempty"`
	Description  string `json:"description,omitempty"`
	Active       string `json:"active,omitempty"`
	Sub          string `json:"sub,omitempty"`
	InvocationID string `json:"invocationId,omitempty"`
	MainPID      uint32 `json:"mainPid,omitempty"`
}

type processJSON struct {
	PID               uint32       `json:"pid"`
	StartTimeNs       uint64       `json:"startTimeNs"`
	StartTimeTicks    bool         `json:"startTimeTicks,omitempty"` // rounded down to 10 ms: write PID@START~
	PidfsInode        uint64       `json:"pidfsInode,omitempty"`
	ParentPID         uint32       `json:"parentPid"`
	Comm              string       `json:"comm"`
	Exe               string       `json:"exe"`
	Status            string       `json:"status"`
	Confidence        string       `json:"confidence"`
	Container         string       `json:"container,omitempty"`
	Entry             string       `json:"entry,omitempty"`
	ForeignNamespaces bool         `json:"foreignNamespaces,omitempty"`
	Reason            string       `json:"reason,omitempty"`
	Service           *serviceJSON `json:"service,omitempty"`
	PIDNamespaces     []pidnsJSON  `json:"pidNamespaces,omitempty"`
	MountNamespace    uint32       `json:"mountNamespace,omitempty"`
	Cgroups           []cgroupJSON `json:"cgroups,omitempty"`
	ExecNs            int64        `json:"execNs,omitempty"`
	Exit              *exitJSON    `json:"exit,omitempty"`
	Source            string       `json:"source,omitempty"` // "remote": another pidigree says so
	Stale             bool         `json:"stale,omitempty"`  // which is away
	// What was read of it for this answer, where that was asked for.
	*detailJSON
}

type pidnsJSON struct {
	Inum uint32 `json:"inum"`
	PID  uint32 `json:"pid"`
}

type cgroupJSON struct {
	Hierarchy uint32 `json:"hierarchy"`
	ID        uint64 `json:"id"`
	Path      string `json:"path,omitempty"`
}

// containerJSON: image is what the user asked for, or the engine's id of it.
type containerJSON struct {
	ID           string            `json:"id"`
	Name         string            `json:"name"`
	Runtime      string            `json:"runtime"`
	Namespace    string            `json:"namespace,omitempty"`
	Instance     string            `json:"instance,omitempty"`
	Aliases      []string          `json:"aliases,omitempty"`
	Image        string            `json:"image"`
	ImageTag     string            `json:"imageTag,omitempty"`
	ImageDigest  string            `json:"imageDigest,omitempty"`
	ImageID      string            `json:"imageId,omitempty"`
	Labels       map[string]string `json:"labels"`
	Env          map[string]string `json:"env,omitempty"`
	State        string            `json:"state"`
	Health       string            `json:"health,omitempty"`
	Confidence   string            `json:"confidence"`
	Sandbox      bool              `json:"sandbox,omitempty"`
	Parent       string            `json:"parent,omitempty"`
	Pod          *podJSON          `json:"pod,omitempty"`
	Task         *taskRefJSON      `json:"task,omitempty"`
	PID          uint32            `json:"pid,omitempty"`
	StartTimeNs  uint64            `json:"startTimeNs,omitempty"`
	Created      *time.Time        `json:"created,omitempty"`
	Started      *time.Time        `json:"started,omitempty"`
	Finished     *time.Time        `json:"finished,omitempty"`
	Exit         *exitJSON         `json:"exit,omitempty"`
	Hostname     string            `json:"hostname,omitempty"`
	User         string            `json:"user,omitempty"`
	Networks     []networkJSON     `json:"networks,omitempty"`
	Ports        []portJSON        `json:"ports,omitempty"`
	Mounts       []mountJSON       `json:"mounts,omitempty"`
	Limits       *limitsJSON       `json:"limits,omitempty"`
	Security     *securityJSON     `json:"security,omitempty"`
	Bundle       string            `json:"bundle,omitempty"`
	Cgroups      []cgroupJSON      `json:"cgroups,omitempty"`
	Sources      []provenanceJSON  `json:"sources"`
	Missing      []string          `json:"missing"`
	Truncated    []string          `json:"truncated,omitempty"`
	ClaimedPaths []string          `json:"claimedPaths,omitempty"`
	Role         string            `json:"role,omitempty"`
	Attempt      uint32            `json:"attempt,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Reason       string            `json:"reason,omitempty"`
	Filtered     bool              `json:"filtered,omitempty"`
}

type networkJSON struct {
	Name string   `json:"name"`
	IPs  []string `json:"ips"`
	MAC  string   `json:"mac,omitempty"`
}

type portJSON struct {
	Container uint16 `json:"container"`
	Protocol  string `json:"protocol"`
	HostIP    string `json:"hostIp,omitempty"`
	HostPort  uint16 `json:"hostPort,omitempty"`
}

type mountJSON struct {
	Type        string `json:"type"`
	Source      string `json:"source"`
	Destination string `json:"destination"`
	ReadOnly    bool   `json:"readOnly"`
}

type limitsJSON struct {
	MemoryBytes int64 `json:"memoryBytes,omitempty"`
	NanoCPUs    int64 `json:"nanoCpus,omitempty"`
	CPUShares   int64 `json:"cpuShares,omitempty"`
	Pids        int64 `json:"pids,omitempty"`
}

type securityJSON struct {
	Privileged   bool     `json:"privileged"`
	AddedCaps    []string `json:"addedCaps"`
	HostPID      bool     `json:"hostPid"`
	HostNetwork  bool     `json:"hostNetwork"`
	HostIPC      bool     `json:"hostIpc"`
	ReadOnlyRoot bool     `json:"readOnlyRoot"`
}

// answerObject makes the object of one result.
func (a *app) answerObject(q question, r workload.Result) answerJSON {
	ans := r.Answer
	o := answerJSON{
		Query: q.word, Status: string(ans.Status), Confidence: string(ans.Confidence), Exited: ans.Exited,
		Reason: ans.Reason, Thread: uint32(ans.Thread), Containers: []containerJSON{},
		Sources: []provenanceJSON{}, Missing: list(ans.Missing()), AsOf: a.wall(ans.AsOf), AsOfNs: int64(ans.AsOf),
		Revision: uint64(ans.Revision), Explanation: convert(r.Explanation, hopObject),
	}
	if r.Err != nil {
		o.Status, o.Reason, o.Error = string(workload.StatusUnknown), r.Err.Error(), r.Err.Error()
	}
	if o.Status == "" {
		o.Status = string(workload.StatusUnknown)
	}
	if pid := q.query.PID; pid != 0 {
		o.PID = new(uint32(pid))
	}
	if p := ans.Process; p != nil {
		o.PID, o.StartTimeNs = new(uint32(p.Key.PID)), new(p.Key.Start)
		o.Process, o.Exit = new(processObject(p)), exitObject(p.Exit)
	}
	for _, c := range ans.Containers {
		o.Containers = append(o.Containers, containerObject(c))
	}
	if c := ans.Container(); c != nil {
		o.Sources = provenance(c.Sources)
		if ans.Process == nil {
			o.Exit = exitObject(lastExit(c))
		}
	}
	o.Pod, o.Task, o.Service = podObject(ans.Pod), taskObject(ans.Task), serviceObject(ans.Service)
	return o
}

// wall gives the wall-clock time of an instant since boot, nil if it is unknown.
// It is as right as the host's clock is now.
func (a *app) wall(t workload.KTime) *time.Time {
	now := a.env.SinceBoot()
	if t <= 0 || now <= 0 {
		return nil
	}
	w := a.env.Now().Add(time.Duration(t - now)).UTC()
	return &w
}

func containerObject(c *workload.Container) containerJSON {
	o := containerJSON{
		ID: c.ID.ID, Name: c.Name, Runtime: c.Runtime, Namespace: c.ID.Namespace, Instance: c.ID.Instance,
		Aliases: convert(c.Aliases, workload.ContainerID.String),
		Image:   imageName(c), ImageTag: c.Image.Tag, ImageDigest: c.Image.Digest, ImageID: c.Image.ID,
		Labels: c.Labels, Env: c.Env, State: stateWord(c.State), Health: string(c.Health), Confidence: string(c.Confidence), Sandbox: c.Sandbox,
		Pod: podRefObject(c.Pod), Task: taskRefObject(c.Task), Created: timeObject(c.Created), Started: timeObject(c.Started),
		Finished: timeObject(c.Finished), Exit: exitObject(lastExit(c)), Hostname: c.Hostname, User: c.User,
		Networks: convert(c.Networks, networkObject), Ports: convert(c.Ports, portObject),
		Mounts: convert(c.Mounts, mountObject), Limits: limitsObject(c.Limits), Security: securityObject(c.Security),
		Bundle: c.Bundle, Sources: provenance(c.Sources), Missing: list(c.Missing), Truncated: c.Truncated,
		Role: string(c.Role), Attempt: c.Attempt, Annotations: c.Annotations, Reason: c.Reason, Filtered: c.Filtered,
	}
	if o.Runtime == "" {
		o.Runtime = c.ID.Runtime
	}
	if o.Labels == nil {
		o.Labels = map[string]string{}
	}
	if !c.Parent.IsZero() {
		o.Parent = c.Parent.String()
	}
	if r := c.Run; r != nil {
		o.PID, o.StartTimeNs = uint32(r.Init.PID), r.Init.Start
		o.Cgroups, o.ClaimedPaths = convert(r.Cgroups, cgroupPathObject), r.ClaimedPaths
	}
	return o
}

// imageName is the name that people know an image by; some containers have only an id.
func imageName(c *workload.Container) string {
	if c.Image.Name == "" {
		return c.Image.ID
	}
	return c.Image.Name
}

// lastExit is how the container last ended: its own word, or its run's.
func lastExit(c *workload.Container) *workload.Exit {
	if c.Exit == nil && c.Run != nil {
		return c.Run.Exit
	}
	return c.Exit
}

func stateWord(s workload.State) string {
	if s == workload.StateUnknown {
		return "unknown"
	}
	return string(s)
}

func processObject(p *workload.Process) processJSON {
	o := processJSON{
		PID: uint32(p.Key.PID), StartTimeNs: p.Key.Start, StartTimeTicks: p.Key.Ticks, PidfsInode: p.Key.Inode, ParentPID: uint32(p.Parent),
		Comm: p.Comm, Exe: p.Exe, Status: string(p.Status), Confidence: string(p.Confidence), Entry: string(p.Entry),
		ForeignNamespaces: p.ForeignNamespaces, Reason: p.Reason, Service: serviceObject(p.Service),
		PIDNamespaces:  convert(p.PIDNamespaces, pidnsObject),
		MountNamespace: p.MountNS, Cgroups: convert(p.Cgroups, cgroupObject), ExecNs: int64(p.Exec), Exit: exitObject(p.Exit),
		Source: p.Source, Stale: p.Stale, detailJSON: detailObject(p.Detail),
	}
	if !p.Container.IsZero() {
		o.Container = p.Container.String()
	}
	return o
}

func exitObject(e *workload.Exit) *exitJSON {
	if e == nil {
		return nil
	}
	return &exitJSON{Known: e.Known, Code: e.Code, Signal: e.Signal, OOM: e.OOM, AtNs: int64(e.At)}
}

func provenance(p []workload.Provenance) []provenanceJSON {
	return list(convert(p, func(p workload.Provenance) provenanceJSON {
		return provenanceJSON{Source: p.Source, AtNs: int64(p.At), Stale: p.Stale}
	}))
}

func hopObject(h workload.Hop) hopJSON {
	return hopJSON{What: h.What, Detail: h.Detail, Source: h.Source, AtNs: int64(h.At)}
}

// timelineObject gives the marks with their distance from the first.
func timelineObject(marks []workload.Mark) []markJSON {
	return convert(marks, func(m workload.Mark) markJSON {
		return markJSON{What: m.What, Source: m.Source, AtNs: int64(m.At), SinceFirstNs: int64(m.At - marks[0].At)}
	})
}

func serviceObject(s *workload.Service) *serviceJSON {
	if s == nil {
		return nil
	}
	return &serviceJSON{
		Unit: s.Unit, Slice: s.Slice, Cgroup: s.Cgroup, User: s.User, UserUnit: s.UserUnit, UserSlice: s.UserSlice,
		Confidence: string(s.Confidence), Description: s.Description, Active: s.Active, Sub: s.Sub,
		InvocationID: s.InvocationID, MainPID: uint32(s.MainPID),
	}
}

func pidnsObject(n workload.PIDNamespace) pidnsJSON { return pidnsJSON{n.Inum, uint32(n.PID)} }

func cgroupObject(c workload.CgroupID) cgroupJSON {
	return cgroupJSON{Hierarchy: c.Hierarchy, ID: c.ID}
}

func cgroupPathObject(c workload.CgroupPath) cgroupJSON {
	return cgroupJSON{Hierarchy: c.Hierarchy, ID: c.ID, Path: c.Path}
}

func networkObject(n workload.Network) networkJSON {
	return networkJSON{Name: n.Name, IPs: list(n.IPs), MAC: n.MAC}
}

func portObject(p workload.Port) portJSON { return portJSON(p) }

func mountObject(m workload.Mount) mountJSON { return mountJSON(m) }

func limitsObject(l *workload.Limits) *limitsJSON {
	if l == nil {
		return nil
	}
	return new(limitsJSON(*l))
}

func securityObject(s *workload.Security) *securityJSON {
	if s == nil {
		return nil
	}
	o := securityJSON(*s)
	o.AddedCaps = list(o.AddedCaps)
	return &o
}

func timeObject(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// convert maps a slice; nil stays nil.
func convert[S ~[]E, E, O any](s S, f func(E) O) []O {
	if s == nil {
		return nil
	}
	out := make([]O, len(s))
	for i, e := range s {
		out[i] = f(e)
	}
	return out
}

// list makes nil an empty list, which JSON writes as [] and not as null.
func list[E any](s []E) []E {
	if s == nil {
		return []E{}
	}
	return s
}
