// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func versionFormats() []string { return []string{"table", "json", "yaml", "go-template"} }

// versionJSON is the object of version -o json.
type versionJSON struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Modified bool   `json:"modified"`
	Date     string `json:"date"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// version joins what the linker was told with what Go noted.
func (a *app) version() versionJSON {
	info := buildInfo()
	v := versionJSON{Version: releaseOf(a.env.Version), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.time":
			v.Date = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

// releaseOf is the release that the linker was told, or what Go knows instead.
func releaseOf(linked string) string { return cmp.Or(linked, buildInfo().Main.Version, "(devel)") }

func (a *app) versionCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version [flags]",
		Short: "print the version of this binary",
		Long: `Print the version of this binary: the release, the commit that it was built from
(and whether the tree had other changes), the Go release and the platform. The
version of a running agent is in 'pidigree status'.`,
		Example: `  pidigree version
  pidigree version -o json`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return a.printVersion() },
	}
	a.formatFlag(cmd, versionFormats()...)
	return cmd
}

func (a *app) printVersion() error {
	f, err := a.parseFormat(versionFormats()...)
	if err != nil {
		return err
	}
	v := a.version()
	if f.objects() {
		return a.encoder(f).encode(v)
	}
	s := a.screen()
	s.printf("pidigree %s\n", v.Version)
	if v.Commit != "" {
		s.printf("commit   %s%s\n", v.Commit, map[bool]string{true: " and changes on top"}[v.Modified])
		s.printf("date     %s\n", v.Date)
	}
	s.printf("built    %s\n", fmt.Sprintf("%s for %s", v.Go, v.Platform))
	return s.close()
}
