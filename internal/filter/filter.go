// SPDX-License-Identifier: Apache-2.0

// Package filter decides which containers, pods, tasks, images and processes a filter means.
//
// It owns the patterns: what they are matched against, and what is wrong with
// one. It keeps nothing and does no I/O; a Matcher is immutable and may be used
// concurrently. Patterns and what they are matched with may both be hostile: time
// is bounded by the product of their lengths, which Check bounds.
package filter

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pidigree/pidigree/pkg/workload"
)

const (
	// maxPattern bounds one pattern: the longest image name and some.
	maxPattern = 1 << 10
	// maxPatterns bounds those of one part of a filter.
	maxPatterns = 128
)

// Check says what is wrong with the filters of a selector; the error wraps
// workload.ErrInvalid.
func Check(sel workload.Selector) error {
	_, err := New(sel.Include, sel.Exclude)
	return err
}

// CheckPattern says what is wrong with one pattern, nil if nothing is.
func CheckPattern(p string) error { return checkGlob(p) }

// CheckLabel says what is wrong with one KEY or KEY=VALUE.
func CheckLabel(p string) error {
	_, err := newLabel(p)
	return err
}

// Keys are patterns for the keys of labels. The zero value matches none.
type Keys struct{ globs []glob }

// NewKeys checks the patterns. The error wraps workload.ErrInvalid.
func NewKeys(patterns []string) (Keys, error) {
	globs, err := each(patterns, func(p string) (glob, error) { return glob(p), checkGlob(p) })
	if err != nil {
		return Keys{}, fmt.Errorf("%w: %w", workload.ErrInvalid, err)
	}
	return Keys{globs}, nil
}

// Match reports whether one of the patterns matches a key.
func (k Keys) Match(key string) bool {
	return slices.ContainsFunc(k.globs, func(g glob) bool { return g.match(key) })
}

// Matcher is an include and an exclude filter.
type Matcher struct {
	include, exclude *rules
}

// rules are one filter; nil has no part.
type rules struct {
	names, images, namespaces []glob
	labels                    []label
}

// label is KEY or KEY=VALUE; valued tells them apart.
type label struct {
	key, value glob
	valued     bool
}

// New checks two filters. The Matcher is nil, and matches everything, where
// neither has a part. The error wraps workload.ErrInvalid.
func New(include, exclude workload.Filter) (*Matcher, error) {
	in, err := compile("include", include)
	if err != nil {
		return nil, err
	}
	ex, err := compile("exclude", exclude)
	if err != nil || in == nil && ex == nil {
		return nil, err
	}
	return &Matcher{in, ex}, nil
}

func compile(what string, f workload.Filter) (r *rules, err error) {
	if f.IsZero() {
		return nil, nil
	}
	r = &rules{}
	for _, part := range []struct {
		name string
		from []string
		to   *[]glob
	}{{"names", f.Names, &r.names}, {"images", f.Images, &r.images}, {"namespaces", f.Namespaces, &r.namespaces}} {
		if *part.to, err = each(part.from, func(p string) (glob, error) { return glob(p), checkGlob(p) }); err != nil {
			return nil, fmt.Errorf("%w: %s %s: %w", workload.ErrInvalid, what, part.name, err)
		}
	}
	if r.labels, err = each(f.Labels, newLabel); err != nil {
		return nil, fmt.Errorf("%w: %s labels: %w", workload.ErrInvalid, what, err)
	}
	return r, nil
}

func each[T any](from []string, make func(string) (T, error)) (to []T, err error) {
	if len(from) > maxPatterns {
		return nil, fmt.Errorf("%d patterns: %d are allowed", len(from), maxPatterns)
	}
	for _, p := range from {
		t, err := make(p)
		if err != nil {
			return nil, fmt.Errorf("%q %w", p, err)
		}
		to = append(to, t)
	}
	return to, nil
}

func newLabel(p string) (l label, err error) {
	key, value, valued := strings.Cut(p, "=")
	if key == "" {
		return l, fmt.Errorf("has no key: write KEY or KEY=VALUE")
	}
	if err := checkGlob(key); err != nil {
		return l, err
	}
	if value != "" {
		if err := checkGlob(value); err != nil {
			return l, err
		}
	}
	return label{glob(key), glob(value), valued}, nil
}

// Labels reports whether labels decide: those of a container's pod count too, so
// that a change of the pod can change the answer.
func (m *Matcher) Labels() bool {
	return m != nil && (m.include != nil && m.include.labels != nil || m.exclude != nil && m.exclude.labels != nil)
}

// subject is what patterns are matched against.
type subject struct {
	names, images, namespaces []string
	labels                    []map[string]string
}

// Container reports whether a container is meant. pod is what is known of its
// pod, nil if nothing is: its labels count as the container's own.
func (m *Matcher) Container(c *workload.Container, pod *workload.Pod) bool {
	if m == nil {
		return true
	}
	s := subject{names: said(c.Name), images: images(c.Image), labels: []map[string]string{c.Labels}}
	switch {
	case c.Pod != nil && c.Pod.Namespace != "":
		s.namespaces = said(c.Pod.Namespace)
	default:
		s.namespaces = said(c.ID.Namespace)
	}
	if pod != nil {
		s.labels = append(s.labels, pod.Labels)
	}
	return m.matches(&s)
}

// Pod reports whether a pod is meant; the images are those of its containers.
func (m *Matcher) Pod(p *workload.Pod) bool {
	if m == nil {
		return true
	}
	s := subject{names: said(p.Name), namespaces: said(p.Namespace), labels: []map[string]string{p.Labels}}
	for i := range p.Containers {
		s.images = append(s.images, images(workload.ImageRef{Name: p.Containers[i].Image})...)
	}
	return m.matches(&s)
}

// Task reports whether a task is meant: by its family or service, its cluster for
// a namespace, its tags for labels, and the images of its containers.
func (m *Matcher) Task(t *workload.Task) bool {
	if m == nil {
		return true
	}
	s := subject{names: slices.Concat(said(t.Family), said(t.Service)), namespaces: said(t.Cluster), labels: []map[string]string{t.Tags}}
	for i := range t.Containers {
		s.images = append(s.images, images(workload.ImageRef{Name: t.Containers[i].Image})...)
	}
	return m.matches(&s)
}

// Image reports whether an image is meant: by its names, its id and its digests, the
// namespace of its store and its own labels. It has no name of the kind that
// containers have.
func (m *Matcher) Image(i *workload.Image) bool {
	if m == nil {
		return true
	}
	s := subject{images: images(workload.ImageRef{ID: i.ID}), namespaces: said(i.Namespace), labels: []map[string]string{i.Labels}}
	for _, name := range slices.Concat(i.Names, i.Digests) {
		s.images = append(s.images, images(workload.ImageRef{Name: name})...)
	}
	return m.matches(&s)
}

// Nothing reports whether that is meant of which none of this is known: a process
// of the host, a service.
func (m *Matcher) Nothing() bool { return m == nil || m.include == nil }

func (m *Matcher) matches(s *subject) bool {
	return (m.include == nil || m.include.fit(s)) && (m.exclude == nil || !m.exclude.fit(s))
}

func (r *rules) fit(s *subject) bool {
	return anyOf(r.names, s.names) && anyOf(r.images, s.images) && anyOf(r.namespaces, s.namespaces) && r.fitLabels(s.labels)
}

// anyOf reports whether a pattern fits one of the texts; no pattern asks for nothing.
func anyOf(patterns []glob, texts []string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(texts, func(s string) bool {
		return slices.ContainsFunc(patterns, func(g glob) bool { return g.match(s) })
	})
}

func (r *rules) fitLabels(labels []map[string]string) bool {
	return len(r.labels) == 0 || slices.ContainsFunc(r.labels, func(l label) bool {
		return slices.ContainsFunc(labels, l.in)
	})
}

func (l label) in(labels map[string]string) bool {
	for k, v := range labels {
		if l.key.match(k) && (!l.valued || l.value.match(v)) {
			return true
		}
	}
	return false
}

func said(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// images are the ways to write an image: as it was asked for, without its tag or
// digest, both also as Docker shortens them, and its id.
func images(i workload.ImageRef) []string {
	out := slices.Concat(said(i.Name), said(i.ID), said(i.Digest))
	if i.Name == "" {
		return out
	}
	bare, _, _ := strings.Cut(i.Name, "@")
	if at := strings.LastIndexByte(bare, ':'); at > strings.LastIndexByte(bare, '/') {
		bare = bare[:at]
	}
	out = append(out, bare)
	for _, s := range []string{i.Name, bare} {
		if short, ok := strings.CutPrefix(s, "docker.io/"); ok {
			out = append(out, strings.TrimPrefix(short, "library/"))
		}
	}
	return out
}
