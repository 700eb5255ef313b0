// SPDX-License-Identifier: Apache-2.0

package boundjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func TestWhatIsOverItsBudgetIsCutAndTheRestIsLeftAlone(t *testing.T) {
	small := Limits{String: 4, Members: 3, Keep: []string{"io.k"}}
	for name, tc := range map[string]struct {
		limits   Limits
		in, want string
	}{
		"within":                        {small, `{"abc":"abcd","n":12345678}`, `{"abc":"abcd","n":12345678}`},
		"space is not passed on":        {small, " { \"a\" :\n[ ] , \"b\":{ } } ", `{"a":[],"b":{}}`},
		"a long string":                 {small, `["abcdefgh"]`, `["abcd"]`},
		"an escape counts as one":       {small, `["ab\"cdef"]`, `["ab\"c"]`},
		"an escape is kept whole":       {small, `["abc\u0041def"]`, `["abc\u0041"]`},
		"an escape is dropped whole":    {small, `["abcd\u0041d"]`, `["abcd"]`},
		"escapes in what is dropped":    {small, `["abcde\\\\","\\\\\\\\\\","a\"\"\"\"\"b\"","]"]`, `["abcd","\\\\\\\\","a\"\"\""]`},
		"an object of many":             {small, `{"a":1,"b":[2],"c":{},"d":4,"e":[{"x":[]}]}`, `{"a":1,"b":[2],"c":{}}`},
		"the kept come in":              {Limits{Members: 2, Keep: []string{"io.k"}}, `{"a":1,"b":2,"c":3,"io.k1":4,"io.k2":5,"io.k3":6,"z":7}`, `{"a":1,"b":2,"io.k1":4,"io.k2":5}`},
		"a list of many":                {Limits{Members: 2, Keep: []string{"bundle="}}, `["a","b","c",4,[5],"bundle=/x","d"]`, `["a","b","bundle=/x"]`},
		"each object has its own":       {small, `{"a":{"1":1,"2":2,"3":3,"4":4},"b":{"1":1}}`, `{"a":{"1":1,"2":2,"3":3},"b":{"1":1}}`},
		"a list without end":            {Limits{Members: 1, List: true}, `[{"a":1,"b":2},{"a":3,"b":4}]`, `[{"a":1},{"a":3}]`},
		"a list in the outermost":       {Limits{Members: 1, Items: "items", Bytes: []int{20}}, `{"items":[{"a":1,"b":2},{"a":3,"b":4},{"items":[5,6]}]}`, `{"items":[{"a":1},{"a":3},{"items":[5]}]}`},
		"what is beside that list":      {Limits{Members: 3, Items: "items", Bytes: []int{30, 8}}, `{"k":"v","items":["0123456789","0123456789","0123456789"],"m":[1,2,3,4,5],"z":1}`, `{"k":"v","items":["0123456789","0123456789","0123456789"],"m":[1,2,3]}`},
		"several values":                {small, `{"a":1}{"b":2} 3 4`, "{\"a\":1}\n{\"b\":2}\n3\n4"},
		"bytes of the inner, not outer": {Limits{Bytes: []int{1000, 10}}, `{"a":["1234","5678","9abc","def0"],"b":1}`, `{"a":["1234","5678"],"b":1}`},
		"what is named, and all of it":  {Limits{Only: map[string][]string{"": {"a", "b"}, "b": {"c"}, "b.c": {}}}, `{"x":[1,{"a":2}],"a":{"b":[{"z":1}]},"b":{"a":{"c":3},"c":{"a":1,"c":{}}},"c":4}`, `{"a":{"b":[{"z":1}]},"b":{"c":{}}}`},
		"no list is named":              {Limits{Only: map[string][]string{"": {"a"}, "a": {"b"}}}, `[{"a":1,"c":{"c":2}}]`, `[{"a":1,"c":{"c":2}}]`},
		"what is not named is free":     {Limits{Members: 1, Only: map[string][]string{"": {"a", "b"}}}, `{"x":1,"y":2,"a":3,"b":4}`, `{"a":3}`},
		"nested inside what is dropped": {small, `{"a":1,"b":2,"c":3,"d":{"e":[1,{"f":"\"]}"}]},"io.k":5}`, `{"a":1,"b":2,"c":3,"io.k":5}`},
	} {
		t.Run(name, func(t *testing.T) {
			for how, r := range map[string]io.Reader{"whole": strings.NewReader(tc.in), "bytewise": iotest.OneByteReader(strings.NewReader(tc.in))} {
				got, err := io.ReadAll(NewReader(r, tc.limits))
				if err != nil || strings.TrimSpace(string(got)) != tc.want {
					t.Errorf("%s: %s, %v; want %s", how, got, err, tc.want)
				}
				all, cut, err := ReadAll(strings.NewReader(tc.in), tc.limits)
				if err != nil || !bytes.Equal(all, got) || tc.limits.Only != nil && tc.limits.Members == 0 && cut != nil {
					t.Errorf("all at once: %s, %v, cut %q", all, err, cut)
				}
			}
		})
	}
}

func TestWhatIsNotJSONIsAnError(t *testing.T) {
	for _, in := range []string{
		``, `{`, `[1,]`, `[,1]`, `[1,,2]`, `["a" "b"]`, `{"a" 1}`, `{"a"::1}`, `{1:2}`, `{"a":1,}`, `[}`, `{]`, `]`, `<html>`, `{"a":}`, `[1 2]`,
		`{"a"}`, `"abc`, `["abc`, `{"a":1`, `[` + strings.Repeat("1", 1000) + `]`, `nul`, "\x00",
	} {
		var v any
		if _, err := Decode(strings.NewReader(in), Limits{}, &v); err == nil {
			t.Errorf("%q is %v", in, v)
		}
	}
}

func TestTheBudgetsOfAStreamEndIt(t *testing.T) {
	deep := strings.Repeat(`{"a":[`, 1_000_000)
	for name, tc := range map[string]struct {
		limits Limits
		in     io.Reader
		want   error
	}{
		"a million levels":            {Limits{}, strings.NewReader(deep), ErrTooDeep},
		"a string without end":        {Limits{Raw: 1 << 20}, io.MultiReader(strings.NewReader(`["`), forever("x")), ErrTooLarge},
		"space without end":           {Limits{Raw: 1 << 20}, forever(" "), ErrTooLarge},
		"a list of lists without end": {Limits{List: true, Total: 1 << 20}, io.MultiReader(strings.NewReader(`[`), forever(`{"a":1},`)), ErrTooLarge},
		"a reader that fails":         {Limits{}, io.MultiReader(strings.NewReader(`[1`), iotest.ErrReader(io.ErrClosedPipe)), io.ErrClosedPipe},
	} {
		var v any
		if _, err := Decode(tc.in, tc.limits, &v); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

// forever repeats a text.
func forever(text string) io.Reader { return &repeating{text: strings.Repeat(text, 1000)} }

type repeating struct {
	text string
	at   int
}

func (r *repeating) Read(p []byte) (int, error) {
	n := copy(p, r.text[r.at:])
	r.at = (r.at + n) % len(r.text)
	return n, nil
}

// TestALargeValueCostsLittleMemory decodes 64 MiB and 100,000 labels.
func TestALargeValueCostsLittleMemory(t *testing.T) {
	var many strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&many, `"label-%06d":"%s",`, i, strings.Repeat("v", 40))
	}
	for name, labels := range map[string]io.Reader{
		"64 MiB":            io.MultiReader(strings.NewReader(`"a":"`), io.LimitReader(forever("v"), 64<<20), strings.NewReader(`"`)),
		"64 MiB of escapes": io.MultiReader(strings.NewReader(`"a":"`), io.LimitReader(forever(`\u0041`), 60<<20), strings.NewReader(`"`)),
		"100,000":           strings.NewReader(many.String() + `"z":"end"`),
	} {
		in := io.MultiReader(strings.NewReader(`{"Config":{"Labels":{`), labels, strings.NewReader(`}},"Name":"web"}`))
		var got struct {
			Name   string
			Config struct{ Labels map[string]string }
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		cut, err := Decode(in, Limits{}, &got)
		runtime.ReadMemStats(&after)
		if err != nil || got.Name != "web" || len(got.Config.Labels) == 0 || len(got.Config.Labels) > 512 {
			t.Errorf("%s: %d labels, name %q, %v", name, len(got.Config.Labels), got.Name, err)
		}
		if many := name == "100,000"; many != slices.Equal(cut, []string{"Config.Labels"}) {
			t.Errorf("%s: cut %q", name, cut)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 2<<20 {
			t.Errorf("%s: allocated %d KiB in all", name, n>>10)
		}
	}
}

// TestWhatWasDecodedIsItsReadersOwn decodes again and again into memory that is used
// by turns.
func TestWhatWasDecodedIsItsReadersOwn(t *testing.T) {
	type doc struct {
		Name string
		Raw  json.RawMessage
	}
	in := func(i, long int) string {
		return fmt.Sprintf(`{"Name":"%d","Raw":{"text":"%s"}}`, i, strings.Repeat(strconv.Itoa(i%10), long))
	}
	var group sync.WaitGroup
	for g := range 4 {
		group.Go(func() {
			var all [100]doc
			for i := range all {
				if _, err := Decode(strings.NewReader(in(g*100+i, 100+i)), Limits{}, &all[i]); err != nil {
					t.Error(err)
				}
				if _, err := Decode(strings.NewReader(in(i, 500)+"]"), Limits{}, new(doc)); err == nil {
					t.Error("no JSON is decoded")
				}
			}
			for i, d := range all {
				if got := fmt.Sprintf(`{"Name":"%s","Raw":%s}`, d.Name, d.Raw); got != in(g*100+i, 100+i) {
					t.Errorf("%s became %s", in(g*100+i, 100+i), got)
				}
			}
		})
	}
	group.Wait()
}

func BenchmarkDecode(b *testing.B) {
	in := []byte(`{"Config":{"Labels":{"a":"` + strings.Repeat("v", 4<<10) + `"}},"Mounts":[` + strings.Repeat(`{"Source":"/a","Destination":"/b"},`, 300) + `{}],"Name":"web"}`)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		var v struct{ Name string }
		if _, err := Decode(bytes.NewReader(in), Limits{}, &v); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(`{"a":"bcdef\"\u00e9","x":[1,null,"\\"]}`), 3, 2)
	f.Add([]byte(`[{"Id":"4f","Labels":{"a":"1","b":"2","io.k":"3"}},{}]`), 10, 1)
	f.Add([]byte(`[[[[["deep"]]]], -1.5e+3, true]`), 1, 3)
	f.Fuzz(func(t *testing.T, in []byte, text, members int) {
		limits := Limits{String: min(max(text, 1), 100), Members: min(max(members, 1), 100), Bytes: []int{200, 100}, Keep: []string{"io."}, List: len(in)%2 == 0}
		whole, err := io.ReadAll(NewReader(bytes.NewReader(in), limits))
		bytewise, berr := io.ReadAll(NewReader(iotest.OneByteReader(bytes.NewReader(in)), limits))
		if !bytes.Equal(whole, bytewise) || fmt.Sprint(err) != fmt.Sprint(berr) {
			t.Errorf("depends on how it is read: %q, %v; %q, %v", whole, err, bytewise, berr)
		}
		if !json.Valid(in) || errors.Is(err, ErrTooDeep) || bytes.Contains(in, bytes.Repeat([]byte("0"), 30)) {
			return
		}
		if err != nil && !longNumber(in) || err == nil && !json.Valid(whole) {
			t.Errorf("%q became %q, %v", in, whole, err)
		}
		all, err := io.ReadAll(NewReader(bytes.NewReader(in), Limits{}))
		var want, got bytes.Buffer
		if err == nil && len(in) < 8<<10 && json.Compact(&want, in) == nil && json.Compact(&got, all) == nil && countMembers(in) < 512 {
			if d := cmp.Diff(want.String(), got.String()); d != "" {
				t.Errorf("changed without need: %s", d)
			}
		}
	})
}

// longNumber says whether there may be a number longer than the 64 bytes that are taken.
func longNumber(in []byte) bool {
	run := 0
	for _, b := range in {
		if run++; !isScalar(b) {
			run = 0
		}
		if run > 60 {
			return true
		}
	}
	return false
}

func countMembers(in []byte) int { return bytes.Count(in, []byte(",")) }

func BenchmarkLongString(b *testing.B) {
	in := []byte(`{"a":"` + strings.Repeat("v", 64<<20) + `"}`)
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if _, err := io.Copy(io.Discard, NewReader(bytes.NewReader(in), Limits{})); err != nil {
			b.Fatal(err)
		}
	}
}
