// SPDX-License-Identifier: Apache-2.0

package store

import (
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// The sources that the table knows, each a collector's Name.
const (
	srcDocker     = "docker"
	srcPodman     = "podman"
	srcCRI        = "cri"
	srcKubelet    = "kubelet"
	srcECS        = "ecs"
	srcContainerd = "containerd"
	srcOCI        = "oci"
)

// The orders that several fields share, the first wins.
var (
	// asked: whoever the user started the container with knows best what was
	// asked for; below it the engines that it used, down to the runtime's files.
	asked = []string{srcDocker, srcPodman, srcCRI, srcKubelet, srcECS, srcContainerd, srcOCI, KernelSource}
	// applied: what the runtime was told to do in the end comes before what an
	// orchestrator wanted.
	applied = []string{srcDocker, srcPodman, srcCRI, srcOCI, srcContainerd, srcKubelet, srcECS, KernelSource}
	// pods: who makes pods comes first.
	pods = []string{srcKubelet, srcCRI, srcPodman, srcDocker, srcContainerd, srcOCI, KernelSource}
	// low: nearest to the kernel first.
	low = []string{srcOCI, srcContainerd, srcPodman, srcCRI, srcDocker, KernelSource}
	// own: only the correlator may say it. What other layers say is ignored.
	own = []string{KernelSource, RemoteSource}
	// agent: no layer says it.
	agent = []string{"the agent"}
)

// ruleOf says how one field of the merged entity comes from the layers.
type ruleOf[T any] struct {
	field string
	// order of the sources; those that it does not name follow alphabetically,
	// unless only is set.
	order []string
	only  bool
	// how the layers are joined, for the docs.
	how   string
	merge func(dst *T, in mergingOf[T])
}

type (
	container = workload.Container
	rule      = ruleOf[container]
	merging   = mergingOf[container]
)

// mergingOf is the input of one rule: the layers in the order of its sources.
type mergingOf[T any] struct {
	key    workload.ContainerID // of a container
	layers []layerOf[T]
	// arrived is all layers in the order of their arrival.
	arrived []layerOf[T]
	kernel  *T // nil if there is no such layer
	gone    bool
}

const (
	firstSays   = "the first that says it"
	firstWhole  = "the first that says it, whole: never mixed; an empty map or list says that there is none, nil says nothing"
	firstPair   = "the first with a name; name and tag stay together"
	kernelAlone = "the correlator's own; another pidigree's where this one knows nothing of it"
	hidden      = "set in what is shown, where the configuration hides it"
)

// precedence is the one table of rule 7, by field, in the order in which the
// rules run: State before Exit, Name before ID.
var precedence = []rule{
	{"Name", asked, false, firstSays, pick(func(c *container) *string { return &c.Name }, notZero)},
	{"ID", asked, false, "that of the first with a name, the id that its users see; without a name the first; else the entity's key", mergeID},
	{"Aliases", asked, false, "every other id: the entity's key, the layers' ids and their aliases", mergeAliases},
	{"Parent", own, true, kernelAlone, pickOwn(func(c *container) *workload.ContainerID { return &c.Parent }, notZero)},
	{"Runtime", asked, false, firstSays, pick(func(c *container) *string { return &c.Runtime }, notZero)},
	{"Image.Name, Image.Tag", asked, false, firstPair, mergeImageName},
	{"Image.Digest", []string{srcContainerd, srcCRI, srcPodman, srcDocker, srcKubelet, srcECS, srcOCI, KernelSource}, false, firstSays, pick(func(c *container) *string { return &c.Image.Digest }, notZero)},
	{"Image.ID", asked, false, firstSays, pick(func(c *container) *string { return &c.Image.ID }, notZero)},
	{"Labels", asked, false, firstWhole, pick(func(c *container) *map[string]string { return &c.Labels }, mapSaid)},
	{"Env", applied, false, firstWhole, pick(func(c *container) *map[string]string { return &c.Env }, mapSaid)},
	{"State", asked, false, "exited where the entity is a tombstone, and where the kernel says so and the first that says it does not say restarting; running where the kernel says so and the first that says it says created, exited or restarting; else the first that says it", mergeState},
	{"Health", asked, false, "none unless it runs; the first that says it", mergeHealth},
	{"Created", asked, false, firstSays, pick(func(c *container) *time.Time { return &c.Created }, notZero)},
	{"Started", asked, false, firstSays, pick(func(c *container) *time.Time { return &c.Started }, notZero)},
	{"Finished", asked, false, firstSays, pick(func(c *container) *time.Time { return &c.Finished }, notZero)},
	{"Exit", asked, false, "none while it runs; the kernel's where it is known, else the first known one, else the first; OOM where anyone says so", mergeExit},
	{"Hostname", applied, false, firstSays, pick(func(c *container) *string { return &c.Hostname }, notZero)},
	{"Networks", asked, false, firstWhole, pick(func(c *container) *[]workload.Network { return &c.Networks }, listSaid)},
	{"Ports", asked, false, firstWhole, pick(func(c *container) *[]workload.Port { return &c.Ports }, listSaid)},
	{"Mounts", applied, false, firstWhole, pick(func(c *container) *[]workload.Mount { return &c.Mounts }, listSaid)},
	{"Limits", applied, false, firstWhole, pick(func(c *container) **workload.Limits { return &c.Limits }, notZero)},
	{"User", applied, false, firstSays, pick(func(c *container) *string { return &c.User }, notZero)},
	{"Security", applied, false, firstWhole, pick(func(c *container) **workload.Security { return &c.Security }, notZero)},
	{"Bundle", low, false, firstSays, pick(func(c *container) *string { return &c.Bundle }, notZero)},
	{"Sandbox", asked, false, "set where anyone says so", mergeSandbox},
	{"Pod", pods, false, firstWhole, pick(func(c *container) **workload.PodRef { return &c.Pod }, notZero)},
	{"Task", tasks, false, firstWhole, pick(func(c *container) **workload.TaskRef { return &c.Task }, notZero)},
	{"Role", pods, false, firstSays, pick(func(c *container) *workload.Role { return &c.Role }, notZero)},
	{"Attempt", pods, false, firstSays, pick(func(c *container) *uint32 { return &c.Attempt }, notZero)},
	{"Annotations", asked, false, firstWhole, pick(func(c *container) *map[string]string { return &c.Annotations }, mapSaid)},
	{"Reason", asked, false, "none while it runs; the first that says it", mergeReason},
	{"Run", own, true, kernelAlone, pickOwn(func(c *container) **workload.Run { return &c.Run }, notZero)},
	{"Confidence", own, true, kernelAlone, pickOwn(func(c *container) *workload.Confidence { return &c.Confidence }, notZero)},
	{"Sources", nil, false, "every layer with the time of its arrival, in the order of their first arrival", mergeSources(func(c *container) *[]workload.Provenance { return &c.Sources })},
	{"Missing", own, true, kernelAlone, pickOwn(func(c *container) *[]string { return &c.Missing }, listSaid)},
	{"Timeline", own, true, kernelAlone, pickOwn(func(c *container) *[]workload.Mark { return &c.Timeline }, listSaid)},
	{"Truncated", asked, false, "what any layer had to cut", mergeTruncated(func(c *container) *[]string { return &c.Truncated })},
	{"Filtered", agent, true, hidden, func(*container, merging) {}},
}
