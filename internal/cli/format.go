// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/pidigree/pidigree/internal/plain"
)

// formats are the values of -o. The first is the default.
func formats() []string { return []string{"table", "wide", "json", "yaml", "name", "go-template"} }

// A format is a checked -o.
type format struct {
	kind string
	tmpl *template.Template
}

// objects reports whether the format is for programs: one object for each thing.
func (f format) objects() bool {
	return f.kind == "json" || f.kind == "yaml" || f.kind == "go-template"
}

// formatFlag adds -o with the formats that the command has.
func (a *app) formatFlag(cmd *cobra.Command, kinds ...string) {
	usage := "`FORMAT` one of " + strings.Join(kinds, ", ")
	usage = strings.Replace(usage, "go-template", "go-template=TEMPLATE", 1)
	cmd.Flags().StringVarP(&a.format, "output", "o", "table", usage)
	// The flag exists: it was added the line before.
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(
		slices.DeleteFunc(slices.Clone(kinds), func(k string) bool { return k == "go-template" }), cobra.ShellCompDirectiveNoFileComp))
}

// parseFormat checks -o against the formats that the command has.
func (a *app) parseFormat(kinds ...string) (format, error) {
	kind, text, has := strings.Cut(a.format, "=")
	if !slices.Contains(kinds, kind) {
		return format{}, usagef("-o %q is not one of %s", a.format, strings.Join(kinds, ", "))
	}
	f := format{kind: kind}
	switch {
	case has && kind != "go-template":
		return f, usagef("-o %s takes no value", kind)
	case kind != "go-template":
		return f, nil
	case text == "":
		return f, usagef("-o go-template needs a template: -o go-template='{{.status}}'")
	}
	var err error
	if f.tmpl, err = template.New("output").Funcs(template.FuncMap{"json": templateJSON, "join": join}).Parse(text); err != nil {
		return f, usagef("-o go-template: %w", err)
	}
	return f, nil
}

// An encoder writes objects for programs.
type encoder struct {
	format format
	out    io.Writer
	count  int
}

func (a *app) encoder(f format) *encoder { return &encoder{format: f, out: a.env.Stdout} }

// encode writes one object: a line of JSON, a YAML document, or what the template makes of it.
func (e *encoder) encode(v any) error {
	data, err := marshal(v)
	if err != nil {
		return err
	}
	e.count++
	switch e.format.kind {
	case "yaml":
		data, err = e.yaml(data)
	case "go-template":
		data, err = e.template(data)
	default:
		data = append(plainJSON(data), '\n')
	}
	if err != nil {
		return err
	}
	if _, err := e.out.Write(data); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// plainJSON spells out, as \u escapes, what encoding/json leaves as it is and a
// terminal would act on: DEL, C1 controls, bidi and zero-width marks. Outside of
// strings JSON has none of them, so the value stays the same.
func plainJSON(data []byte) []byte {
	return spell(data, func(out []byte, r rune) []byte {
		if r <= 0xffff {
			return fmt.Appendf(out, `\u%04x`, r)
		}
		hi, lo := utf16.EncodeRune(r)
		return fmt.Appendf(out, `\u%04x\u%04x`, hi, lo)
	})
}

// plainYAML does the same for double-quoted strings of YAML.
func plainYAML(data []byte) []byte {
	return spell(data, func(out []byte, r rune) []byte {
		if r <= 0xffff {
			return fmt.Appendf(out, `\u%04x`, r)
		}
		return fmt.Appendf(out, `\U%08x`, r)
	})
}

// spell replaces what is not safe to show, but for ASCII controls, which both
// formats have escaped or use for their layout. The data is valid UTF-8.
func spell(data []byte, replace func([]byte, rune) []byte) []byte {
	out := make([]byte, 0, len(data))
	for _, r := range string(data) {
		if r >= 0x7f && unsafeRune(r) {
			out = replace(out, r)
		} else {
			out = utf8.AppendRune(out, r)
		}
	}
	return out
}

func unsafeRune(r rune) bool { return !unicode.IsPrint(r) || plain.Invisible(r) }

// yaml turns an object's JSON into a document. Going by JSON keeps the names and
// their order the same in both.
func (e *encoder) yaml(data []byte) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	doc, err := yamlNode(dec)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	var b bytes.Buffer
	if e.count > 1 {
		b.WriteString("---\n")
	}
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(doc); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return plainYAML(b.Bytes()), nil
}

// plainWord is a string that no version of YAML reads as anything else, unless
// it is one of the words of notPlain.
var plainWord = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_./-]*$`)

// notPlain are the words that YAML 1.1, which most programs read, takes for a
// boolean or for nothing.
var notPlain = regexp.MustCompile(`(?i)^(y|n|yes|no|on|off|true|false|null)$`)

// yamlNode makes the next JSON value a node, in block style. JSON is not read as
// the YAML that it nearly is: there a key ends after 1,024 characters, and a
// label's may be longer.
func yamlNode(dec *json.Decoder) (*yaml.Node, error) {
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	open, ok := token.(json.Delim)
	if !ok {
		return yamlScalar(token), nil
	}
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	if open == '[' {
		n = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	}
	for dec.More() {
		c, err := yamlNode(dec) // a key is a token of its own, so a scalar
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, c)
	}
	if len(n.Content) == 0 {
		n.Style = yaml.FlowStyle // {} and []
	}
	_, err = dec.Token()
	return n, err
}

// yamlScalar gives a word that is plain in every YAML without quotes. All other
// strings stay in double quotes, which plainYAML relies on.
func yamlScalar(token json.Token) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(token)}
	switch v := token.(type) {
	case string:
		n.Tag = "!!str"
		if !plainWord.MatchString(v) || notPlain.MatchString(v) {
			n.Style = yaml.DoubleQuotedStyle
		}
	case json.Number:
		n.Tag = "!!float"
		if !strings.ContainsAny(n.Value, ".eE") {
			n.Tag = "!!int"
		}
	case bool:
		n.Tag = "!!bool"
	case nil:
		n.Tag, n.Value = "!!null", "null"
	}
	return n
}

// template runs the user's template over the object as JSON has it, every
// string escaped as for a person: a template's output goes to terminals and
// into line-wise pipes. Whoever wants the bytes takes JSON.
func (e *encoder) template(data []byte) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	var b bytes.Buffer
	if err := e.format.tmpl.Execute(&b, escapeTree(v)); err != nil {
		return nil, usagef("-o go-template: %w", err)
	}
	if !bytes.HasSuffix(b.Bytes(), []byte("\n")) {
		b.WriteByte('\n')
	}
	return b.Bytes(), nil
}

func escapeTree(v any) any {
	switch v := v.(type) {
	case string:
		return plain.Text(v)
	case []any:
		for i := range v {
			v[i] = escapeTree(v[i])
		}
	case map[string]any:
		safe := make(map[string]any, len(v))
		for k, e := range v {
			safe[plain.Text(k)] = escapeTree(e)
		}
		return safe
	}
	return v
}

func templateJSON(v any) (string, error) {
	data, err := marshal(v)
	return string(plainJSON(data)), err
}

func join(sep string, list []any) string {
	words := make([]string, len(list))
	for i, e := range list {
		words[i] = fmt.Sprint(e)
	}
	return strings.Join(words, sep)
}

// plainJSONWriter spells out in lines of JSON what encoding/json leaves as it is.
// Each write is of whole lines.
type plainJSONWriter struct{ out io.Writer }

// Write implements io.Writer.
func (w plainJSONWriter) Write(p []byte) (int, error) {
	if _, err := w.out.Write(plainJSON(p)); err != nil {
		return 0, fmt.Errorf("write output: %w", err)
	}
	return len(p), nil
}
