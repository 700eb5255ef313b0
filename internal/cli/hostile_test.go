// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pidigree/pidigree/internal/plain/plaintest"
	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/workload"
)

// poisons are what a container may put into its name, its labels, its program's
// name and its cgroup.
var poisons = map[string]string{
	"escape sequences":    "\x1b[2J\x1b]0;owned\x07\x1b[31mroot",
	"line ends":           "a\r\nSTATUS host\n\n\vb\fc",
	"NUL and DEL":         "a\x00b\x7f\b\b",
	"C1 controls":         "\u0085\u009b31m\u0090",
	"bare C1 bytes":       "\x9b31m\x85",
	"bidi marks":          "\u202a\u202b\u202c\u202d\u202egpj.\u2066\u2067\u2068\u2069\u200e\u200f\u061c",
	"zero width":          "a\u200b\u200c\u200d\u2060\ufeffb",
	"odd line separators": "a\u2028b\u2029",
	"invalid UTF-8":       "\xff\xfe\xc3\x28\xed\xa0\x80\xf4\x90\x80\x80",
	"tag characters":      "\U000e0041\U000e007f",
	"255 bytes":           strings.Repeat("\u202e", 85),
	"a path's tricks":     "/../..foo (deleted): {{.}} %s %n ${x} <b>",
}

// poison sets every string below v, and makes what could hold one. Enumerations
// stay, unless all is set: then nothing is what it should be.
func poison(v reflect.Value, text string, all bool, depth int) {
	switch v.Kind() {
	case reflect.String:
		if all || v.Type() == reflect.TypeFor[string]() {
			v.SetString(text)
		}
	case reflect.Pointer:
		if v.IsNil() && depth < 8 {
			v.Set(reflect.New(v.Type().Elem()))
		}
		if !v.IsNil() {
			poison(v.Elem(), text, all, depth+1)
		}
	case reflect.Struct:
		if v.Type().PkgPath() == "time" {
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				poison(v.Field(i), text, all, depth+1)
			}
		}
	case reflect.Slice:
		if v.Len() == 0 {
			v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		}
		for i := range v.Len() {
			poison(v.Index(i), text, all, depth+1)
		}
	case reflect.Map:
		m := reflect.MakeMap(v.Type())
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		poison(key, text, true, depth+1)
		poison(value, text, all, depth+1)
		m.SetMapIndex(key, value)
		v.Set(m)
	case reflect.Interface:
		if v.Type() == reflect.TypeFor[error]() {
			v.Set(reflect.ValueOf(errors.New(text)))
		}
	}
}

// poisoned gives a noun with nothing but poison in it, like where it has an enumeration.
func poisoned[T any](like T, text string, all bool) T {
	v := reflect.New(reflect.TypeFor[T]()).Elem()
	v.Set(reflect.ValueOf(like))
	poison(v, text, all, 0)
	return v.Interface().(T)
}

// poisonedAgent answers every question with poison.
func poisonedAgent(text string, all bool) *fake {
	clone := func() workload.Answer {
		return workload.Answer{Status: workload.StatusContainer, Confidence: workload.Confirmed, Process: webProcess(), Containers: []*workload.Container{webContainer(), webContainer()}}
	}
	answer := poisoned(clone(), text, all)
	conflict := poisoned(workload.Answer{Status: workload.StatusConflict, Process: webProcess()}, text, all)
	host := poisoned(workload.Answer{Status: workload.StatusHost, Process: webProcess()}, text, all)
	host.Containers, conflict.Containers = nil, nil
	hops := poisoned([]workload.Hop{{At: 1}}, text, all)
	family := poisoned(&workload.Family{Ancestors: make([]workload.Process, 1), Children: make([]workload.Process, 1)}, text, all)
	f := &fake{
		results: map[string]workload.Result{
			"1": {Answer: answer, Explanation: hops, Family: family}, "2": {Answer: conflict, Explanation: hops}, "3": {Answer: host, Explanation: hops},
			"4": {Err: fmt.Errorf("%s: %w", text, workload.ErrAmbiguous)}, "5": {Err: errors.New(text)},
		},
		lists:  map[workload.Kind][]workload.Entity{},
		status: poisoned(testStatus(), text, all),
		end:    errors.New(text),
	}
	for _, k := range kinds() {
		e := poisoned(workload.Entity{}, text, all)
		e.Kind = k.kind
		gone := e
		gone.Gone = true
		f.lists[k.kind] = []workload.Entity{e, gone}
		for _, typ := range []workload.ChangeType{workload.ChangeSet, workload.ChangeUnset} {
			f.changes = append(f.changes, workload.Change{Type: typ, Entity: e})
		}
	}
	return f
}

// commandLines are all commands in all formats.
func commandLines(text string) (all [][]string) {
	for _, format := range []string{"table", "wide", "name", "json", "yaml", "go-template={{.}}", "go-template={{json .}}"} {
		all = append(all,
			[]string{"who", "1", "2", "3", "4", "5", "-o", format},
			[]string{"explain", "1", "2", "3", "4", "5", "-o", format},
			[]string{"list", "processes", "--detail", "-o", format}, []string{"list", "processes", "--tree", "-o", format},
			[]string{"status", "-o", format}, []string{"watch", "-o", format}, []string{"watch", "processes", "-o", format})
		for _, k := range kinds() {
			all = append(all, []string{"list", k.word, "--all", "-o", format})
		}
	}
	return append(all, []string{text}, []string{"who", text}, []string{"list", text}, []string{"who", "1", "--" + text}, []string{"who", "1", "-o", text},
		[]string{"who", "1", "--at", text}, []string{"--config", text, "who", "1"}, []string{"help", text}, []string{"completion", text},
		[]string{"__complete", "who", ""}, []string{"agent", "--log-level", text}, []string{"--socket", text, "status"})
}

// TestNoCommandShowsWhatATerminalWouldActOn walks through all commands with
// poison in every string of every noun.
func TestNoCommandShowsWhatATerminalWouldActOn(t *testing.T) {
	shown := 0
	for name, text := range poisons {
		t.Run(name, func(t *testing.T) {
			for _, all := range []bool{false, true} {
				for _, args := range commandLines(text) {
					w := &world{agent: poisonedAgent(text, all)}
					out := w.main(t, args...)
					shown += len(out.stdout)
					for line := range strings.Lines(out.stdout + "\n" + out.stderr) {
						plaintest.Check(t, strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\t", ""))
					}
					if t.Failed() {
						t.Fatalf("it was printed by %q", args)
					}
					checkObjects(t, args, out.stdout)
				}
				for _, err := range []error{errors.New(text), fmt.Errorf("%w: %s", workload.ErrDenied, text), fmt.Errorf("%w: %s", client.ErrNoAgent, text)} {
					for _, w := range []*world{{agent: &fake{err: err, listErr: err, end: err}}, {dialErr: err}} {
						for _, args := range [][]string{{"who", "1"}, {"list"}, {"status"}, {"watch"}, {"explain", "1"}} {
							out := w.main(t, args...)
							for line := range strings.Lines(out.stdout + "\n" + out.stderr) {
								plaintest.Check(t, strings.TrimSuffix(line, "\n"))
							}
						}
					}
				}
			}
		})
	}
	if shown < 1<<20 {
		t.Errorf("only %d bytes were shown: the walk does not reach the nouns", shown)
	}
}

// checkObjects: what says that it is JSON is.
func checkObjects(t *testing.T, args []string, out string) {
	t.Helper()
	if last := args[len(args)-1]; last != "json" && last != "go-template={{json .}}" {
		return
	}
	for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
		var v any
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%q is not JSON: %v", args, err)
		}
	}
	if !utf8.ValidString(out) {
		t.Errorf("%q is not UTF-8", args)
	}
}

func TestALogLineIsOneLineAndPlain(t *testing.T) {
	for name, text := range poisons {
		for _, format := range []string{"text", "json"} {
			var out bytes.Buffer
			log := AgentConfig{LogLevel: "debug", LogFormat: format}.Logger(&out)
			log.Log(context.Background(), slog.LevelWarn, "bundle not read", "container", text, "err", errors.New(text), "list", []string{text}, slog.Group("g", "path", text))
			line, whole := strings.CutSuffix(out.String(), "\n")
			if !whole {
				t.Errorf("%s, %s: no line", name, format)
			}
			plaintest.Check(t, line)
			if format == "json" && !json.Valid([]byte(line)) {
				t.Errorf("%s: not JSON: %s", name, line)
			}
		}
	}
}
