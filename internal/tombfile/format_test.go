// SPDX-License-Identifier: Apache-2.0

package tombfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"maps"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/workload"
)

// sample is a file with where its records end, and what a reader knows after each.
func sample(n int) (file []byte, ends []int, after []*Past) {
	var e encoder
	e.header(boot, 9)
	p := &Past{Run: 9, Containers: map[workload.ContainerID]Record{}, Processes: map[workload.ProcessKey]Record{}, Pods: map[string]Record{}, Tasks: map[string]Record{}}
	step := func() {
		ends = append(ends, len(e.buf))
		c := *p
		c.Containers, c.Processes, c.Pods = maps.Clone(p.Containers), maps.Clone(p.Processes), maps.Clone(p.Pods)
		c.Tasks = maps.Clone(p.Tasks)
		after = append(after, &c)
	}
	step()
	for i := 1; i <= n; i++ {
		ent := workload.Entity{Kind: workload.KindContainer, Container: container(i), Revision: workload.Revision(i)}
		e.change(workload.Change{Type: workload.ChangeSet, Revision: ent.Revision, Entity: ent}, 0)
		p.Containers[id(i)] = Record{Entity: ent}
		step()
		ent = workload.Entity{Kind: workload.KindProcess, Process: process(i, 3), Gone: true, Revision: 99}
		e.change(workload.Change{Type: workload.ChangeSet, Revision: 99, Entity: ent}, second)
		p.Processes[key(i)] = Record{ent, second}
		step()
		ent = workload.Entity{Kind: workload.KindPod, Pod: pod(i), Gone: true, Revision: 98}
		e.change(workload.Change{Type: workload.ChangeSet, Revision: 98, Entity: ent}, 2*second)
		p.Pods[pod(i).UID] = Record{ent, 2 * second}
		step()
		ent = workload.Entity{Kind: workload.KindTask, Task: task(i), Gone: true, Revision: 97}
		e.change(workload.Change{Type: workload.ChangeSet, Revision: 97, Entity: ent}, 2*second)
		p.Tasks[task(i).ARN] = Record{ent, 2 * second}
		step()
		e.time(second * workload.KTime(i))
		p.Seen = second * workload.KTime(i)
		step()
		if i == 2 {
			e.change(workload.Change{Type: workload.ChangeUnset, Entity: workload.Entity{Kind: workload.KindContainer, Container: &workload.Container{ID: id(1)}}}, 0)
			delete(p.Containers, id(1))
			step()
		}
	}
	return e.buf, ends, after
}

func read(b []byte) (*Past, error) { return Read(bytes.NewReader(b), int64(len(b)), boot) }

func wantPast(t *testing.T, what string, at int, got, want *Past) {
	t.Helper()
	w := *want
	w.Dropped = got.Dropped
	if !cmp.Equal(got, &w) {
		t.Fatalf("%s %d: %s", what, at, cmp.Diff(&w, got))
	}
}

// before is how many whole records there are in the first n bytes.
func before(ends []int, n int) (i int) {
	for i+1 < len(ends) && ends[i+1] <= n {
		i++
	}
	return i
}

func TestAFileCutAtAnyByteKeepsWhatWasWhole(t *testing.T) {
	file, ends, after := sample(3)
	for n := range len(file) + 1 {
		p, err := read(file[:n])
		if n < headerSize {
			if !errors.Is(err, ErrBad) || p != nil {
				t.Fatalf("%d bytes of a header: %v, %v", n, p, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		i := before(ends, n)
		wantPast(t, "cut at byte", n, p, after[i])
		if p.Dropped != int64(n-ends[i]) {
			t.Fatalf("cut at byte %d: %d dropped, want %d", n, p.Dropped, n-ends[i])
		}
	}
}

func TestAFileWithAnyByteChangedKeepsWhatIsBeforeIt(t *testing.T) {
	file, ends, after := sample(3)
	for n := range file {
		for _, flip := range []byte{0x01, 0x80, 0xff} {
			bad := bytes.Clone(file)
			bad[n] ^= flip
			p, err := read(bad)
			if n < headerSize {
				if err == nil || p != nil {
					t.Fatalf("byte %d of the header is other: %v, %v", n, p, err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			wantPast(t, "another byte at", n, p, after[before(ends, n)])
		}
	}
}

func TestRecordsInAnotherOrderOrOfAnotherFileAreNotTaken(t *testing.T) {
	file, ends, after := sample(3)
	for i := 1; i+2 < len(ends); i++ {
		swapped := bytes.Clone(file[:ends[i]])
		swapped = append(swapped, file[ends[i+1]:ends[i+2]]...)
		swapped = append(swapped, file[ends[i]:ends[i+1]]...)
		p, err := read(swapped)
		if err != nil {
			t.Fatal(err)
		}
		wantPast(t, "swapped after record", i, p, after[i])
	}
	var other encoder
	other.header(boot, 10)
	p, err := read(append(other.buf, file[headerSize:]...))
	if err != nil || len(p.Containers)+len(p.Processes) > 0 {
		t.Errorf("records of another run: %v, %v", p, err)
	}
}

func TestWhatIsNotOurFileIsIgnoredAsAWhole(t *testing.T) {
	file, _, _ := sample(1)
	header := func(change func([]byte)) []byte {
		b := bytes.Clone(file)
		change(b)
		binary.LittleEndian.PutUint32(b[12:], crc32.Checksum(b[16:headerSize], castagnoli))
		return b
	}
	for name, tc := range map[string]struct {
		file []byte
		want error
	}{
		"nothing":          {nil, ErrBad},
		"text":             {bytes.Repeat([]byte("hello "), 100), ErrBad},
		"zeros":            {make([]byte, 4096), ErrBad},
		"another boot":     {header(func(b []byte) { b[20]++ }), ErrBoot},
		"a future version": {header(func(b []byte) { b[8]++ }), ErrVersion},
		"no version":       {header(func(b []byte) { b[8] = 0 }), ErrVersion},
	} {
		if p, err := read(tc.file); !errors.Is(err, tc.want) || p != nil {
			t.Errorf("%s: %v, %v; want %v", name, p, err, tc.want)
		}
	}
	broken := errors.New("broken")
	if _, err := Read(io.MultiReader(bytes.NewReader(file[:10]), failing{broken}), 100, boot); !errors.Is(err, broken) {
		t.Errorf("a disk that fails: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// raw appends a record with any body and the right checksum: what a forger, or
// another release, could write.
func raw(e *encoder, body []byte) {
	head := binary.LittleEndian.AppendUint32(nil, uint32(len(body)))
	e.sum = checksum(e.sum, head, body)
	e.buf = append(binary.LittleEndian.AppendUint32(append(e.buf, head...), e.sum), body...)
}

func TestARecordThatMakesNoSenseEndsTheFileThere(t *testing.T) {
	for name, body := range map[string][]byte{
		"an unknown kind":       append([]byte{9}, make([]byte, 8)...),
		"too short":             {kindTime, 1, 2},
		"a time with more":      append([]byte{kindTime}, make([]byte, 9)...),
		"a time that runs back": append([]byte{kindTime}, make([]byte, 8)...),
		"no change":             append([]byte{kindChange}, make([]byte, 8)...),
		"not protobuf":          append(append([]byte{kindChange}, make([]byte, 8)...), 0xff, 0xff),
		"too long":              append([]byte{kindChange}, make([]byte, maxRecord)...),
	} {
		var e encoder
		e.header(boot, 1)
		e.time(second)
		good := len(e.buf)
		raw(&e, body)
		e.time(2 * second)
		p, err := read(e.buf)
		if err != nil || p.Seen != second || p.Dropped != int64(len(e.buf)-good) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

func TestAGiantLengthAllocatesNothing(t *testing.T) {
	var e encoder
	e.header(boot, 1)
	e.buf = append(e.buf, 0xff, 0xff, 0xff, 0x7f, 1, 2, 3, 4, 5, 6, 7, 8, 9)
	var a, b runtime.MemStats
	runtime.ReadMemStats(&a)
	p, err := Read(bytes.NewReader(e.buf), 1<<40, boot)
	runtime.ReadMemStats(&b)
	if err != nil || len(p.Processes) != 0 {
		t.Errorf("%v, %v", p, err)
	}
	if got := b.TotalAlloc - a.TotalAlloc; got > 1<<20 {
		t.Errorf("it allocated %d bytes", got)
	}
}

func FuzzRead(f *testing.F) {
	file, ends, _ := sample(3)
	f.Add(file, uint16(0), false)
	f.Add(file[headerSize:ends[1]], uint16(0), true)
	f.Add([]byte{kindChange, 1, 2, 3, 4, 5, 6, 7, 8, 0x0a, 2, 8, 1}, uint16(100), true)
	f.Fuzz(func(t *testing.T, data []byte, cut uint16, sealed bool) {
		if sealed { // past the checksum: data is the body of a record that is whole
			var e encoder
			e.header(boot, 1)
			if len(data) > 0 && len(data) <= maxRecord {
				raw(&e, data)
			}
			data = e.buf
		}
		data = data[:max(0, len(data)-int(cut))]
		p, err := read(data)
		if (p == nil) == (err == nil) {
			t.Fatalf("%v, %v", p, err)
		}
		if p == nil {
			return
		}
		if p.Dropped < 0 || p.Dropped > int64(len(data)) {
			t.Fatalf("%d of %d bytes dropped", p.Dropped, len(data))
		}
		if again, err := read(data[:int64(len(data))-p.Dropped]); err != nil || again.Dropped != 0 || len(again.Processes) != len(p.Processes) {
			t.Fatalf("what was whole is not, the second time: %v, %v", again, err)
		}
		for _, q := range p.Ended(host()).Processes {
			if q.Exit == nil || q.Key.PID == 0 {
				t.Fatalf("a process that has not ended: %+v", q)
			}
		}
	})
}
