// SPDX-License-Identifier: Apache-2.0

// Package collectors is the contract between pidigree and the sources that
// know containers: engines, runtimes and their files.
//
// A collector translates one source to the nouns of package workload and does
// nothing else: no cache that outlives a call, no retry, no judgement about
// identity. Whoever calls decides when to ask and what to believe. Every method
// may be called concurrently, returns when its context ends, and never blocks
// on another container than the one asked for. What a collector returns is
// immutable. Strings in it are as the source gave them, cut to the budgets of
// Bound.
package collectors

import (
	"context"
	"errors"
	"iter"

	"github.com/pidigree/pidigree/pkg/workload"
)

var (
	// ErrNotFound means that the source works and has no such container.
	ErrNotFound = errors.New("not found")
	// ErrUnavailable means that the source cannot say now; ask again later.
	ErrUnavailable = errors.New("unavailable")
	// ErrNotPresent means that the source is not on this host (no socket, no directory). Not an error to a user.
	ErrNotPresent = errors.New("not present")
	// ErrNotMine means that the id belongs to another runtime and was not looked for.
	ErrNotMine = errors.New("not mine")
)

// Collector is one source.
type Collector interface {
	// Name is one lower-case word: docker, containerd, oci. It is the Source of all provenance.
	Name() string
	// Locate says which container, if any, the evidence belongs to.
	// ErrNotFound: not mine. ErrUnavailable: cannot say now. Collectors are asked side by side.
	Locate(ctx context.Context, e workload.Evidence) (workload.ContainerID, error)
	// Lookup gives what can be said quickly about one container, with at most one call to the runtime.
	Lookup(ctx context.Context, id workload.ContainerID) (*workload.Container, error)
}

// Prefiller is a collector that can read what it needs from files, without a
// call to the runtime. It is asked first, the instant a cgroup appears.
type Prefiller interface {
	Prefill(ctx context.Context, id workload.ContainerID) (*workload.Container, error)
}

// Lister is a collector that can list what it has, for start-up and repair.
type Lister interface {
	List(ctx context.Context) iter.Seq2[*workload.Container, error]
}

// PodCollector is a collector that knows pods.
type PodCollector interface {
	// LookupPod gives what can be said quickly about one pod, by its UID, with at
	// most one call. ErrNotFound: the source works and has no such pod (yet).
	LookupPod(ctx context.Context, uid string) (*workload.Pod, error)
	// ListPods lists the pods that it has, for start-up and repair.
	ListPods(ctx context.Context) iter.Seq2[*workload.Pod, error]
}

// TaskCollector is a collector that knows ECS tasks.
type TaskCollector interface {
	// LookupTask gives what can be said quickly about one task, by its ARN, with at
	// most one call. ErrNotFound: the source works and has no such task (yet).
	LookupTask(ctx context.Context, arn string) (*workload.Task, error)
	// ListTasks lists the tasks that it has, for start-up and repair.
	ListTasks(ctx context.Context) iter.Seq2[*workload.Task, error]
}

// ImageCollector is a collector that knows the images that its engine stores.
//
// Nobody's identity comes from an image, and no container waits for one: the
// supervisor lists images some time after HintImages, not at the instant, for an
// image that was pulled is about to be started, and once for all hints of that time.
type ImageCollector interface {
	// ListImages lists the images that it has. known gives what the last list said
	// of one by its Key, nil if nothing: what an id stands for (its layers, its
	// platform, when it was built) does not change and need not be asked for again.
	ListImages(ctx context.Context, known func(key string) *workload.Image) iter.Seq2[*workload.Image, error]
}

// UnitCollector is a collector that knows the units of the host's system manager.
type UnitCollector interface {
	// LookupUnit says what the manager knows of a unit by its name, if its cgroup has
	// this path. ErrNotFound: there is no such unit, or its cgroup is another one.
	LookupUnit(ctx context.Context, unit, cgroup string) (*workload.Service, error)
}

// Watcher is a collector that hears of changes by itself. Hints are lossy by
// design: nothing may depend on one. Watch blocks until ctx ends or the source
// breaks, and calls fn from one goroutine; fn does not block.
type Watcher interface {
	Watch(ctx context.Context, fn func(Hint)) error
}

// Nudger is a collector whose Watch asks its source at intervals, and can be
// told that this is a good time: the kernel just showed that something started
// or ended. Nudge returns at once, and many in a row are one.
type Nudger interface {
	Nudge()
}

// Prober is a collector that can say whether its source is there. The
// supervisor calls it before it lists and watches, and again until it is.
// ErrNotPresent: not on this host.
type Prober interface {
	Probe(ctx context.Context) (Report, error)
}

// Report says what a probe found.
type Report struct {
	// Where is the socket or directory.
	Where string
	// Version is the engine's, as it says.
	Version string
	// Detail is a few words on what it would give or what is missing.
	Detail string
}

// HintKind says what may have happened.
type HintKind string

// The kinds of hints.
const (
	// HintAlive: the source was heard from and has nothing to say. The supervisor keeps it to itself.
	HintAlive   HintKind = ""
	HintCreated HintKind = "created"
	HintStarted HintKind = "started"
	HintChanged HintKind = "changed"
	HintExited  HintKind = "exited"
	HintDeleted HintKind = "deleted"
	// HintImages: the engine may store other images than before, or under other
	// names. Nothing else is set. The supervisor keeps it to itself, and lists.
	HintImages HintKind = "images"
	// HintServer: Server is who serves the socket of an engine that runs in a container.
	HintServer HintKind = "server"
)

// Hint says that something may have happened to a container.
type Hint struct {
	Kind HintKind
	ID   workload.ContainerID
	// Layer is what the event itself said, nil if nothing: it is merged as if looked up, and wins nothing by being early.
	Layer *workload.Container
	// Pod is set, and ID and Layer are not, where the hint is about a pod: what the
	// source says of it now, or with HintDeleted just its UID.
	Pod *workload.Pod
	// Task is set, and ID, Layer and Pod are not, where the hint is about a task, in
	// the same way.
	Task *workload.Task
	// Err is what the source could not say, of a HintAlive: it is counted and shown as
	// the last error, and everything goes on.
	Err error
	// Server is set with HintServer alone.
	Server workload.ProcessKey
	// Unit is set, and nothing else but Kind, where the hint is about a unit: its
	// name, or EveryUnit.
	Unit string
}

// Nester is a collector of an engine that runs in a container. It is believed about
// what is in that container alone, and tells by HintServer, before all else in a
// Watch, which process serves its socket.
type Nester interface {
	// Nested is the Instance of all its ids; see workload.NestedInstance.
	Nested() string
}

// EveryUnit in a Hint stands for all units.
const EveryUnit = "*"
