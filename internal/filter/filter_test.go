// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"errors"
	"path"
	"strings"
	"testing"

	"github.com/pidigree/pidigree/pkg/workload"
)

func TestPatternsFitTheWholeText(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"web", "web", true}, {"web", "web2", false}, {"web", "my-web", false},
		{"web*", "web", true}, {"web*", "web-0/x", true}, {"*web", "my-web", true}, {"*", "", true}, {"*", "a/b\nc", true},
		{"w?b", "web", true}, {"w?b", "wb", false}, {"w?b", "wéb", true}, {"?", "", false},
		{"web-[0-9]", "web-7", true}, {"web-[0-9]", "web-x", false}, {"[^a]", "b", true}, {"[^a]", "a", false}, {"[]x]", "]", true},
		{"[a-]", "-", true}, {"a\\*", "a*", true}, {"a\\*", "ab", false}, {"[\\]]", "]", true},
		{"a*b*c", "aXbYc", true}, {"a*b*c", "aXcYb", false}, {"*a*a*a*a*b", strings.Repeat("a", 200), false},
		{"\uFFFD*", "\xffx", true},
	} {
		if err := checkGlob(c.pattern); err != nil {
			t.Errorf("%q: %v", c.pattern, err)
		}
		if got := glob(c.pattern).match(c.text); got != c.want {
			t.Errorf("%q with %q: %t", c.pattern, c.text, got)
		}
	}
}

func TestBadPatternsAreRefused(t *testing.T) {
	for name, f := range map[string]workload.Filter{
		"an open class": {Names: []string{"[a"}}, "a class that is a bracket": {Images: []string{"[]"}},
		"a backslash at the end": {Namespaces: []string{"a\\"}}, "an empty one": {Names: []string{""}},
		"not UTF-8": {Names: []string{"\xff"}}, "a long one": {Names: []string{strings.Repeat("a", maxPattern+1)}},
		"too many": {Names: make([]string, maxPatterns+1)}, "a label without a key": {Labels: []string{"=x"}},
		"an open class in a value": {Labels: []string{"a=[b"}}, "an empty label": {Labels: []string{""}},
	} {
		for _, sel := range []workload.Selector{{Include: f}, {Exclude: f}} {
			if err := Check(sel); !errors.Is(err, workload.ErrInvalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if m, err := New(workload.Filter{}, workload.Filter{}); m != nil || err != nil || !m.Container(&workload.Container{}, nil) || !m.Pod(&workload.Pod{}) || !m.Nothing() {
		t.Errorf("no filter: %v, %v", m, err)
	}
}

func TestWhatAContainerIsFoundBy(t *testing.T) {
	c := &workload.Container{
		ID: workload.ContainerID{Runtime: "containerd", Namespace: "k8s.io", ID: "4f"}, Name: "nginx",
		Image:  workload.ImageRef{Name: "docker.io/library/nginx:1.25", Tag: "1.25", ID: "sha256:0123"},
		Labels: map[string]string{"tier": "front", "empty": ""}, Pod: &workload.PodRef{UID: "u", Name: "shop-0", Namespace: "prod"},
	}
	pod := &workload.Pod{PodRef: *c.Pod, Labels: map[string]string{"app": "shop"}}
	type f = workload.Filter
	for name, tc := range map[string]struct {
		filter workload.Filter
		want   bool
	}{
		"name":                           {f{Names: []string{"x", "ng*"}}, true},
		"another name":                   {f{Names: []string{"shop*"}}, false},
		"image in full":                  {f{Images: []string{"docker.io/library/nginx:1.25"}}, true},
		"image without its tag":          {f{Images: []string{"docker.io/library/nginx"}}, true},
		"image as Docker shortens it":    {f{Images: []string{"nginx:1.*"}}, true},
		"image shortened, without a tag": {f{Images: []string{"nginx"}}, true},
		"image id":                       {f{Images: []string{"sha256:01*"}}, true},
		"part of an image's name":        {f{Images: []string{"ngin"}}, false},
		"the pod's namespace":            {f{Namespaces: []string{"prod"}}, true},
		"containerd's is not it":         {f{Namespaces: []string{"k8s.io"}}, false},
		"a label":                        {f{Labels: []string{"tier"}}, true},
		"a label's value":                {f{Labels: []string{"tier=back", "tier=fr?nt"}}, true},
		"another value":                  {f{Labels: []string{"tier=back"}}, false},
		"an empty value":                 {f{Labels: []string{"empty="}}, true},
		"a value that is not empty":      {f{Labels: []string{"tier="}}, false},
		"the pod's label":                {f{Labels: []string{"app=shop"}}, true},
		"each part must match":           {f{Names: []string{"nginx"}, Namespaces: []string{"dev"}}, false},
		"each part matches":              {f{Names: []string{"nginx"}, Labels: []string{"app"}}, true},
	} {
		in, _ := New(tc.filter, workload.Filter{})
		ex, _ := New(workload.Filter{}, tc.filter)
		if in.Container(c, pod) != tc.want || ex.Container(c, pod) == tc.want {
			t.Errorf("%s: included %t, excluded %t, want %t", name, in.Container(c, pod), !ex.Container(c, pod), tc.want)
		}
	}
	both, _ := New(f{Namespaces: []string{"prod"}}, f{Names: []string{"ng*"}})
	if both.Container(c, pod) {
		t.Error("exclude does not win")
	}
	plain := &workload.Container{ID: workload.ContainerID{Runtime: "containerd", Namespace: "moby", ID: "1"}}
	if m, _ := New(f{Namespaces: []string{"moby"}}, f{}); !m.Container(plain, nil) {
		t.Error("containerd's namespace is not matched where there is no pod")
	}
	if m, _ := New(f{Names: []string{"*"}}, f{}); m.Container(plain, nil) {
		t.Error("a name that nobody has said matched")
	}
	if m, _ := New(f{Images: []string{"shop"}, Labels: []string{"app"}}, f{}); !m.Pod(&workload.Pod{Labels: pod.Labels, Containers: []workload.PodContainer{{Image: "shop:2"}}}) || m.Nothing() || !m.Labels() {
		t.Error("a pod by the image of one of its containers")
	}
}

func TestATaskIsMeantByItsFamilyServiceClusterTagsAndImages(t *testing.T) {
	task := &workload.Task{Family: "shop", Service: "web", Cluster: "prod", Tags: map[string]string{"team": "a"}, Containers: []workload.TaskContainer{{Image: "nginx:1"}}}
	type f = workload.Filter
	for name, tc := range map[string]struct {
		filter workload.Filter
		want   bool
	}{
		"family": {f{Names: []string{"sh*"}}, true}, "service": {f{Names: []string{"web"}}, true}, "another name": {f{Names: []string{"prod"}}, false},
		"cluster": {f{Namespaces: []string{"prod"}}, true}, "tag": {f{Labels: []string{"team=a"}}, true}, "another tag": {f{Labels: []string{"team=b"}}, false},
		"image": {f{Images: []string{"nginx"}}, true}, "all of it": {f{Names: []string{"shop"}, Labels: []string{"x"}}, false},
	} {
		in, _ := New(tc.filter, f{})
		ex, _ := New(f{}, tc.filter)
		if in.Task(task) != tc.want || ex.Task(task) == tc.want {
			t.Errorf("%s: included %t, excluded %t, want %t", name, in.Task(task), !ex.Task(task), tc.want)
		}
	}
}

func FuzzAPatternEndsAndAgreesWithPathMatch(f *testing.F) {
	f.Add("a*[b-d]?", "aXXcz")
	f.Add("*a*a*a*b", "aaaaaaaaaaaaaaaaaaaa")
	f.Add("[^]", "x")
	f.Fuzz(func(t *testing.T, p, s string) {
		if checkGlob(p) != nil || len(s) > 1<<12 {
			return
		}
		got := glob(p).match(s)
		if strings.ContainsAny(s, "/") || strings.ContainsAny(p, "[\\") || !validText(s) {
			return // path.Match treats these differently
		}
		if want, err := path.Match(p, s); err == nil && got != want {
			t.Errorf("%q with %q: %t, path.Match says %t", p, s, got, want)
		}
	})
}

func validText(s string) bool { return strings.ToValidUTF8(s, "") == s }
