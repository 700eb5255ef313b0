// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "github.com/pidigree/pidigree"

// listed is what we read of `go list -json`.
type listed struct {
	ImportPath   string
	Name         string
	Doc          string
	GoFiles      []string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// path is the package's path within the module.
func (p listed) path() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

// table maps the first column of one of the page's tables to its second.
type table map[string][]string

func TestThePackagesAreTheOnesOfTheTable(t *testing.T) {
	page, packages := load(t)
	for _, finding := range checkPackages(rows(t, page, "packages"), packages) {
		t.Error(finding)
	}
}

func TestEveryForeignModuleStaysWhereTheTableSays(t *testing.T) {
	page, packages := load(t)
	for _, finding := range checkModules(rows(t, page, "modules"), packages) {
		t.Error(finding)
	}
}

func TestEveryPackageSaysWhatItOwns(t *testing.T) {
	_, packages := load(t)
	for _, p := range packages {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.path())
		}
	}
}

func TestEveryPackageOfTheTableHasAParagraph(t *testing.T) {
	page, _ := load(t)
	prose, _, _ := strings.Cut(page, "### Who may import whom")
	for name := range rows(t, page, "packages") {
		top := strings.SplitAfter(name, "/")
		short := "`" + top[len(top)-1] + "`"
		if strings.HasPrefix(name, "pkg/") && !strings.Contains(prose, "`"+name+"`") && !strings.Contains(prose, short) {
			t.Errorf("ARCHITECTURE.md says nothing about %s", name)
		}
	}
}

// The checks themselves are tested: a check that finds nothing in a bad tree
// would hold nothing in place.
func TestAViolationIsFound(t *testing.T) {
	own := table{"pkg/a": nil, "pkg/b": {"pkg/a"}}
	foreign := table{"example.org/sdk": {"pkg/a"}}
	packages := []listed{
		{ImportPath: module + "/pkg/a", Imports: []string{module + "/pkg/b", "example.org/sdk/v2/client", "fmt"}},
		{ImportPath: module + "/pkg/b", Imports: []string{module + "/pkg/a"}, TestImports: []string{"example.org/sdk"}},
		{ImportPath: module + "/pkg/new"},
	}
	got := append(checkPackages(own, packages), checkModules(foreign, packages)...)
	want := []string{
		"pkg/a imports pkg/b, which its row of ARCHITECTURE.md does not allow",
		"pkg/new is in no row of the table of ARCHITECTURE.md",
		"pkg/b imports example.org/sdk, which belongs to pkg/a alone",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

// checkPackages compares what our packages import of ours with their rows.
func checkPackages(allowed table, packages []listed) (findings []string) {
	for _, p := range packages {
		may, ok := allowed[p.path()]
		if !ok {
			findings = append(findings, p.path()+" is in no row of the table of ARCHITECTURE.md")
			continue
		}
		for _, imported := range p.Imports {
			name, ours := strings.CutPrefix(imported, module+"/")
			if ours && !slices.Contains(may, name) {
				findings = append(findings, fmt.Sprintf("%s imports %s, which its row of ARCHITECTURE.md does not allow", p.path(), name))
			}
		}
	}
	return findings
}

// checkModules looks for modules outside the packages that they belong to, in
// the code and in its tests.
func checkModules(only table, packages []listed) (findings []string) {
	for _, p := range packages {
		for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			for mod, homes := range only {
				if under(imported, mod) && !slices.Contains(homes, p.path()) {
					findings = append(findings, fmt.Sprintf("%s imports %s, which belongs to %s alone", p.path(), imported, strings.Join(homes, " and ")))
				}
			}
		}
	}
	slices.Sort(findings)
	return slices.Compact(findings)
}

func under(imported, mod string) bool { return imported == mod || strings.HasPrefix(imported, mod+"/") }

// load reads the page and lists the module's packages; `go list -e` does not
// compile, so a package that is broken is still listed.
func load(t *testing.T) (page string, packages []listed) {
	t.Helper()
	b, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Name,Doc,GoFiles,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return string(b), packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

var quoted = regexp.MustCompile("`([^`]+)`")

// rows reads one of the page's marked tables.
func rows(t *testing.T, page, name string) table {
	t.Helper()
	_, rest, ok := strings.Cut(page, "<!-- archtest: "+name+" -->\n")
	body, _, closed := strings.Cut(rest, "<!-- /archtest -->")
	if !ok || !closed {
		t.Fatalf("ARCHITECTURE.md has no table marked archtest: %s", name)
	}
	out := table{}
	for line := range strings.Lines(body) {
		cells := strings.Split(line, "|")
		if len(cells) != 4 || !strings.Contains(cells[1], "`") {
			continue
		}
		out[quoted.FindStringSubmatch(cells[1])[1]] = names(cells[2])
	}
	if len(out) == 0 {
		t.Fatalf("the table %s of ARCHITECTURE.md has no rows", name)
	}
	return out
}

func names(cell string) (out []string) {
	for _, m := range quoted.FindAllStringSubmatch(cell, -1) {
		out = append(out, m[1])
	}
	return out
}
