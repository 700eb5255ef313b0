// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"github.com/spf13/cobra"

	"github.com/pidigree/pidigree/internal/filter"
	"github.com/pidigree/pidigree/pkg/workload"
)

// filterHelp is what list and watch say of the flags of a selection.
const filterHelp = `--name, --image, --namespace and --label show what matches, the --exclude-...
flags hide it. Each takes a pattern (*, ?, [a-z]) for the whole text, and may be
given several times: one of them must match. An image is matched with and
without its tag; a label is KEY or KEY=VALUE, and a pod's count as those of its
containers. Processes are matched by their container.`

// selection is what the flags of list and watch choose.
type selection struct {
	all, sandboxes   bool
	include, exclude workload.Filter
}

func (s *selection) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&s.all, "all", false, "with what has ended and is still remembered")
	f.BoolVar(&s.sandboxes, "sandboxes", false, "with the sandbox (pause) containers of pods")
	for _, p := range s.parts() {
		f.StringArrayVar(p.to, p.flag, nil, p.usage)
	}
}

// part is one flag of a filter.
type part struct {
	flag, usage string
	to          *[]string
	check       func(string) error
}

func (s *selection) parts() []part {
	in, ex := &s.include, &s.exclude
	return []part{
		{"name", "`PATTERN` of the name", &in.Names, filter.CheckPattern},
		{"image", "`PATTERN` of the image", &in.Images, filter.CheckPattern},
		{"namespace", "`PATTERN` of the pod's namespace, or containerd's", &in.Namespaces, filter.CheckPattern},
		{"label", "`KEY[=VALUE]` patterns of a label", &in.Labels, filter.CheckLabel},
		{"exclude-name", "`PATTERN` of names to hide", &ex.Names, filter.CheckPattern},
		{"exclude-image", "`PATTERN` of images to hide", &ex.Images, filter.CheckPattern},
		{"exclude-namespace", "`PATTERN` of namespaces to hide", &ex.Namespaces, filter.CheckPattern},
		{"exclude-label", "`KEY[=VALUE]` patterns of labels to hide", &ex.Labels, filter.CheckLabel},
	}
}

func (s *selection) selector(kind workload.Kind) (workload.Selector, error) {
	sel := workload.Selector{
		Kinds: []workload.Kind{kind}, All: s.all, Include: s.include, Exclude: s.exclude,
		NoSandboxes: kind == workload.KindContainer && !s.sandboxes,
	}
	for _, p := range s.parts() {
		for _, text := range *p.to {
			if err := p.check(text); err != nil {
				return sel, usagef("--%s %q %w", p.flag, text, err)
			}
		}
	}
	if err := filter.Check(sel); err != nil { // too many
		return sel, usagef("%w", err)
	}
	return sel, nil
}
