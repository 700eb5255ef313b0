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

func TestAPodIsFoundByItsUIDOrItsName(t *testing.T) {
	pod := func(uid, namespace, name string, gone bool) workload.Entity {
		p := &workload.Pod{PodRef: workload.PodRef{UID: uid, Namespace: namespace, Name: name}}
		if uid == "mirror" {
			p.Static, p.ConfigHash = true, "hash"
		}
		return workload.Entity{Kind: workload.KindPod, Pod: p, Gone: gone}
	}
	r := start(t, &backend{list: func(context.Context, workload.Selector) seqOf[workload.Entity] {
		return slice(
			pod("u1", "prod", "web", false), pod("u2", "dev", "web", false), pod("u3", "prod", "db", false), pod("u4", "prod", "db", true),
			pod("mirror", "kube-system", "etcd", false), pod("u5", "prod", "u1", false), pod("u6", "", "podmans", false),
		)
	}}, func(*server.Options) {})
	c, err := client.New(client.Options{Socket: r.socket, AnyOwner: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, want := range map[string]string{
		"u2": "u2", "prod/web": "u1", "dev/web": "u2", "db": "u3", "prod/db": "u3", "hash": "mirror", "etcd": "mirror", "u1": "u1", "podmans": "u6",
	} {
		if e, err := c.Get(t.Context(), workload.KindPod, name); err != nil || e.Pod.UID != want {
			t.Errorf("%s: %+v, %v, want %s", name, e.Pod, err, want)
		}
	}
	for name, want := range map[string]error{"web": workload.ErrAmbiguous, "none": workload.ErrNotFound, "prod/none": workload.ErrNotFound, "/podmans": workload.ErrNotFound} {
		if _, err := c.Get(t.Context(), workload.KindPod, name); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
