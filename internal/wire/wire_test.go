// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/pkg/workload"
)

// filler sets every exported field that it can reach to a value that is not
// zero, so that a field that the translation forgets comes back different. It
// learns fields from the types: nobody has to add a new one here.
type filler struct {
	rnd *rand.Rand
	n   uint64
	// sparse leaves about half of everything zero.
	sparse bool
}

func newFiller(seed uint64) *filler {
	return &filler{rnd: rand.New(rand.NewPCG(seed, 1))}
}

// words are the values of the enumerations: no other string survives the wire.
var words = map[reflect.Type][]string{
	reflect.TypeFor[workload.State]():      {"created", "running", "paused", "restarting", "exited"},
	reflect.TypeFor[workload.Status]():     {"unknown", "container", "host", "conflict"},
	reflect.TypeFor[workload.Confidence](): {"confirmed", "claimed"},
	reflect.TypeFor[workload.Entry]():      {"init", "exec"},
	reflect.TypeFor[workload.Kind]():       {"container", "process", "pod", "image", "task", "service"},
	reflect.TypeFor[workload.ChangeType](): {"set", "unset", "bookmark", "resync"},
}

func (f *filler) fill(v reflect.Value) {
	if f.sparse && f.rnd.IntN(2) == 0 {
		return
	}
	f.n++
	switch t := v.Type(); {
	case t == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Unix(int64(1e9+f.n), int64(f.rnd.IntN(1e9))).UTC()))
	case words[t] != nil:
		v.SetString(words[t][f.rnd.IntN(len(words[t]))])
	default:
		f.fillKind(v)
	}
}

func (f *filler) fillKind(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString(fmt.Sprintf("s%d-ä", f.n))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(1 + f.rnd.Int64N(1<<(v.Type().Bits()-2)))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1 + f.rnd.Uint64N(1<<(v.Type().Bits()-1)))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1+f.rnd.IntN(3), 3))
		for i := range v.Len() {
			f.fill(v.Index(i))
		}
	case reflect.Map:
		f.fillMap(v)
	case reflect.Struct:
		for i := range v.NumField() {
			f.fill(v.Field(i))
		}
	default:
		panic(fmt.Sprintf("teach the filler about %s", v.Type()))
	}
}

func (f *filler) fillMap(v reflect.Value) {
	v.Set(reflect.MakeMap(v.Type()))
	for range 1 + f.rnd.IntN(3) {
		f.n++
		val := reflect.New(v.Type().Elem()).Elem()
		f.fill(val)
		v.SetMapIndex(reflect.ValueOf(fmt.Sprintf("k%d", f.n)).Convert(v.Type().Key()), val)
	}
}

// over sends a message through its bytes, as the socket does.
func over[M any, P interface {
	*M
	proto.Message
}](t *testing.T, m P) P {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatalf("marshal %T: %v", m, err)
	}
	out := P(new(M))
	if err := proto.Unmarshal(b, out); err != nil {
		t.Fatalf("unmarshal %T: %v", m, err)
	}
	return out
}

// survives fills a T, completely and then in many random sparse ways, and
// compares what comes back.
func survives[T any](t *testing.T, trip func(*testing.T, T) T, prepare ...func(*T)) {
	t.Helper()
	for seed := range uint64(200) {
		f := newFiller(seed)
		var in T
		f.fill(reflect.ValueOf(&in).Elem())
		if seed > 0 {
			f.sparse = true
			in = *new(T)
			f.fillKind(reflect.ValueOf(&in).Elem())
		}
		for _, p := range prepare {
			p(&in)
		}
		if diff := cmp.Diff(in, trip(t, in), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%T of seed %d changed on its way (-sent +got):\n%s", in, seed, diff)
		}
	}
}

func TestEveryFieldOfAContainerSurvives(t *testing.T) {
	survives(t, func(t *testing.T, c workload.Container) workload.Container {
		return *decodeContainer(over(t, encodeContainer(&c)))
	})
}

func TestEveryFieldOfAProcessSurvives(t *testing.T) {
	survives(t, func(t *testing.T, p workload.Process) workload.Process {
		return *decodeProcess(over(t, encodeProcess(&p)))
	})
}

func TestEveryFieldOfAPodTaskImageAndServiceSurvives(t *testing.T) {
	survives(t, func(t *testing.T, p workload.Pod) workload.Pod { return *decodePod(over(t, encodePod(&p))) })
	survives(t, func(t *testing.T, x workload.Task) workload.Task { return *decodeTask(over(t, encodeTask(&x))) })
	survives(t, func(t *testing.T, i workload.Image) workload.Image { return *decodeImage(over(t, encodeImage(&i))) })
	survives(t, func(t *testing.T, s workload.Service) workload.Service {
		return *decodeService(over(t, encodeService(&s)))
	})
}

func TestEveryFieldOfTheAgentStatusSurvives(t *testing.T) {
	survives(t, func(t *testing.T, s workload.AgentStatus) workload.AgentStatus {
		return DecodeStatus(over(t, EncodeStatus(s)))
	})
}

func TestEveryFieldOfAnAnswerAndItsExplanationSurvives(t *testing.T) {
	type result struct {
		Answer      workload.Answer
		Explanation []workload.Hop
	}
	survives(t, func(t *testing.T, r result) result {
		for i, c := range r.Answer.Containers {
			if c == nil { // a chain has no holes
				r.Answer.Containers[i] = &workload.Container{}
			}
		}
		in := []workload.Result{{Answer: r.Answer, Explanation: r.Explanation}}
		out, err := DecodeResults(make([]workload.Query, 1), over(t, EncodeResults(in)))
		if err != nil {
			t.Fatal(err)
		}
		return result{out[0].Answer, out[0].Explanation}
	})
}

func TestEveryFieldOfAnEntityAndAChangeSurvives(t *testing.T) {
	for i := range reflect.TypeFor[workload.Entity]().NumField() {
		field := reflect.TypeFor[workload.Entity]().Field(i)
		if field.Type.Kind() != reflect.Pointer {
			continue
		}
		t.Run(field.Name, func(t *testing.T) {
			survives(t, func(t *testing.T, c workload.Change) workload.Change {
				return DecodeChange(over(t, EncodeChange(c)))
			}, func(c *workload.Change) { keepOnly(&c.Entity, field.Name) })
		})
	}
}

// keepOnly leaves an entity one of its values: it never has two.
func keepOnly(e *workload.Entity, name string) {
	v := reflect.ValueOf(e).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && v.Type().Field(i).Name != name {
			f.SetZero()
		}
	}
}

func TestEveryFieldOfAQuerySurvives(t *testing.T) {
	subjects := map[string]workload.Query{
		"Self":       {Self: true},
		"PID":        {PID: workload.MaxPID},
		"Key":        {Key: workload.ProcessKey{PID: 7, Ticks: true, Inode: 1 << 63, Start: 1<<64 - 1}},
		"Cgroup":     {Cgroup: workload.CgroupID{Hierarchy: 9, ID: 1 << 63}},
		"CgroupPath": {CgroupPath: "/docker/4f3a"},
		"Container":  {Container: "web"},
	}
	modifiers := map[string]func(*workload.Query){
		"At":      func(q *workload.Query) { q.At = time.Unix(1e9, 5).UTC() },
		"Wait":    func(q *workload.Query) { q.Wait = time.Second },
		"Explain": func(q *workload.Query) { q.Explain = true },
	}
	for f := range reflect.TypeFor[workload.Query]().Fields() {
		if _, subject := subjects[f.Name]; !subject && modifiers[f.Name] == nil {
			t.Errorf("this test does not know Query.%s", f.Name)
		}
	}
	for name, q := range subjects {
		for _, modify := range modifiers {
			modify(&q)
			got, err := DecodeQuery(over(t, EncodeQuery(q)))
			if diff := cmp.Diff(q, got); err != nil || diff != "" {
				t.Errorf("%s: %v (-sent +got):\n%s", name, err, diff)
			}
		}
	}
}

func TestEveryFieldOfASelectorSurvives(t *testing.T) {
	all := []workload.Kind{"container", "process", "pod", "image", "task", "service"}
	if diff := cmp.Diff(all, DecodeKinds(EncodeKinds(all))); diff != "" {
		t.Error(diff)
	}
	if n := reflect.TypeFor[workload.Selector]().NumField(); n != 3 {
		t.Errorf("Selector has %d fields: the requests of List and StreamEntities carry kinds, all and from", n)
	}
}

func TestEveryWordOfAnEnumerationHasANumber(t *testing.T) {
	for typ, n := range map[reflect.Type]int{
		reflect.TypeFor[workload.State]():      len(states),
		reflect.TypeFor[workload.Status]():     len(statuses),
		reflect.TypeFor[workload.Confidence](): len(confidences),
		reflect.TypeFor[workload.Entry]():      len(entries),
		reflect.TypeFor[workload.Kind]():       len(kinds),
		reflect.TypeFor[workload.ChangeType](): len(changeTypes),
	} {
		if n != len(words[typ])+1 {
			t.Errorf("%s has %d words and the table %d numbers", typ, len(words[typ]), n)
		}
	}
	if n := len(pb.EntityKind_name); n != len(kinds) {
		t.Errorf("%d kinds in the protobuf, %d in the table", n, len(kinds))
	}
}

func TestAnUnknownWordOrNumberBecomesNothing(t *testing.T) {
	if n := number[pb.Status](statuses[:], "maybe"); n != 0 {
		t.Errorf("a word that nobody knows has the number %d", n)
	}
	for _, n := range []pb.Status{-1, 0, 99, 1<<31 - 1} {
		if w := word(statuses[:], n); w != "" {
			t.Errorf("number %d is the word %q", n, w)
		}
	}
}

// A container may put any bytes into its labels; protobuf refuses to marshal
// them, which would take the whole reply down.
func TestBytesThatAreNoTextDoNotStopAReply(t *testing.T) {
	bad := "a\xff\xfeb"
	for _, fillAll := range []any{&workload.Container{}, &workload.Process{}, &workload.Pod{}, &workload.Image{}, &workload.Task{}, &workload.Service{}} {
		v := reflect.ValueOf(fillAll).Elem()
		newFiller(1).fill(v)
		spoil(v, bad)
		m := EncodeEntity(entityOf(fillAll))
		over(t, m)
	}
	var s workload.AgentStatus
	newFiller(1).fill(reflect.ValueOf(&s).Elem())
	spoil(reflect.ValueOf(&s).Elem(), bad)
	over(t, EncodeStatus(s))

	var a workload.Answer
	newFiller(1).fill(reflect.ValueOf(&a).Elem())
	spoil(reflect.ValueOf(&a).Elem(), bad)
	hops := []workload.Hop{{What: bad, Detail: bad, Source: bad}}
	got := over(t, EncodeResults([]workload.Result{{Answer: a, Explanation: hops}, {Err: errors.New(bad)}}))
	if want := "a\uFFFDb"; got.GetResults()[0].GetAnswer().GetReason() != want {
		t.Errorf("reason %q, want %q", got.GetResults()[0].GetAnswer().GetReason(), want)
	}
	over(t, EncodeQuery(workload.Query{CgroupPath: bad}))
	over(t, EncodeQuery(workload.Query{Container: bad}))
}

func entityOf(p any) workload.Entity {
	var e workload.Entity
	v := reflect.ValueOf(&e).Elem()
	for i := range v.NumField() {
		if v.Field(i).Type() == reflect.TypeOf(p) {
			v.Field(i).Set(reflect.ValueOf(p))
		}
	}
	return e
}

// spoil replaces every string, keys of maps included.
func spoil(v reflect.Value, bad string) {
	switch v.Kind() {
	case reflect.String:
		if words[v.Type()] == nil {
			v.SetString(bad)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			spoil(v.Elem(), bad)
		}
	case reflect.Slice:
		for i := range v.Len() {
			spoil(v.Index(i), bad)
		}
	case reflect.Map:
		val := reflect.New(v.Type().Elem()).Elem()
		spoil(val, bad)
		v.SetMapIndex(reflect.ValueOf(bad), val)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			spoil(v.Field(i), bad)
		}
	}
}

func TestEncodingDoesNotChangeWhatItIsGiven(t *testing.T) {
	var c, before workload.Container
	newFiller(3).fill(reflect.ValueOf(&c).Elem())
	newFiller(3).fill(reflect.ValueOf(&before).Elem())
	c.Labels["\xff"], before.Labels["\xff"] = "\xff", "\xff"
	c.Missing, before.Missing = []string{"a", "\xff"}, []string{"a", "\xff"}
	over(t, encodeContainer(&c))
	if diff := cmp.Diff(before, c); diff != "" {
		t.Error(diff)
	}
}
