// SPDX-License-Identifier: Apache-2.0

package collectors

import (
	"fmt"
	"maps"
	"slices"

	"github.com/pidigree/pidigree/internal/boundjson"
)

// The budgets of reading, in bytes. They bound what one container can cost
// before Bounds are applied to what is left. docs/budgets.md lists all of them.
const (
	// MaxStateFile bounds a runtime's state and a bundle's config.json: runc
	// takes 100,000 annotations and repeats them in its state. Read in a stream.
	MaxStateFile = 32 << 20
	// MaxEngineFile bounds Docker's config.v2.json: it takes a label of hundreds of MiB. Read in a stream.
	MaxEngineFile = 1 << 30
	// MaxReply bounds what is read of one reply of Docker's API, as it comes in.
	MaxReply = 1 << 30
	// MaxList bounds a list of Docker's after each container was cut: some 20,000
	// containers. Beyond it the containers are read one at a time, from files.
	MaxList = 64 << 20
	// MaxRecord bounds one message of containerd's, or of the CRI's about one container. A container whose record is
	// larger is known by its id and its task.
	MaxRecord = 8 << 20
	// MaxPodList bounds a list of the CRI's, as the engines and the kubelet do:
	// some 20,000 containers. A longer one is asked for pod by pod.
	MaxPodList = 16 << 20
	// MaxKubeletList bounds a list of the kubelet's: some 10,000 pods, ten times what a
	// node may have. Read in a stream, one pod at a time.
	MaxKubeletList = 64 << 20
	// MaxTaskList bounds a list of the ECS agent's: some thousand tasks, which an
	// instance has not. Read in a stream, one task at a time.
	MaxTaskList = 32 << 20
	// MaxDocument bounds what is decoded of one container, once it is cut.
	MaxDocument = 16 << 20
)

// keep are the beginnings of the keys that stay when not all can.
var keep = []string{"io.kubernetes.", "io.container.", "io.cri-containerd.", "com.amazonaws.ecs.", "com.docker.", "io.containerd.", "nerdctl/"}

// Reading gives the budgets for reading one container's JSON: twice what Bounds
// keep, or more, so that Bounds see what is over. The variables in env are kept,
// as are the keys of orchestrators.
func Reading(env map[string]bool) boundjson.Limits {
	l := boundjson.Limits{
		String:  8 << 10,
		Members: 512,
		Bytes:   []int{MaxDocument, 2 << 20, 128 << 10},
		Depth:   64,
		Raw:     MaxEngineFile,
		Total:   MaxDocument + 1<<20,
		Keep:    slices.Clone(keep),
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		l.Keep = append(l.Keep, name+"=")
	}
	return l
}

// Budget is one row of docs/budgets.md.
type Budget struct{ What, Limit, Field string }

// Budgets lists all budgets of a container, a pod, a task and an image, for the documentation.
func Budgets() []Budget {
	b, r := Bounds{}.withDefaults(), Reading(nil)
	bytes := func(n int) string {
		switch {
		case n >= 1<<30:
			return fmt.Sprintf("%d GiB", n>>30)
		case n >= 1<<20:
			return fmt.Sprintf("%d MiB", n>>20)
		case n >= 1<<10:
			return fmt.Sprintf("%d KiB", n>>10)
		}
		return fmt.Sprintf("%d bytes", n)
	}
	return []Budget{
		{"name, host name, user, pod, runtime, reason, each", bytes(b.Name), "name, hostname, user, pod, runtime, reason"},
		{"each part of the image's reference", bytes(b.Image), "image"},
		{"the bundle's path", bytes(b.Path), "bundle"},
		{"the key of a label, annotation or variable", bytes(b.Key), "labels, annotations, env"},
		{"the value of a label, annotation or variable", bytes(b.Value), "labels, annotations, env"},
		{"labels; annotations; variables of the allow-list", fmt.Sprintf("%d each", b.Entries), "labels, annotations, env"},
		{"mounts", fmt.Sprint(b.Mounts), "mounts"},
		{"networks", fmt.Sprint(b.Networks), "networks"},
		{"addresses of a network", fmt.Sprint(b.Few), "networks"},
		{"ports", fmt.Sprint(b.Ports), "ports"},
		{"added capabilities", fmt.Sprint(b.Caps), "security"},
		{"cgroup paths that a source claims", fmt.Sprint(b.Few), "run"},
		{"aliases", fmt.Sprint(b.Few), "aliases"},
		{"a pod: its namespace, node, phase and other words, each", bytes(b.Name), "the field"},
		{"a pod: addresses, sandboxes, conditions, owners", fmt.Sprintf("%d each", b.Few), "ips, sandboxes, conditions, owners"},
		{"a pod: containers, volumes", fmt.Sprintf("%d each", b.Mounts), "containers, volumes"},
		{"a pod: the image of a container, the source of a volume", bytes(b.Image) + ", " + bytes(b.Path), "containers, volumes"},
		{"a task: its cluster, family, service, statuses and other words, each", bytes(b.Name), "the field"},
		{"a task: tags of its own; of its instance", fmt.Sprintf("%d each", b.Entries), "tags, instanceTags"},
		{"a task: containers", fmt.Sprint(b.Mounts), "containers"},
		{"an image: names; digests", fmt.Sprintf("%d each, of %s", b.Entries, bytes(b.Image)), "names, digests"},
		{"an image: layers", fmt.Sprint(b.Mounts), "layers"},
		{"all labels, all annotations, all variables, all mounts, networks, ports, claimed paths, a pod's containers, its volumes, an image's names, its digests, its layers", bytes(b.Bytes) + " each", "the field"},
		{"all of these together", bytes(b.Total), "the fields"},
		{"a process's program, command line (read when asked for)", "4 KiB each, 128 arguments", "command"},
		{"a process's ancestors, children (read when asked for)", "64, 256", "ancestors, children"},
		{"read: a string", bytes(r.String), "the field"},
		{"read: members of a list or object of JSON", fmt.Sprint(r.Members), "the field, spec or config"},
		{"read: nesting of JSON", fmt.Sprintf("%d levels", r.Depth), "bundle"},
		{"read: the JSON of one container, after cutting", bytes(MaxDocument), "spec or config"},
		{"read: a runtime's state, a bundle's config.json", bytes(MaxStateFile), "bundle"},
		{"read: Docker's files of a container, a reply of its API", bytes(MaxEngineFile), "labels"},
		{"read: a list of Docker's, after cutting; then one at a time", bytes(MaxList), "none"},
		{"read: a list of the CRI's; then pod by pod", bytes(MaxPodList), "none"},
		{"read: the kubelet's list of pods, and each pod of it after cutting", bytes(MaxKubeletList) + ", 4 MiB", "none, the field"},
		{"read: the ECS agent's list of tasks, and each task of it after cutting", bytes(MaxTaskList) + ", 1 MiB", "none, the field"},
		{"read: a record of containerd's; then by id and task alone", bytes(MaxRecord), "image, labels, spec"},
	}
}
