// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/pidigree/pidigree/internal/plain"
)

// maxConfigFile bounds the configuration file; a real one has a few hundred bytes.
const maxConfigFile = 1 << 20

// configEnv names the configuration file where --config does not.
const configEnv = "PIDIGREE_CONFIG"

// loaded is a configuration and, for each key, who said its value: flag,
// environment, file or default.
type loaded struct {
	config AgentConfig
	from   map[string]string
}

// loadConfig joins the four places that a setting can come from: flag, then
// variable, then file, then default. Every value of every place is checked, so
// that a mistake does not wait for the day that nothing hides it.
func loadConfig(flags *pflag.FlagSet, getenv func(string) string) (loaded, error) {
	l := loaded{from: map[string]string{}}
	file, name, err := configFile(flags, getenv)
	if err != nil {
		return l, err
	}
	for _, s := range settings() {
		if err := l.set(s, "default", s.split(s.value)); err != nil {
			return l, err
		}
		if texts, ok := file[s.key]; ok {
			if err := l.set(s, name, texts.values); err != nil {
				return l, usagef("%s:%d: %s: %w", name, texts.line, s.key, err)
			}
		}
		if text := getenv(s.env()); text != "" {
			if err := l.set(s, s.env(), s.split(text)); err != nil {
				return l, usagef("%s: %w", s.env(), err)
			}
		}
		if f := flags.Lookup(s.flag()); f != nil && f.Changed {
			if err := l.set(s, "--"+s.flag(), s.flagTexts(f)); err != nil {
				return l, usagef("--%s: %w", s.flag(), err)
			}
		}
	}
	return l, nil
}

func (l *loaded) set(s setting, from string, texts []string) error {
	l.from[s.key] = from
	return s.parse(&l.config, texts)
}

// addFlags registers a flag for each of the settings that want names.
func addFlags(flags *pflag.FlagSet, want func(setting) bool) {
	for _, s := range settings() {
		if want != nil && !want(s) {
			continue
		}
		usage := s.help
		if s.arg != "" {
			usage = "`" + s.arg + "` " + usage
		}
		if s.kind() == "list" {
			flags.Var(&listValue{list: s.split(s.value)}, s.flag(), usage)
		} else {
			flags.String(s.flag(), s.value, usage)
		}
	}
	flags.String("config", "", "`FILE` settings in YAML (or "+configEnv+")")
}

func (s setting) flagTexts(f *pflag.Flag) []string {
	if l, ok := f.Value.(*listValue); ok {
		return l.list
	}
	return []string{f.Value.String()}
}

// listValue is a flag that may be repeated or hold several values with commas.
// The first use drops the default; an empty value makes the list empty.
type listValue struct {
	list    []string
	changed bool
}

func (v *listValue) String() string { return strings.Join(v.list, ",") }
func (v *listValue) Type() string   { return "list" }

// Set implements pflag.Value.
func (v *listValue) Set(text string) error {
	if !v.changed {
		v.list, v.changed = nil, true
	}
	v.list = append(v.list, splitList(text)...)
	return nil
}

// configFile reads the file that a flag or a variable names, if any.
func configFile(flags *pflag.FlagSet, getenv func(string) string) (map[string]fileValue, string, error) {
	name := getenv(configEnv)
	if f := flags.Lookup("config"); f != nil && f.Changed {
		name = f.Value.String()
	}
	if name == "" {
		return nil, "", nil
	}
	data, err := readConfig(name)
	if err != nil {
		return nil, name, usagef("read configuration: %w", err)
	}
	values, err := parseConfig(data)
	if err != nil {
		return nil, name, usagef("%s:%w", name, err)
	}
	return values, name, nil
}

// readConfig reads a regular file only, so that a FIFO or a device by mistake
// neither hangs the agent nor fills its memory.
func readConfig(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s does not exist", name)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxConfigFile+1))
	if err == nil && len(data) > maxConfigFile {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxConfigFile)
	}
	return data, err
}

// fileValue is what the file says for one key.
type fileValue struct {
	values []string
	line   int
}

// parseConfig turns YAML into texts by dotted key. Its errors begin with the
// line, "3: ...".
func parseConfig(data []byte) (map[string]fileValue, error) {
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, yamlError(err)
	}
	if err := dec.Decode(&second); err == nil {
		return nil, fmt.Errorf("%d: a second document; only one is read", second.Line)
	}
	p := fileParser{values: map[string]fileValue{}}
	if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
		return p.values, nil
	}
	return p.values, p.mapping("", doc.Content[0])
}

// yamlError gives yaml.v3's messages ("yaml: line 3: ...") the form of ours.
func yamlError(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text = strings.ReplaceAll(text, "\n", " ")
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		return errors.New(rest)
	}
	return fmt.Errorf("1: %s", text)
}

type fileParser struct {
	values map[string]fileValue
}

func (p *fileParser) mapping(prefix string, n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("%d: expected keys and values", n.Line)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			return fmt.Errorf("%d: a key that is not a word", key.Line)
		}
		if err := p.entry(prefix+key.Value, key.Line, value); err != nil {
			return err
		}
	}
	return nil
}

// entry takes one key, which is a setting or the first part of some.
func (p *fileParser) entry(path string, line int, value *yaml.Node) error {
	var known []string
	group := false
	for _, s := range settings() {
		if s.key == path {
			return p.setting(s, line, value)
		}
		group = group || strings.HasPrefix(s.key, path+".")
		known = append(known, s.key)
		if head, _, ok := strings.Cut(s.key, "."); ok && !slices.Contains(known, head) {
			known = append(known, head)
		}
	}
	if group {
		if value.Tag == "!!null" {
			return nil
		}
		return p.mapping(path+".", value)
	}
	return fmt.Errorf("%d: unknown key %q%s", line, path, didYouMean("", path, known))
}

func (p *fileParser) setting(s setting, line int, value *yaml.Node) error {
	if _, twice := p.values[s.key]; twice {
		return fmt.Errorf("%d: %s is set a second time", line, s.key)
	}
	v := fileValue{line: line}
	switch {
	case value.Kind == yaml.ScalarNode && value.Tag == "!!null":
		if s.kind() != "list" {
			v.values = []string{""}
		}
	case value.Kind == yaml.ScalarNode:
		v.values = []string{value.Value}
	case value.Kind == yaml.SequenceNode && s.kind() == "list":
		for _, e := range value.Content {
			if e.Kind != yaml.ScalarNode {
				return fmt.Errorf("%d: %s takes a list of words", e.Line, s.key)
			}
			v.values = append(v.values, e.Value)
		}
	default:
		return fmt.Errorf("%d: %s takes a %s", line, s.key, s.kind())
	}
	p.values[s.key] = v
	return nil
}

// printConfig writes the settings as a configuration file that gives the same,
// each with where its value came from.
func (l loaded) printConfig(w io.Writer) error {
	root := &yaml.Node{Kind: yaml.MappingNode}
	for _, s := range settings() {
		at, name := root, s.key
		if head, tail, ok := strings.Cut(s.key, "."); ok {
			at, name = group(root, head), tail
		}
		key := &yaml.Node{Kind: yaml.ScalarNode, Value: name}
		value := s.node(&l.config)
		if value.Kind == yaml.SequenceNode && len(value.Content) > 0 {
			key.HeadComment = "from " + oneLine(l.from[s.key])
		} else {
			value.LineComment = "from " + oneLine(l.from[s.key])
		}
		at.Content = append(at.Content, key, value)
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(root); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return enc.Close()
}

// oneLine keeps a file's name from ending a comment.
func oneLine(s string) string { return plain.Text(s) }

func group(root *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == name {
			return root.Content[i+1]
		}
	}
	m := &yaml.Node{Kind: yaml.MappingNode}
	root.Content = append(root.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: name}, m)
	return m
}

func (s setting) node(c *AgentConfig) *yaml.Node {
	n := &yaml.Node{}
	switch f := s.field(c).(type) {
	case *[]string:
		n.Kind = yaml.SequenceNode
		for _, e := range *f {
			n.Content = append(n.Content, textNode(e))
		}
		if len(*f) == 0 {
			n.Style = yaml.FlowStyle
		}
	case *int:
		n.Kind, n.Value, n.Tag = yaml.ScalarNode, s.text(c), "!!int"
	default:
		return textNode(s.text(c))
	}
	return n
}

func textNode(text string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(text)
	return n
}
