// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

type imageJSON struct {
	ID           string            `json:"id"`
	Names        []string          `json:"names"`
	Digests      []string          `json:"digests"`
	Size         int64             `json:"size"`
	Runtime      string            `json:"runtime,omitempty"`
	Instance     string            `json:"instance,omitempty"`
	Namespace    string            `json:"namespace,omitempty"`
	Layers       []imageLayerJSON  `json:"layers,omitempty"`
	OS           string            `json:"os,omitempty"`
	Architecture string            `json:"architecture,omitempty"`
	Variant      string            `json:"variant,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Created      *time.Time        `json:"created,omitempty"`
	Sources      []provenanceJSON  `json:"sources,omitempty"`
	Truncated    []string          `json:"truncated,omitempty"`
}

type imageLayerJSON struct {
	Digest string `json:"digest"`
	Blob   string `json:"blob,omitempty"`
	Size   int64  `json:"size,omitempty"`
}

func imageObject(i *workload.Image) imageJSON {
	o := imageJSON{
		ID: i.ID, Names: list(i.Names), Digests: list(i.Digests), Size: i.Size, Runtime: i.Runtime, Instance: i.Instance, Namespace: i.Namespace,
		Layers: convert(i.Layers, func(l workload.ImageLayer) imageLayerJSON { return imageLayerJSON(l) }),
		OS:     i.OS, Architecture: i.Architecture, Variant: i.Variant, Labels: i.Labels, Created: timeObject(i.Created), Truncated: i.Truncated,
	}
	if len(i.Sources) > 0 {
		o.Sources = provenance(i.Sources)
	}
	return o
}
