// SPDX-License-Identifier: Apache-2.0

package collectors

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pidigree/pidigree/pkg/workload"
)

// Bounds are the budgets of one container's description, in bytes and counts. A
// zero field means its default. Engines accept a 64 MiB label and 100,000 of
// them; a store of 10,000 containers can not.
type Bounds struct {
	// Name bounds names and short words: name, hostname, user, pod, network, reason. Default 256.
	Name int
	// Image bounds each part of the image reference. Default 1 KiB.
	Image int
	// Path bounds a mount's ends, the bundle and each claimed cgroup path. Default 4 KiB, the kernel's PATH_MAX.
	Path int
	// Key bounds the key of a label or variable. A longer one is dropped, for a cut key is another key. Default 256.
	Key int
	// Value bounds the value of a label or variable. Default 4 KiB.
	Value int
	// Entries bounds the labels, the annotations, and the variables. Default 256.
	Entries int
	// Bytes bounds the strings of the labels, the annotations, the variables, the
	// networks, the ports, the mounts and the claimed paths, each in all; of a pod
	// also those of its containers and volumes. Default 64 KiB.
	Bytes int
	// Total bounds all of these together, claimed paths and labels first. Default 256 KiB.
	Total int
	// Mounts, Networks, Ports and Caps bound the lists, Mounts also a pod's
	// containers and volumes. Defaults 256, 64, 256, 64.
	Mounts, Networks, Ports, Caps int
	// Few bounds the short lists: addresses, aliases, claimed paths, a pod's
	// sandboxes, conditions and owners. Default 32.
	Few int
	// Keep are the prefixes of the keys that stay when not all can. An image's
	// maker chooses labels too, and may not crowd out those of the orchestrator.
	// Default: those of Kubernetes, ECS, Docker and containerd.
	Keep []string
}

// Bound cuts a container's description to the default Bounds.
func Bound(c *workload.Container) { Bounds{}.Apply(c) }

// Apply cuts the strings, maps and lists of c, makes all strings valid UTF-8
// (invalid bytes become U+FFFD) and names what it cut in Truncated. It changes
// c, which must be the caller's own, but no map or list that c shares: those it
// replaces. The same input gives the same output.
//
// The id, the times and the numbers are left alone. A collector checks an id
// before it asks for it.
func (b Bounds) Apply(c *workload.Container) {
	if c == nil {
		return
	}
	b = b.withDefaults()
	t := trimmer{left: b.Total}
	b.words(&t, c)
	b.security(&t, c)
	b.run(&t, c)
	c.Aliases = head(&t, "aliases", c.Aliases, b.Few)
	c.Labels = b.dict(&t, "labels", c.Labels)
	c.Networks = b.networks(&t, c.Networks)
	c.Ports = b.ports(&t, c.Ports)
	c.Mounts = b.mounts(&t, c.Mounts)
	c.Env = b.dict(&t, "env", c.Env)
	c.Annotations = b.dict(&t, "annotations", c.Annotations)
	c.Truncated = t.truncated(c.Truncated)
}

// truncated adds what was cut to what had been cut before.
func (t *trimmer) truncated(before []string) []string {
	if len(t.cut) == 0 {
		return before
	}
	all := append(slices.Clone(before), t.cut...)
	slices.Sort(all)
	return slices.Compact(all)
}

func (b Bounds) withDefaults() Bounds {
	def := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	def(&b.Name, 256)
	def(&b.Image, 1<<10)
	def(&b.Path, 4<<10)
	def(&b.Key, 256)
	def(&b.Value, 4<<10)
	def(&b.Entries, 256)
	def(&b.Bytes, 64<<10)
	def(&b.Total, 256<<10)
	def(&b.Mounts, 256)
	def(&b.Networks, 64)
	def(&b.Ports, 256)
	def(&b.Caps, 64)
	def(&b.Few, 32)
	if b.Keep == nil {
		b.Keep = keep
	}
	return b
}

// words bounds the plain strings.
func (b Bounds) words(t *trimmer, c *workload.Container) {
	t.text("name", &c.Name, b.Name)
	t.text("runtime", &c.Runtime, b.Name)
	t.text("state", (*string)(&c.State), b.Name)
	t.text("hostname", &c.Hostname, b.Name)
	t.text("user", &c.User, b.Name)
	t.text("bundle", &c.Bundle, b.Path)
	t.text("role", (*string)(&c.Role), b.Name)
	t.text("reason", &c.Reason, b.Name)
	t.text("image", &c.Image.Name, b.Image)
	t.text("image", &c.Image.Tag, b.Image)
	t.text("image", &c.Image.Digest, b.Image)
	t.text("image", &c.Image.ID, b.Image)
	if c.Pod != nil && !fits(b.Name, c.Pod.UID, c.Pod.Name, c.Pod.Namespace) {
		p := *c.Pod
		t.text("pod", &p.UID, b.Name)
		t.text("pod", &p.Name, b.Name)
		t.text("pod", &p.Namespace, b.Name)
		c.Pod = &p
	}
	if r := c.Task; r != nil && !fits(b.Name, r.ARN, r.Cluster, r.Family, r.Revision, r.Container) {
		ref := *r
		for _, s := range []*string{&ref.ARN, &ref.Cluster, &ref.Family, &ref.Revision, &ref.Container} {
			t.text("task", s, b.Name)
		}
		c.Task = &ref
	}
}

// dict bounds a map. What stays when not all can: kept prefixes first, then
// keys that are valid UTF-8, then the alphabet.
func (b Bounds) dict(t *trimmer, field string, m map[string]string) map[string]string {
	if size, ok := b.dictFits(m, min(b.Bytes, t.left)); ok {
		t.left -= size
		return m
	}
	keys := make([]string, 0, min(len(m), 2*b.Entries))
	for k := range m {
		if len(k) > b.Key {
			t.mark(field)
			continue
		}
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(x, y string) int { return cmp.Or(b.rank(x)-b.rank(y), strings.Compare(x, y)) })
	out := make(map[string]string, min(len(keys), b.Entries))
	left := min(b.Bytes, t.left)
	for _, k := range keys {
		v := m[k]
		t.text(field, &v, b.Value)
		k = strings.ToValidUTF8(k, "\uFFFD")
		if _, taken := out[k]; taken || len(out) == b.Entries || len(k)+len(v) > left {
			t.mark(field)
			continue
		}
		out[k] = v
		left -= len(k) + len(v)
		t.left -= len(k) + len(v)
	}
	return out
}

// dictFits says whether nothing is to be cut, and how large the map is.
func (b Bounds) dictFits(m map[string]string, limit int) (size int, ok bool) {
	if len(m) > b.Entries {
		return 0, false
	}
	for k, v := range m {
		if size += len(k) + len(v); size > limit || !fits(b.Key, k) || !fits(b.Value, v) {
			return 0, false
		}
	}
	return size, true
}

// rank orders keys by how much they matter, the lowest first.
func (b Bounds) rank(key string) int {
	kept := slices.ContainsFunc(b.Keep, func(p string) bool { return strings.HasPrefix(key, p) })
	switch {
	case kept && utf8.ValidString(key):
		return 0
	case utf8.ValidString(key):
		return 1
	}
	return 2
}

func (b Bounds) networks(t *trimmer, in []workload.Network) []workload.Network {
	out := each(t, "networks", in, b.Networks, func(n *workload.Network) {
		t.text("networks", &n.Name, b.Name)
		t.text("networks", &n.MAC, b.Name)
		n.IPs = b.texts(t, "networks", n.IPs, b.Few)
	})
	return within(t, "networks", out, b.Bytes, func(n workload.Network) int { return len(n.Name) + len(n.MAC) + sum(n.IPs) })
}

func (b Bounds) ports(t *trimmer, in []workload.Port) []workload.Port {
	out := each(t, "ports", in, b.Ports, func(p *workload.Port) {
		t.text("ports", &p.Protocol, b.Name)
		t.text("ports", &p.HostIP, b.Name)
	})
	return within(t, "ports", out, b.Bytes, func(p workload.Port) int { return len(p.Protocol) + len(p.HostIP) })
}

func (b Bounds) mounts(t *trimmer, in []workload.Mount) []workload.Mount {
	out := each(t, "mounts", in, b.Mounts, func(m *workload.Mount) {
		t.text("mounts", &m.Type, b.Name)
		t.text("mounts", &m.Source, b.Path)
		t.text("mounts", &m.Destination, b.Path)
	})
	return within(t, "mounts", out, b.Bytes, func(m workload.Mount) int { return len(m.Type) + len(m.Source) + len(m.Destination) })
}

func (b Bounds) security(t *trimmer, c *workload.Container) {
	if c.Security == nil || (len(c.Security.AddedCaps) <= b.Caps && fits(b.Name, c.Security.AddedCaps...)) {
		return
	}
	s := *c.Security
	s.AddedCaps = b.texts(t, "security", s.AddedCaps, b.Caps)
	c.Security = &s
}

func (b Bounds) run(t *trimmer, c *workload.Container) {
	if c.Run == nil {
		return
	}
	if size := sum(c.Run.ClaimedPaths); len(c.Run.ClaimedPaths) <= b.Few && size <= b.Bytes && fits(b.Path, c.Run.ClaimedPaths...) {
		t.left -= size
		return
	}
	r := *c.Run
	r.ClaimedPaths = each(t, "run", r.ClaimedPaths, b.Few, func(s *string) { t.text("run", s, b.Path) })
	r.ClaimedPaths = within(t, "run", r.ClaimedPaths, b.Bytes, func(s string) int { return len(s) })
	c.Run = &r
}

func (b Bounds) texts(t *trimmer, field string, in []string, n int) []string {
	if len(in) <= n && fits(b.Name, in...) {
		return in
	}
	return each(t, field, in, n, func(s *string) { t.text(field, s, b.Name) })
}

// trimmer collects the names of the fields that were cut.
type trimmer struct {
	cut  []string
	left int // of the total
}

func (t *trimmer) mark(field string) {
	if !slices.Contains(t.cut, field) {
		t.cut = append(t.cut, field)
	}
}

// text cuts one string. Cutting goes before repairing, so that a huge string
// is not read; a repaired string can be three times as long and is cut again.
func (t *trimmer) text(field string, s *string, limit int) {
	if fits(limit, *s) {
		return
	}
	if len(*s) > limit {
		t.mark(field)
		*s = strings.Clone(cutAt(*s, limit))
	}
	if *s = strings.ToValidUTF8(*s, "\uFFFD"); len(*s) > limit {
		t.mark(field)
		*s = cutAt(*s, limit)
	}
}

// cutAt gives at most limit bytes, and no half of a rune.
func cutAt(s string, limit int) string {
	for i := limit; i > max(0, limit-utf8.UTFMax); i-- {
		if utf8.RuneStart(s[i]) {
			return s[:i]
		}
	}
	return s[:limit]
}

func fits(limit int, list ...string) bool {
	for _, s := range list {
		if len(s) > limit || !utf8.ValidString(s) {
			return false
		}
	}
	return true
}

// within gives the beginning of a list that fits its budget and what is left of the total.
func within[T any](t *trimmer, field string, list []T, budget int, size func(T) int) []T {
	budget = min(budget, t.left)
	for i := range list {
		n := size(list[i])
		if budget -= n; budget < 0 {
			t.mark(field)
			return list[:i:i]
		}
		t.left -= n
	}
	return list
}

func sum(list []string) int {
	n := 0
	for _, s := range list {
		n += len(s)
	}
	return n
}

// head gives the first n of a list.
func head[T any](t *trimmer, field string, in []T, n int) []T {
	if len(in) <= n {
		return in
	}
	t.mark(field)
	return slices.Clone(in[:n])
}

// each bounds a list and its elements in a copy.
func each[T any](t *trimmer, field string, in []T, n int, fn func(*T)) []T {
	if len(in) == 0 {
		return in
	}
	if len(in) > n {
		t.mark(field)
		in = in[:n]
	}
	out := slices.Clone(in)
	for i := range out {
		fn(&out[i])
	}
	return out
}
