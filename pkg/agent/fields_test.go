// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// docs/fields.md is made from the nouns' own comments, from the table of
// precedence, and from what the code of each source sets: no row of it is written
// by hand.

// parseDir gives the files of a package without its tests.
func parseDir(t *testing.T, dir string) (files []*ast.File) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no Go files in %s: %v", dir, err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

// noun is a struct of pkg/workload.
type noun struct {
	name, doc string
	fields    []nounField
}

type nounField struct{ name, typ, doc string }

func nouns(t *testing.T) map[string]noun {
	t.Helper()
	out := map[string]noun{}
	for _, f := range parseDir(t, "../workload") {
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.TYPE {
				continue
			}
			for _, s := range g.Specs {
				if st, ok := s.(*ast.TypeSpec).Type.(*ast.StructType); ok {
					n := noun{name: s.(*ast.TypeSpec).Name.Name, doc: oneLineDoc(g.Doc.Text())}
					for _, f := range st.Fields.List {
						n.fields = append(n.fields, nounFields(f)...)
					}
					out[n.name] = n
				}
			}
		}
	}
	return out
}

func nounFields(f *ast.Field) (out []nounField) {
	doc := oneLineDoc(f.Doc.Text() + " " + f.Comment.Text())
	typ := typeName(f.Type)
	if len(f.Names) == 0 { // embedded
		return []nounField{{typ, typ, doc}}
	}
	for _, n := range f.Names {
		out = append(out, nounField{n.Name, typ, doc})
	}
	return out
}

func oneLineDoc(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", `\|`)
}

func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return typeName(e.X)
	case *ast.ArrayType:
		return "list of " + typeName(e.Elt)
	case *ast.MapType:
		return "map of " + typeName(e.Value)
	case *ast.SelectorExpr:
		return typeName(e.X) + "." + e.Sel.Name
	case *ast.Ident:
		return e.Name
	}
	return "?"
}

// merged are the nouns that are merged from what several sources say.
var merged = []string{"Container", "Pod", "Task", "Image"}

// setBy says which fields of the merged nouns the code of a package sets: those
// in literals of the types, and those that are assigned through a variable of one.
func setBy(t *testing.T, dir string) map[string]map[string]bool {
	t.Helper()
	sets := map[string]map[string]bool{}
	for _, n := range merged {
		sets[n] = map[string]bool{}
	}
	for _, f := range parseDir(t, dir) {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
				inFunc(fn, sets)
			}
		}
	}
	return sets
}

func inFunc(fn *ast.FuncDecl, sets map[string]map[string]bool) {
	vars := map[string]string{} // name to Container, Pod, ...
	declare := func(name string, e ast.Expr) {
		if k := nounOf(e); k != "" && name != "_" {
			vars[name] = k
		}
	}
	for _, list := range []*ast.FieldList{fn.Type.Params, fn.Type.Results} {
		if list == nil {
			continue
		}
		for _, p := range list.List {
			for _, n := range p.Names {
				declare(n.Name, p.Type)
			}
		}
	}
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for i, l := range n.Lhs {
				if id, ok := l.(*ast.Ident); ok && len(n.Rhs) == len(n.Lhs) {
					declare(id.Name, n.Rhs[i])
				}
				assigned(l, vars, sets)
			}
		case *ast.ValueSpec:
			for _, id := range n.Names {
				declare(id.Name, n.Type)
			}
		case *ast.UnaryExpr: // &c.Field is given to be filled
			if n.Op == token.AND {
				assigned(n.X, vars, sets)
			}
		case *ast.CompositeLit:
			if k := nounOf(n.Type); k != "" {
				for _, e := range n.Elts {
					if kv, ok := e.(*ast.KeyValueExpr); ok {
						sets[k][kv.Key.(*ast.Ident).Name] = true
					}
				}
			}
		}
		return true
	})
}

// assigned notes c.Field, c.Field.Part and c.Field[key].
func assigned(e ast.Expr, vars map[string]string, sets map[string]map[string]bool) {
	switch e := e.(type) {
	case *ast.IndexExpr:
		assigned(e.X, vars, sets)
	case *ast.SelectorExpr:
		if id, ok := e.X.(*ast.Ident); ok && vars[id.Name] != "" {
			sets[vars[id.Name]][e.Sel.Name] = true
			return
		}
		assigned(e.X, vars, sets)
	}
}

// nounOf gives the merged noun of the type, or of a literal of it.
func nounOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return nounOf(e.X)
	case *ast.UnaryExpr:
		return nounOf(e.X)
	case *ast.CompositeLit:
		return nounOf(e.Type)
	case *ast.CallExpr:
		if len(e.Args) == 1 {
			if id, ok := e.Fun.(*ast.Ident); ok && id.Name == "new" {
				return nounOf(e.Args[0])
			}
		}
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok && x.Name == "workload" && slices.Contains(merged, e.Sel.Name) {
			return e.Sel.Name
		}
	}
	return ""
}

// sourcePackages are the packages of the collectors; runtimespec is part of those
// that import it, and nested says what the one in it does.
func sourcePackages(t *testing.T) (names []string, imports map[string]bool) {
	t.Helper()
	dirs, err := os.ReadDir("../collectors")
	if err != nil {
		t.Fatal(err)
	}
	imports = map[string]bool{}
	for _, d := range dirs {
		if !d.IsDir() || d.Name() == "collectortest" || d.Name() == "runtimespec" || d.Name() == "nested" || d.Name() == "remote" || d.Name() == "testdata" {
			continue
		}
		names = append(names, d.Name())
		for _, f := range parseDir(t, filepath.Join("../collectors", d.Name())) {
			for _, i := range f.Imports {
				if strings.HasSuffix(i.Path.Value, `/runtimespec"`) {
					imports[d.Name()] = true
				}
			}
		}
	}
	return names, imports
}

// sources gives, for "Container.Name", who sets it.
func sources(t *testing.T) map[string][]string {
	t.Helper()
	by := map[string][]string{}
	add := func(source string, sets map[string]map[string]bool) {
		for entity, fields := range sets {
			for f := range fields {
				if k := entity + "." + f; !slices.Contains(by[k], source) {
					by[k] = append(by[k], source)
				}
			}
		}
	}
	names, imports := sourcePackages(t)
	spec := setBy(t, "../collectors/runtimespec")
	for _, n := range names {
		add(n, setBy(t, filepath.Join("../collectors", n)))
		if imports[n] {
			add(n, spec)
		}
	}
	add(store.KernelSource, setBy(t, "../correlator"))
	return by
}

const fieldsIntro = `<!-- Made by go test ./pkg/agent -run Fields -update. -->

# Every field

What each field means, which source sets it, who is believed where several do, and what it is called among OpenTelemetry's
attributes (` + "`Answer.Attributes()`, `pkg/workload`" + `). The names are those of the Go packages; the API has them in snake_case, JSON
in lowerCamelCase. "kernel" is pidigree's own word, made from what it saw in the kernel. [precedence.md](precedence.md) says
how the layers are joined, [budgets.md](budgets.md) what is kept of a field. Which source sets what is read from the sources'
code: a source that sets a field says it where its engine does.

`

func fieldsPage(t *testing.T) string {
	t.Helper()
	ns, by, attrs := nouns(t), sources(t), workload.AttributeNames()
	var b strings.Builder
	b.WriteString(fieldsIntro)
	for _, e := range []struct {
		name string
		kind workload.Kind
	}{{"Container", workload.KindContainer}, {"Pod", workload.KindPod}, {"Task", workload.KindTask}, {"Image", workload.KindImage}} {
		fmt.Fprintf(&b, "## %s\n\n%s\n\n| field | meaning | set by | the first wins | attribute |\n|---|---|---|---|---|\n", e.name, ns[e.name].doc)
		for _, r := range store.Precedence() {
			if r.Entity != e.kind {
				continue
			}
			for _, f := range r.Fields {
				fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", f, meaning(ns, e.name, f), setters(by, e.name, f), winners(r), code(attrs[e.name+"."+f]))
			}
		}
		b.WriteString("\n")
	}
	for _, n := range []string{"Process", "Service"} {
		who := map[string]string{"Process": "kernel; Exe and Detail when they are asked for, by /proc", "Service": "kernel, by the process's cgroup; systemd, from Description on"}[n]
		if who == "" {
			who = "no source yet"
		}
		fmt.Fprintf(&b, "## %s\n\n%s Set by: %s.\n\n| field | meaning | attribute |\n|---|---|---|\n", n, ns[n].doc, who)
		for _, f := range ns[n].fields {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", f.name, meaning(ns, n, f.name), code(attrs[n+"."+f.name]))
		}
		b.WriteString("\n")
	}
	b.WriteString("## Parts\n\n| part | field | meaning |\n|---|---|---|\n")
	for _, n := range []string{
		"ContainerID", "ImageRef", "Run", "CgroupPath", "CgroupID", "ProcessKey", "Exit", "Network", "Port", "Mount", "Limits", "Security", "PodRef",
		"PodContainer", "PodCondition", "PodOwner", "PodVolume", "TaskRef", "TaskLimits", "TaskContainer", "ImageLayer", "PIDNamespace", "ProcessDetail", "Family", "Provenance", "Mark",
	} {
		for _, f := range ns[n].fields {
			says := meaning(ns, n, f.name)
			if names := attrs[n+"."+f.name]; names != nil {
				says += " Attribute " + code(names) + "."
			}
			fmt.Fprintf(&b, "| %s | %s | %s |\n", n, f.name, says)
		}
	}
	return b.String()
}

// meaning is the field's comment, else its type's, else its type.
func meaning(ns map[string]noun, entity, field string) string {
	head, rest, part := strings.Cut(field, ".")
	for _, f := range ns[entity].fields {
		if f.name == "PodRef" && entity == "Pod" && slices.Contains([]string{"UID", "Name", "Namespace"}, head) {
			return meaning(ns, "PodRef", head)
		}
		if f.name != head {
			continue
		}
		typ := strings.TrimPrefix(f.typ, "list of ")
		switch {
		case part:
			return meaning(ns, typ, rest)
		case f.doc != "":
			return f.doc
		case ns[typ].doc != "":
			return ns[typ].doc
		}
		return "its " + spaced(f.name)
	}
	return "?"
}

// spaced makes "host network" of HostNetwork, and leaves short names alone.
func spaced(name string) string {
	if strings.ToUpper(name) == name {
		return name
	}
	var b strings.Builder
	for i, r := range name {
		if i > 0 && r >= 'A' && r <= 'Z' && name[i-1] >= 'a' {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}

func setters(by map[string][]string, entity, field string) string {
	head, _, _ := strings.Cut(field, ".")
	who := by[entity+"."+head]
	if entity == "Pod" && slices.Contains([]string{"UID", "Name", "Namespace"}, head) {
		who = by["Pod.PodRef"]
	}
	switch head {
	case "Sources":
		return "the store"
	case "Filtered":
		return "the agent, in what it shows"
	case "Truncated":
		return "every source, by its budgets"
	}
	if len(who) == 0 {
		return "nobody"
	}
	return strings.Join(who, ", ")
}

func winners(r store.FieldRule) string {
	switch {
	case r.Order == nil:
		return r.How
	case !r.Others:
		return strings.Join(r.Order, ", ")
	}
	return strings.Join(r.Order, ", ") + ", others"
}

func code(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "`" + strings.Join(names, "`, `") + "`"
}

func TestFieldsAreDocumented(t *testing.T) {
	page := fieldsPage(t)
	const path = "../../docs/fields.md"
	if *update {
		if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(got), page); d != "" {
		t.Errorf("docs/fields.md is old; run go test ./pkg/agent -run Fields -update (-page +now)\n%s", d)
	}
	for line := range strings.Lines(page) {
		if strings.Contains(line, "| ? |") {
			t.Errorf("no meaning: %s", line)
		}
	}
	for field := range workload.AttributeNames() {
		entity, name, _ := strings.Cut(field, ".")
		if meaning(nouns(t), entity, name) == "?" {
			t.Errorf("an attribute of %s, which is no field", field)
		}
	}
}
