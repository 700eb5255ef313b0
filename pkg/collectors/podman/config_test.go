// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheStoreIsWhereTheHostsConfigurationSays(t *testing.T) {
	const etc, usr = "/etc/containers/storage.conf", "/usr/share/containers/storage.conf"
	for name, tc := range map[string]struct {
		files map[string]string
		mode  os.FileMode
		want  string
	}{
		"no file":               {want: DefaultRoot},
		"nothing in it":         {files: map[string]string{etc: "# graphroot = \"/b\"\n[storage]\ndriver = \"overlay\"\n"}, want: DefaultRoot},
		"another store":         {files: map[string]string{etc: "[storage]\ndriver = \"overlay\"\ngraphroot = \"/srv/containers/\"\n[storage.options]\nx = {}\n"}, want: "/srv/containers"},
		"the vendor's":          {files: map[string]string{usr: "[storage]\ngraphroot = \"/usr/c\"\n"}, want: "/usr/c"},
		"root's before it":      {files: map[string]string{usr: "[storage]\ngraphroot = \"/usr/c\"\n", etc: "[storage]\ngraphroot = \"/srv/c\"\n"}, want: "/srv/c"},
		"root's that is silent": {files: map[string]string{usr: "[storage]\ngraphroot = \"/usr/c\"\n", etc: "[storage]\n"}, want: DefaultRoot},
		"a relative path":       {files: map[string]string{etc: "[storage]\ngraphroot = \"srv\"\n"}, want: DefaultRoot},
		"no TOML":               {files: map[string]string{etc: "{\"storage\": 1}"}, want: DefaultRoot},
		"too much":              {files: map[string]string{etc: "[storage]\ngraphroot = \"/srv/c\"\n" + strings.Repeat("#\n", maxConfig)}, want: DefaultRoot},
		"writable by others":    {files: map[string]string{etc: "[storage]\ngraphroot = \"/srv/c\"\n"}, mode: 0o666, want: DefaultRoot},
	} {
		t.Run(name, func(t *testing.T) {
			host := t.TempDir()
			for path, text := range tc.files {
				path = filepath.Join(host, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				if tc.mode != 0 {
					if err := os.Chmod(path, tc.mode); err != nil {
						t.Fatal(err)
					}
				}
			}
			c, err := New(Options{HostRoot: host})
			if err != nil {
				t.Fatal(err)
			}
			if s := c.known(); len(s) != 1 || s[0].root != tc.want || s[0].instance != "" {
				t.Errorf("the stores are %+v, want %s", s, tc.want)
			}
		})
	}
}
