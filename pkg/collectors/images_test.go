// SPDX-License-Identifier: Apache-2.0

package collectors_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

func anImage(id string, names ...string) *workload.Image {
	return &workload.Image{Runtime: "docker", ID: id, Names: names, Size: 7}
}

// imageRig is a supervisor of one source of images, and what it said of them.
type imageRig struct {
	*rig
	f *collectortest.FakeImages

	imageMu sync.Mutex // guards said: a list may begin before rig is set
	said    []string
}

func (r *imageRig) say(line string) {
	r.imageMu.Lock()
	defer r.imageMu.Unlock()
	r.said = append(r.said, line)
}

func startImages(t *testing.T, opts collectors.SupervisorOptions) *imageRig {
	t.Helper()
	r := &imageRig{f: collectortest.NewFakeImages("docker")}
	r.f.Put(web("a"))
	r.f.PutImage(anImage("1", "one"))
	r.f.PutImage(anImage("2", "two"))
	opts.OnImage = func(source string, i *workload.Image, gone bool) {
		line := fmt.Sprint(source, " ", i.ID, " ", i.Names)
		if gone {
			line += " gone"
		}
		r.say(line)
	}
	r.rig = start(t, opts, r.f)
	return r
}

// after lets virtual time pass, in a synctest bubble, and says what came of it.
func (r *imageRig) after(d time.Duration) (said []string) {
	time.Sleep(d)
	synctest.Wait()
	r.imageMu.Lock()
	defer r.imageMu.Unlock()
	said, r.said = r.said, nil
	return said
}

func (r *imageRig) lists(t *testing.T) uint64 {
	t.Helper()
	return r.state(t, "docker").Calls["list-images"]
}

func wantSaid(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("said %q, want %q", got, want)
	}
}

func TestImagesAreListedAtTheStartAndAfterHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startImages(t, collectors.SupervisorOptions{})
		wantSaid(t, r.after(time.Millisecond), "docker 1 [one]", "docker 2 [two]")
		if n := r.f.Asked(); n != 2 {
			t.Errorf("asked about %d images", n)
		}
		r.f.PutImage(anImage("1", "one", "uno"))
		r.f.DropImage(anImage("2"))
		r.f.PutImage(anImage("3"))
		for range 100 { // a burst is one list, some time later
			r.f.Emit(collectors.Hint{Kind: collectors.HintImages})
		}
		wantSaid(t, r.after(499*time.Millisecond))
		wantSaid(t, r.after(2*time.Millisecond), "docker 1 [one uno]", "docker 3 []", "docker 2 [two] gone")
		wantSaid(t, r.after(4*time.Minute))
		if n := r.lists(t); n != 3 { // the last beside the second list of containers
			t.Errorf("%d lists for a start and a burst of hints", n)
		}
		if n := r.f.Asked(); n != 3 {
			t.Errorf("asked about %d images, of which 3 were new", n)
		}
		if len(r.hints) != 0 {
			t.Errorf("hints about images went on to the correlator: %v", r.hints)
		}
		r.f.PutImage(anImage("2", "two")) // and nobody says so
		wantSaid(t, r.after(7*time.Minute), "docker 2 [two]")
	})
}

// Who hears of the end of the first list may ask at once whether the images are there, too.
func TestImagesAreOwedFromTheEndOfTheFirstListOn(t *testing.T) {
	f := collectortest.NewFakeImages("docker")
	f.PutImage(anImage("1", "one"))
	f.Set(collectortest.Behaviour{Delay: 50 * time.Millisecond, Only: []string{"list-images"}})
	var s *collectors.Supervisor
	ended, said := make(chan bool, 100), make(chan struct{}, 100)
	s, err := collectors.NewSupervisor(collectors.SupervisorOptions{
		Collectors: []collectors.Collector{f},
		OnListed:   func(string, collectors.Listing) { ended <- s.ImagesListed() },
		OnImage:    func(string, *workload.Image, bool) { said <- struct{}{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	if <-ended {
		t.Error("at the end of the first list of containers no list of images is owed")
	}
	<-said
}

// Two sources may tell of one engine's images: what one of them hints at is looked for
// in both.
func TestAHintOfOneSourceHasTheImagesOfAllListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &imageRig{f: collectortest.NewFakeImages("containerd")}
		cri := collectortest.NewFakeImages("cri")
		for _, f := range []*collectortest.FakeImages{r.f, cri} {
			f.PutImage(anImage("1", "one"))
		}
		r.rig = start(t, collectors.SupervisorOptions{
			OnImage: func(source string, i *workload.Image, gone bool) { r.say(fmt.Sprint(source, " ", i.ID, " ", gone)) },
		}, r.f, cri)
		r.after(time.Second)
		r.f.DropImage(anImage("1"))
		cri.DropImage(anImage("1"))
		r.f.Emit(collectors.Hint{Kind: collectors.HintImages})
		said := r.after(time.Second)
		slices.Sort(said)
		wantSaid(t, said, "containerd 1 true", "cri 1 true")
	})
}

func TestASourceWhoseImagesFailIsAskedAgainAndServesContainers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startImages(t, collectors.SupervisorOptions{})
		wantSaid(t, r.after(time.Millisecond), "docker 1 [one]", "docker 2 [two]")
		r.f.Set(collectortest.Behaviour{Err: collectors.ErrUnavailable, Only: []string{"list-images"}})
		r.f.DropImage(anImage("1"))
		r.f.Emit(collectors.Hint{Kind: collectors.HintImages})
		wantSaid(t, r.after(3*time.Minute)) // nothing is gone for want of an answer
		st := r.state(t, "docker")
		if n := st.Calls["list-images"]; n < 6 || n > 20 || st.State != "running" || st.Restarts != 0 {
			t.Errorf("%d lists in three minutes of failure, %s, %d restarts", n, st.State, st.Restarts)
		}
		if !strings.Contains(st.LastError, "list images") {
			t.Errorf("last error %q", st.LastError)
		}
		r.f.Set(collectortest.Behaviour{Panic: true, Only: []string{"list-images"}})
		r.after(time.Minute)
		r.f.Set(collectortest.Behaviour{})
		wantSaid(t, r.after(time.Minute), "docker 1 [one] gone")
		if _, err := r.Lookup(t.Context(), "docker", web("a").ID); err != nil {
			t.Error(err)
		}
	})
}

func TestAnErrorAboutOneImageHidesNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startImages(t, collectors.SupervisorOptions{})
		wantSaid(t, r.after(time.Millisecond), "docker 1 [one]", "docker 2 [two]")
		r.f.BreakImage(anImage("1"), errors.New("it is broken"))
		r.f.PutImage(anImage("2", "zwei"))
		r.f.Emit(collectors.Hint{Kind: collectors.HintImages})
		wantSaid(t, r.after(time.Minute), "docker 2 [zwei]")
		if e := r.state(t, "docker").LastError; !strings.Contains(e, "it is broken") {
			t.Errorf("last error %q", e)
		}
	})
}

func TestASourceThatComesBackTellsOfItsImagesWhatIsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startImages(t, collectors.SupervisorOptions{})
		r.after(time.Millisecond)
		r.f.Set(collectortest.Behaviour{Absent: true})
		r.f.Cut(errors.New("cut"))
		r.f.DropImage(anImage("1"))
		wantSaid(t, r.after(time.Minute))
		r.f.Set(collectortest.Behaviour{})
		wantSaid(t, r.after(2*time.Second), "docker 1 [one] gone")
	})
}

func TestImagesCanBeSwitchedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startImages(t, collectors.SupervisorOptions{NoImages: true})
		wantSaid(t, r.after(10*time.Minute))
		if n := r.lists(t); n != 0 {
			t.Errorf("%d lists", n)
		}
	})
}

func TestAnImageThatIsCutIsCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startImages(t, collectors.SupervisorOptions{})
		r.after(time.Millisecond)
		many := anImage("4")
		for i := range 10_000 {
			many.Names = append(many.Names, fmt.Sprintf("tag:%05d", i))
		}
		r.f.PutImage(many)
		for range 3 {
			r.f.Emit(collectors.Hint{Kind: collectors.HintImages})
			r.after(time.Second)
		}
		st := r.state(t, "docker")
		if st.Errors != 1 || !strings.Contains(st.LastError, `image "4" has more than is kept, cut: names`) {
			t.Errorf("%d errors, last %q", st.Errors, st.LastError)
		}
	})
}

func TestAnImageIsCutToItsBudget(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	i := &workload.Image{ID: "a", Names: []string{"b:2", "a:1", "a:1", long, "bad\xff"}, Labels: map[string]string{"k": "v", "big": long}, OS: long}
	for n := range 10_000 {
		i.Digests = append(i.Digests, fmt.Sprintf("%05d@sha256:%064x", 9999-n, n))
		i.Layers = append(i.Layers, workload.ImageLayer{Digest: fmt.Sprintf("sha256:%064x", n), Size: 1})
	}
	given := slices.Clone(i.Digests)
	collectors.BoundImage(i)
	if d := cmp.Diff([]string{"a:1", "b:2"}, i.Names); d != "" {
		t.Error(d)
	}
	if len(i.Digests) != 256 || i.Digests[0] != given[9999] || len(i.Layers) != 256 || len(i.OS) != 256 || len(i.Labels["big"]) != 4<<10 {
		t.Errorf("%d digests, %d layers, %d bytes of os", len(i.Digests), len(i.Layers), len(i.OS))
	}
	if d := cmp.Diff([]string{"digests", "labels", "layers", "names", "os"}, i.Truncated); d != "" {
		t.Error(d)
	}
	if strings.HasPrefix(given[0], "00000") {
		t.Error("the caller's own list was sorted")
	}
	small := &workload.Image{ID: "a", Names: []string{"a:1"}, Layers: []workload.ImageLayer{}}
	if collectors.BoundImage(small); small.Truncated != nil || small.Layers == nil {
		t.Errorf("%+v", small)
	}
}
