// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

// unknown knows no image.
func unknown(string) *workload.Image { return nil }

// truth is what docker images and docker image inspect print, and docker history of
// the sizes of the layers.
func truth(t *testing.T, e *collectortest.Dockerd) map[string]*workload.Image {
	t.Helper()
	want := map[string]*workload.Image{}
	ids := strings.Fields(e.Docker("images", "--no-trunc", "--quiet"))
	if len(ids) == 0 {
		return want
	}
	var inspected []struct {
		ID                    string `json:"Id"`
		RepoTags, RepoDigests []string
		Size                  int64
		Os, Architecture      string
		Created               time.Time
		Config                struct{ Labels map[string]string }
		RootFS                struct{ Layers []string }
	}
	if err := json.Unmarshal([]byte(e.Docker(append([]string{"image", "inspect"}, ids...)...)), &inspected); err != nil {
		t.Fatal(err)
	}
	for _, i := range inspected {
		out := &workload.Image{
			ID: i.ID, Runtime: "docker", Instance: e.Socket, Size: i.Size, OS: i.Os, Architecture: i.Architecture,
			Labels: i.Config.Labels, Created: utc(i.Created), Names: nilIfEmpty(i.RepoTags), Digests: nilIfEmpty(i.RepoDigests),
			Layers: []workload.ImageLayer{},
		}
		for _, d := range i.RootFS.Layers {
			out.Layers = append(out.Layers, workload.ImageLayer{Digest: d})
		}
		want[i.ID] = out
	}
	return want
}

func nilIfEmpty(in []string) []string {
	if len(in) == 0 {
		return nil
	}
	slices.Sort(in)
	return in
}

// wantTruth fails unless the images are those that docker prints. The sizes of the
// layers, which it does not, must come to the size of the image.
func wantTruth(t *testing.T, e *collectortest.Dockerd, got map[string]*workload.Image) {
	t.Helper()
	if d := againstTruth(t, e, got); d != "" {
		t.Errorf("(-docker +got):\n%s", d)
	}
}

func againstTruth(t *testing.T, e *collectortest.Dockerd, got map[string]*workload.Image) string {
	t.Helper()
	bare := map[string]*workload.Image{}
	for id, i := range got {
		b, sum := *i, int64(0)
		b.Layers = []workload.ImageLayer{}
		for _, l := range i.Layers {
			sum += l.Size
			b.Layers = append(b.Layers, workload.ImageLayer{Digest: l.Digest})
		}
		if sum != i.Size {
			t.Errorf("%s: its layers are %d bytes, it is %d", id, sum, i.Size)
		}
		bare[id] = &b
	}
	return cmp.Diff(truth(t, e), bare)
}

func aSmallImage(t *testing.T, name string, labels map[string]string) collectortest.Image {
	t.Helper()
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, []byte(name), 0o644); err != nil {
		t.Fatal(err)
	}
	return collectortest.Image{Name: name, Files: map[string]string{"file": file}, Cmd: []string{"/file"}, Labels: labels}
}

// build has docker make an image of several layers, one of them empty.
func build(t *testing.T, e *collectortest.Dockerd, tag string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"one": strings.Repeat("1", 1000), "two": "2",
		"Dockerfile": "FROM " + collectortest.BusyboxImage + "\nCOPY one /one\nWORKDIR /made\nENV a=b\nCOPY two /two\nLABEL made=here\n",
	} {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	bin, args := e.CLI()
	cmd := exec.CommandContext(t.Context(), bin, append(args, "build", "--quiet", "--network", "none", "--tag", tag, dir)...)
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("docker build: %v: %s", err, out)
	}
}

// followed runs a supervisor on the engine and says what its images are by now.
type followed struct {
	t    *testing.T
	e    *collectortest.Dockerd
	s    *collectors.Supervisor
	said chan imageSaid
	now  map[string]*workload.Image
}

type imageSaid struct {
	image *workload.Image
	gone  bool
}

func follow(t *testing.T, e *collectortest.Dockerd, c *Collector) *followed {
	t.Helper()
	f := &followed{t: t, e: e, said: make(chan imageSaid, 1000), now: map[string]*workload.Image{}}
	var err error
	f.s, err = collectors.NewSupervisor(collectors.SupervisorOptions{
		Collectors: []collectors.Collector{c},
		OnImage:    func(_ string, i *workload.Image, gone bool) { f.said <- imageSaid{i, gone} },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return f
}

// until waits until what was said comes to what fits, and to what docker prints: of
// a list one image comes after the other.
func (f *followed) until(what string, fits func(map[string]*workload.Image) bool) {
	f.t.Helper()
	late := time.After(20 * time.Second)
	differ := ""
	for {
		if fits(f.now) {
			if differ = againstTruth(f.t, f.e, f.now); differ == "" {
				return
			}
		}
		select {
		case s := <-f.said:
			if f.now[s.image.ID] = s.image; s.gone {
				delete(f.now, s.image.ID)
			}
		case <-late:
			f.t.Fatalf("%s: not followed: %v (-docker +got):\n%s", what, f.names(), differ)
		}
	}
}

func (f *followed) names() (out []string) {
	for id, i := range f.now {
		out = append(out, fmt.Sprintf("%.20s %v %v", id, i.Names, i.Digests))
	}
	slices.Sort(out)
	return out
}

// named gives what has a name, nil if nothing has.
func named(now map[string]*workload.Image, name string) *workload.Image {
	for _, i := range now {
		if slices.Contains(i.Names, name) {
			return i
		}
	}
	return nil
}

func TestImagesAreThoseThatDockerPrints(t *testing.T) {
	e := collectortest.StartDockerd(t, collectortest.EngineOptions{Images: []collectortest.Image{
		aSmallImage(t, "registry.test/small:1", map[string]string{"team": "blue"}),
	}})
	build(t, e, "shop/web:7")
	e.Docker("tag", "shop/web:7", "shop/web:latest")
	e.Docker("tag", collectortest.BusyboxImage, "registry.test:5000/box:other")
	reg := collectortest.NewRegistry(t)
	pulled, digest := reg.Put(aSmallImage(t, "pulled:1", nil))
	e.Docker("pull", "--quiet", pulled)
	e.Docker("create", "--name", "dangling", "registry.test/small:1")
	e.Docker("commit", "dangling") // an image without a name
	c := on(t, e, e.Socket)
	got := collectortest.Images(t, c, unknown)
	wantTruth(t, e, got)
	if len(got) != 5 {
		t.Errorf("%d images", len(got))
	}
	if i := named(got, pulled); i == nil || !slices.Equal(i.Digests, []string{strings.TrimSuffix(pulled, ":1") + "@" + digest}) {
		t.Errorf("what was pulled: %+v", i)
	}
	if i := named(got, "shop/web:7"); i == nil || len(i.Layers) != 4 || i.Labels["made"] != "here" {
		t.Errorf("what was built: %+v", i)
	}
	again := collectortest.Images(t, c, func(key string) *workload.Image {
		for _, i := range got {
			if i.Key() == key {
				return i
			}
		}
		return nil
	})
	if d := cmp.Diff(got, again); d != "" {
		t.Errorf("a list with what is known differs (-first +again):\n%s", d)
	}
	// A container leads to its image by the id, and by the digest where it has one.
	id := e.Docker("create", pulled)
	id = strings.TrimSpace(id)
	con, err := c.Lookup(t.Context(), workload.ContainerID{Runtime: "docker", ID: id})
	if err != nil {
		t.Fatal(err)
	}
	if i := got[con.Image.ID]; i == nil || !slices.Contains(i.Names, con.Image.Name) {
		t.Errorf("the container's image is %+v, none of those listed", con.Image)
	}
	byDigest := strings.TrimSpace(e.Docker("create", strings.TrimSuffix(pulled, ":1")+"@"+digest))
	if con, err = c.Lookup(t.Context(), workload.ContainerID{Runtime: "docker", ID: byDigest}); err != nil {
		t.Fatal(err)
	}
	if i := got[con.Image.ID]; con.Image.Digest != digest || i == nil || !strings.HasSuffix(i.Digests[0], "@"+con.Image.Digest) {
		t.Errorf("the container's image is %+v", con.Image)
	}
}

func TestImagesAreFollowed(t *testing.T) {
	e := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	p := collectortest.NewDockerProxy(t, e.Socket)
	c := on(t, e, p.Socket)
	c.instance = e.Socket
	f := follow(t, e, c)
	reg := collectortest.NewRegistry(t)
	f.until("the start", func(now map[string]*workload.Image) bool { return len(now) == 1 })
	calls := func() (lists, inspects int) {
		for call, n := range p.Calls() {
			switch {
			case call == "GET /images/json":
				lists += n
			case strings.HasPrefix(call, "GET /images/"):
				inspects += n
			}
		}
		return lists, inspects
	}
	// The second list of a start, which comes a second later.
	if err := p.AwaitCall(t.Context(), "GET /images/json", 2); err != nil {
		t.Fatal(err)
	}
	name, _ := reg.Put(aSmallImage(t, "web:1", map[string]string{"v": "1"}))
	moved := aSmallImage(t, "web:1", map[string]string{"v": "2"})
	for _, step := range []struct {
		what     string
		do       func()
		fits     func(map[string]*workload.Image) bool
		inspects int
	}{
		{"pull", func() { e.Docker("pull", "--quiet", name) }, func(now map[string]*workload.Image) bool { return named(now, name) != nil }, 1},
		{"tag", func() { e.Docker("tag", name, "other:1") }, func(now map[string]*workload.Image) bool { return named(now, "other:1") != nil }, 0},
		{"untag", func() { e.Docker("rmi", name) }, func(now map[string]*workload.Image) bool { return named(now, name) == nil }, 0},
		{"a tag that moves away", func() { e.Docker("tag", collectortest.BusyboxImage, "other:1") }, func(now map[string]*workload.Image) bool {
			i := named(now, "other:1")
			return i != nil && slices.Contains(i.Names, collectortest.BusyboxImage)
		}, 0},
		{"a pull of what a tag means by now", func() { reg.Put(moved); e.Docker("pull", "--quiet", name) }, func(now map[string]*workload.Image) bool {
			i := named(now, name)
			return i != nil && i.Labels["v"] == "2"
		}, 1},
		{"delete", func() { e.Docker("rmi", name) }, func(now map[string]*workload.Image) bool { return named(now, name) == nil }, 0},
		{"delete of one without a name", func() { e.Docker("image", "prune", "--force") }, func(now map[string]*workload.Image) bool { return len(now) == 1 }, 0},
		{"load", func() {
			e.Docker("load", "--quiet", "--input", archive(t, aSmallImage(t, "registry.test/loaded:1", nil)))
		},
			func(now map[string]*workload.Image) bool { return named(now, "registry.test/loaded:1") != nil }, 1},
		{"commit", func() {
			e.Docker("create", "--name", "commits", "registry.test/loaded:1")
			e.Docker("commit", "commits")
		},
			func(now map[string]*workload.Image) bool { return len(now) == 3 }, 1},
	} {
		lists, inspects := calls()
		step.do()
		f.until(step.what, step.fits)
		l, i := calls()
		if l -= lists; l < 1 || l > 2 { // a change may fall beside two windows
			t.Errorf("%s: %d lists", step.what, l)
		}
		if i -= inspects; i != step.inspects {
			t.Errorf("%s: %d inspects, want %d", step.what, i, step.inspects)
		}
	}
	// A start asks nothing about images.
	lists, inspects := calls()
	windows := p.Calls()["GET /events"]
	e.Run(collectortest.BusyboxImage)
	if err := p.AwaitCall(t.Context(), "GET /events", windows+8); err != nil {
		t.Fatal(err)
	}
	if l, i := calls(); l != lists || i != inspects {
		t.Errorf("a start of a container made %d lists and %d inspects of images", l-lists, i-inspects)
	}
}

func archive(t *testing.T, img collectortest.Image) string {
	t.Helper()
	f, err := os.Create(t.TempDir() + "/image.tar")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := img.WriteTar(f); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// An image with 10,000 names is cut, counted once, and hides no other.
func TestAnImageWithTenThousandTags(t *testing.T) {
	e := collectortest.StartDockerd(t, collectortest.EngineOptions{Images: []collectortest.Image{aSmallImage(t, "registry.test/small:1", nil)}})
	file := e.Root + "/image/" + strings.TrimSpace(e.Docker("info", "--format", "{{.Driver}}")) + "/repositories.json"
	id := strings.TrimSpace(e.Docker("images", "--no-trunc", "--quiet", "registry.test/small:1"))
	e.Stop()
	tags := map[string]string{}
	for n := range 10_000 {
		tags[fmt.Sprintf("many/tags:%05d", n)] = id
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var repositories struct{ Repositories map[string]map[string]string }
	if err := json.Unmarshal(data, &repositories); err != nil {
		t.Fatal(err)
	}
	repositories.Repositories["many/tags"] = tags
	if data, err = json.Marshal(repositories); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(e.Docker("images", "many/tags"), "many/tags"); n != 10_000 {
		t.Fatalf("docker has %d tags", n)
	}
	f := follow(t, e, on(t, e, e.Socket))
	late := time.After(20 * time.Second)
	for len(f.now) < 2 {
		select {
		case s := <-f.said:
			f.now[s.image.ID] = s.image
		case <-late:
			t.Fatalf("%v", f.names())
		}
	}
	i := f.now[id]
	if len(i.Names) != 256 || !slices.Equal(i.Truncated, []string{"names"}) || i.OS != "linux" || len(i.Layers) != 1 {
		t.Errorf("%d names, cut %v, %d layers", len(i.Names), i.Truncated, len(i.Layers))
	}
	if named(f.now, collectortest.BusyboxImage) == nil {
		t.Error("the other image is hidden")
	}
	st := f.s.Status()[0]
	if st.State != "running" || st.Errors != 1 || !strings.Contains(st.LastError, id) || !strings.Contains(st.LastError, "cut: names") {
		t.Errorf("status %+v", st)
	}
	// Containers are seen and described as before.
	con := e.Run("--name", "web", collectortest.BusyboxImage)
	if _, err := f.s.Lookup(t.Context(), "docker", workload.ContainerID{Runtime: "docker", ID: con}); err != nil {
		t.Error(err)
	}
}

func TestAnEngineThatTalksNonsenseOfImages(t *testing.T) {
	id := "sha256:" + hexID
	entry := func(rest string) string { return `[{"Id":"` + id + `","RepoTags":["a:1"],"Size":1` + rest + `}]` }
	good := `{"Id":"` + id + `","Os":"linux","RootFS":{"Layers":["../../etc","sha256:x"]},"GraphDriver":{"Name":"../.."}}`
	for what, tc := range map[string]struct {
		list, inspect string
		status        int
		want          []string
		fails         bool
	}{
		"no list":                 {list: "<html>", fails: true},
		"half a list":             {list: `[{"Id":"` + id, fails: true},
		"an id of another kind":   {list: `[{"Id":"../x"},{"Id":"sha256:ab"},{}]`},
		"a path for a layer":      {list: entry(""), inspect: good, want: []string{"[a:1] linux 2"}},
		"no image by that name":   {list: entry(""), inspect: `{}`, status: http.StatusNotFound},
		"another image":           {list: entry(""), inspect: `{"Id":"sha256:` + strings.Repeat("b", 64) + `"}`, fails: true},
		"names that are none":     {list: `[{"Id":"` + id + `","RepoTags":["<none>:<none>"],"RepoDigests":["<none>@<none>"]}]`, inspect: good, want: []string{"[] linux 2"}},
		"nonsense about a detail": {list: entry(""), inspect: `{"Id":1}`, fails: true},
	} {
		t.Run(what, func(t *testing.T) {
			c := engineThat(t, t.TempDir(), func(w http.ResponseWriter, r *http.Request) {
				body := tc.inspect
				if strings.HasSuffix(r.URL.Path, "/images/json") {
					body = tc.list
				} else if tc.status != 0 {
					w.WriteHeader(tc.status)
				}
				_, _ = w.Write([]byte(body))
			})
			var got []string
			var failed error
			for i, err := range c.ListImages(t.Context(), unknown) {
				if err != nil {
					failed = err
					continue
				}
				got = append(got, fmt.Sprint(i.Names, " ", i.OS, " ", len(i.Layers)))
			}
			if !slices.Equal(got, tc.want) || (failed != nil) != tc.fails {
				t.Errorf("%q, %v", got, failed)
			}
		})
	}
}

func TestSizesOfLayersCountOnlyWhereTheyComeToTheImage(t *testing.T) {
	root := t.TempDir()
	a, b := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
	put := func(chain, text string) {
		dir := root + "/image/overlay2/layerdb/sha256/" + strings.TrimPrefix(chain, "sha256:")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/size", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(a, "10")
	put(chainID(a, b), "0\n")
	c := engineThat(t, root, func(http.ResponseWriter, *http.Request) {})
	for what, tc := range map[string]struct {
		driver string
		layers []string
		size   int64
		want   []int64
	}{
		"they do":           {"overlay2", []string{a, b}, 10, []int64{10, 0}},
		"they do not":       {"overlay2", []string{a, b}, 11, []int64{0, 0}},
		"one is not there":  {"overlay2", []string{a, b, a}, 10, []int64{0, 0, 0}},
		"another driver":    {"zfs", []string{a}, 10, []int64{0}},
		"a driver's a path": {"../image/overlay2", []string{a}, 10, []int64{0}},
		"a digest's a path": {"overlay2", []string{"sha256:../" + strings.Repeat("a", 61)}, 10, []int64{0}},
	} {
		out := &workload.Image{Size: tc.size}
		for _, l := range tc.layers {
			out.Layers = append(out.Layers, workload.ImageLayer{Digest: l})
		}
		c.layerSizes(tc.driver, out)
		var got []int64
		for _, l := range out.Layers {
			got = append(got, l.Size)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", what, got, tc.want)
		}
	}
}

func TestEventsAboutImagesAreOneHintEach(t *testing.T) {
	w := window{c: engineThat(t, t.TempDir(), say("")), seen: map[eventKey]bool{}}
	var got []collectors.HintKind
	now := map[eventKey]bool{}
	for n, m := range []events.Message{
		{Type: events.ImageEventType, Action: events.ActionPull, Actor: events.Actor{ID: "busybox:latest"}},
		{Type: events.ImageEventType, Action: events.ActionUnTag, Actor: events.Actor{ID: "sha256:" + hexID}},
		{Type: events.ImageEventType, Action: "create", Actor: events.Actor{ID: hexID}}, // not a container's
		{Type: events.ContainerEventType, Action: events.ActionCommit, Actor: events.Actor{ID: hexID}},
	} {
		m.TimeNano = int64(n)
		w.one(t.Context(), m, now, func(h collectors.Hint) { got = append(got, h.Kind) })
	}
	if d := cmp.Diff([]collectors.HintKind{collectors.HintImages, collectors.HintImages, collectors.HintImages}, got); d != "" {
		t.Error(d)
	}
}
