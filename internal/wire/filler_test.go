// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// filler sets every exported field that it can reach to a value that is not
// zero, so that a field that the tables forget comes back different. It learns
// fields from the types: nobody has to add a new one here.
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
	reflect.TypeFor[workload.State]():      asStrings(states),
	reflect.TypeFor[workload.Health]():     asStrings(healths),
	reflect.TypeFor[workload.Role]():       asStrings(roles),
	reflect.TypeFor[workload.Status]():     asStrings(statuses),
	reflect.TypeFor[workload.Confidence](): asStrings(confidences),
	reflect.TypeFor[workload.Entry]():      asStrings(entries),
	reflect.TypeFor[workload.Kind]():       asStrings(kinds),
	reflect.TypeFor[workload.ChangeType](): asStrings(changeTypes),
}

func asStrings[W ~string](words []W) (out []string) {
	for _, w := range words[1:] {
		out = append(out, string(w))
	}
	return out
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
		v.SetInt((1 + f.rnd.Int64N(1<<(v.Type().Bits()-2))) * int64(1-2*f.rnd.IntN(2)))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1 + f.rnd.Uint64N(1<<(v.Type().Bits()-1))<<f.rnd.IntN(2))
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
		for _, field := range v.Fields() {
			f.fill(field)
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
		for _, field := range v.Fields() {
			spoil(field, bad)
		}
	}
}
