// SPDX-License-Identifier: Apache-2.0

package collectors

import (
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
	// MaxRecord bounds one message of containerd's. A container whose record is
	// larger is known by its id and its task.
	MaxRecord = 8 << 20
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
