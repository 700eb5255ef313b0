// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strings"

	"github.com/pidigree/pidigree/pkg/workload"
)

func imageColumns() []column {
	return []column{
		{head: "ID", max: 16}, {head: "NAME", max: 64}, {head: "STORE", max: 24}, {head: "PLATFORM", max: 16}, {head: "SIZE", right: true}, {head: "AGE", right: true},
	}
}

func (p *tableEntities) imageRow(e workload.Entity) []painted {
	i := e.Image
	id := shortDigest(i.ID)
	if p.wide {
		id = i.ID
	}
	name := painted{text: imageNames(i)}
	if e.Gone {
		name = painted{name.text + " (gone)", dim}
	}
	return []painted{cell(id), name, cell(imageStore(i)), cell(imagePlatform(i)), cell(size(i.Size)), cell(p.age(i.Created))}
}

func imageLabel(i *workload.Image) string {
	if len(i.Names) > 0 {
		return i.Names[0]
	}
	return shortDigest(i.ID)
}

// imageNames is the first name, and how many there are besides.
func imageNames(i *workload.Image) string {
	if n := len(i.Names) - 1; n > 0 {
		return fmt.Sprintf("%s +%d", i.Names[0], n)
	}
	return imageLabel(i)
}

// imageStore is the engine in whose store it is: docker, containerd/k8s.io.
func imageStore(i *workload.Image) string {
	return strings.TrimSuffix(i.Runtime+"/"+i.Namespace, "/")
}

func imagePlatform(i *workload.Image) string {
	return strings.Trim(strings.Join([]string{i.OS, i.Architecture, i.Variant}, "/"), "/")
}
