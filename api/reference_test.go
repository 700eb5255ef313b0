// SPDX-License-Identifier: Apache-2.0

package api

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/api.md")

const referencePage = "../docs/api.md"

// TestTheReferenceIsUpToDate compares docs/api.md with the comments of the
// protobuf, which buf's rules require of everything.
func TestTheReferenceIsUpToDate(t *testing.T) {
	var b strings.Builder
	b.WriteString("# The API\n\nGenerated from `api/pidigree/v1` by `go generate ./api`; do not edit.\n\n" +
		"The agent answers gRPC on its unix socket, `/run/pidigree/pidigree.sock`, with reflection and the standard health\n" +
		"service beside what is below. No request may be larger than 4 MiB.\n")
	for _, name := range []string{"service", "entities", "status"} {
		src, err := os.ReadFile("pidigree/v1/" + name + ".proto")
		if err != nil {
			t.Fatal(err)
		}
		reference(&b, string(src))
	}
	if *update {
		if err := os.WriteFile(referencePage, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(referencePage)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.String(), string(page)); diff != "" {
		t.Errorf("run go generate ./api (-wanted +there):\n%s", diff)
	}
}

var (
	block = regexp.MustCompile(`^(service|message|enum) (\w+) \{(\})?$`)
	rpc   = regexp.MustCompile(`^rpc (\w+)\((\w+)\) returns \((stream )?(\w+)\);$`)
	field = regexp.MustCompile(`^(.+) (\w+) = (\d+);$`)
	value = regexp.MustCompile(`^(\w+) = (\d+);$`)
)

// reference writes what one file says. It reads our own files, as buf formats
// them, and no others.
func reference(b *strings.Builder, src string) {
	var comment []string
	table := false
	for line := range strings.Lines(src) {
		line = strings.TrimSpace(line)
		said := strings.ReplaceAll(strings.Join(comment, " "), "  ", "\n\n")
		if c, ok := strings.CutPrefix(line, "//"); ok {
			comment = append(comment, strings.TrimSpace(c))
			continue
		}
		comment = nil
		if m := block.FindStringSubmatch(line); m != nil {
			fmt.Fprintf(b, "\n## %s %s\n\n%s\n", m[1], m[2], said)
			table = false
			continue
		}
		if strings.HasPrefix(line, "syntax") {
			fmt.Fprintf(b, "\n%s\n", said) // of the file as a whole
		}
		row := row(line, said)
		if row == "" {
			continue
		}
		if !table {
			b.WriteString("\n| no. | name | type | |\n|---|---|---|---|\n")
			table = true
		}
		b.WriteString(row)
	}
}

func row(line, said string) string {
	if m := rpc.FindStringSubmatch(line); m != nil {
		return fmt.Sprintf("| | `%s` | `%s` to %s`%s` | %s |\n", m[1], m[2], m[3], m[4], said)
	}
	if m := value.FindStringSubmatch(line); m != nil {
		return fmt.Sprintf("| %s | `%s` | | %s |\n", m[2], m[1], said)
	}
	if m := field.FindStringSubmatch(line); m != nil {
		return fmt.Sprintf("| %s | `%s` | `%s` | %s |\n", m[3], m[2], m[1], said)
	}
	return ""
}
