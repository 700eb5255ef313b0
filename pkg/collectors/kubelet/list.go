// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/pidigree/pidigree/internal/boundjson"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// list is what the kubelet said once. It is not changed after it was made.
type list struct {
	began time.Time
	pods  []*workload.Pod
	byUID map[string]*workload.Pod
	// byHash has the static ones by their manifests' hashes, which as a rule are their uids.
	byHash map[string]*workload.Pod
	// containers are those that were made, by their engine's ids.
	containers map[string]*described
	// busy: something in it is on its way, so that the next list will differ.
	busy bool
	// odd counts the pods that were not understood in part.
	odd int

	where, how string
	process    process
}

// pod finds a pod by its UID, or a static one by its hash; nil if it is not there.
func (l *list) pod(uid string) *workload.Pod { return cmp.Or(l.byUID[uid], l.byHash[uid]) }

// errNoList means that the answer is JSON of something else.
var errNoList = errors.New("the answer is no list of pods: is this a kubelet?")

// maxPods bounds what is kept of a list. A node has 110 by default.
const maxPods = 4096

// decode reads a PodList of at most maxReply bytes, one pod at a time.
func decode(r io.Reader, maxReply int) (*list, error) {
	l := &list{byUID: map[string]*workload.Pod{}, byHash: map[string]*workload.Pod{}, containers: map[string]*described{}}
	dec := json.NewDecoder(boundjson.NewReader(r, limits(maxReply)))
	if err := expect(dec, '{'); err != nil {
		return nil, err
	}
	kind := ""
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, wrong(err)
		}
		switch key {
		case "items":
			err = l.items(dec)
		case "kind":
			err = dec.Decode(&kind)
		default:
			err = dec.Decode(new(json.RawMessage))
		}
		if err != nil {
			return nil, wrong(err)
		}
	}
	if err := expect(dec, '}'); err != nil {
		return nil, err
	}
	if kind != "PodList" {
		return nil, errNoList
	}
	return l, nil
}

// expect takes one token. One that is another is not what we asked for.
func expect(dec *json.Decoder, want json.Delim) error {
	switch got, err := dec.Token(); {
	case err != nil:
		return wrong(err)
	case got != want:
		return errNoList
	}
	return nil
}

// wrong says in a few words what is the matter with an answer.
func wrong(err error) error {
	switch {
	case errors.Is(err, boundjson.ErrTooLarge):
		return fmt.Errorf("the list of pods: over the budget: %w", err)
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return fmt.Errorf("the list of pods: %w", err)
}

func (l *list) items(dec *json.Decoder) error {
	open, err := dec.Token()
	if err != nil || open == nil { // null: no pods
		return err
	}
	if open != json.Delim('[') {
		return errNoList
	}
	for dec.More() {
		var p podJSON
		var typed *json.UnmarshalTypeError
		// A field of another type than it should be is left out, and hides neither
		// the rest nor other pods.
		if err := dec.Decode(&p); errors.As(err, &typed) {
			l.odd++
		} else if err != nil {
			return err
		}
		l.add(&p, typed)
	}
	return expect(dec, ']')
}

func (l *list) add(p *podJSON, typed *json.UnmarshalTypeError) {
	uid := p.Metadata.UID
	if !isPodUID(uid) || l.byUID[uid] != nil || len(l.pods) >= maxPods {
		l.odd++
		return
	}
	pod := p.pod()
	if typed != nil {
		field, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(typed.Field, "metadata."), "spec."), "status."), ".")
		pod.Truncated = append(pod.Truncated, field)
	}
	collectors.BoundPod(pod)
	l.pods = append(l.pods, pod)
	l.byUID[uid] = pod
	if h := pod.ConfigHash; h != "" && l.byHash[h] == nil {
		l.byHash[h] = pod
	}
	l.busy = l.busy || busy(pod)
	for _, c := range pod.Containers {
		if hex := c.ID.ID; hex != "" && l.containers[hex] == nil {
			l.containers[hex] = describe(pod, c)
		}
	}
}

// isPodUID accepts what the API server and the kubelet give: a UUID, the 32 hex
// digits of a static pod's hash, or what a manifest says. 64 hex digits are
// podman's.
func isPodUID(s string) bool {
	if len(s) == 0 || len(s) > 128 || len(s) == 64 {
		return false
	}
	for _, b := range []byte(s) {
		if (b < '0' || b > '9') && (b < 'a' || b > 'z') && (b < 'A' || b > 'Z') && b != '-' && b != '_' && b != '.' {
			return false
		}
	}
	return true
}
