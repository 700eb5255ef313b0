// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"errors"
	"testing"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/server"
	"github.com/pidigree/pidigree/pkg/workload"
)

func TestAnImageIsFoundByWhatItsContainersHave(t *testing.T) {
	image := func(runtime, id, name, digest string, gone bool) workload.Entity {
		i := &workload.Image{Runtime: runtime, ID: id, Names: []string{name}, Digests: []string{name + "@" + digest}}
		return workload.Entity{Kind: workload.KindImage, Image: i, Gone: gone}
	}
	r := start(t, &backend{list: func(context.Context, workload.Selector) seqOf[workload.Entity] {
		return slice(
			image("docker", "sha256:a", "web:1", "sha256:d1", false), image("podman", "sha256:a", "localhost/web:1", "sha256:d2", false),
			image("docker", "sha256:b", "db:1", "sha256:d3", false), image("docker", "sha256:c", "db:1", "sha256:d4", true),
		)
	}}, func(*server.Options) {})
	c, err := client.New(client.Options{Socket: r.socket, AnyOwner: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, want := range map[string]string{
		"sha256:b": "docker://sha256:b", "docker://sha256:a": "docker://sha256:a", "podman://sha256:a": "podman://sha256:a",
		"web:1": "docker://sha256:a", "localhost/web:1": "podman://sha256:a", "sha256:d2": "podman://sha256:a",
		"db:1@sha256:d3": "docker://sha256:b", "db:1": "docker://sha256:b", "sha256:d4": "docker://sha256:c",
	} {
		if e, err := c.Get(t.Context(), workload.KindImage, name); err != nil || e.Image.Key() != want {
			t.Errorf("%s: %+v, %v, want %s", name, e.Image, err, want)
		}
	}
	for name, want := range map[string]error{"sha256:a": workload.ErrAmbiguous, "sha256:": workload.ErrNotFound, "web": workload.ErrNotFound} {
		if _, err := c.Get(t.Context(), workload.KindImage, name); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
