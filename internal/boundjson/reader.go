// SPDX-License-Identifier: Apache-2.0

package boundjson

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"sync"
)

// Reader passes JSON on, cut.
type Reader struct {
	src    io.Reader
	limits Limits
	in     *[readAhead]byte // from buffers until the source has ended
	out    []byte
	sent   int // of out
	raw    int
	total  int
	err    error

	state  state
	stack  []frame
	lit    []byte // the string, or the scalar, that is being read
	units  int    // bytes and escapes in lit
	escape []byte // an escape that is not whole yet; it is kept or dropped whole
	full   bool   // the rest of the string is dropped
	drop   int    // the depth of the frame whose current member is dropped, 0 for none
	cut    []string
	path   []byte // scratch of only
}

type state uint8

const (
	between state = iota // not in a literal
	inString
	inEscape
	inScalar // a number, true, false, null
)

// frame is one list or object that has begun.
type frame struct {
	object bool
	free   bool // its members are not counted: the outermost list
	budget int  // bytes
	used   [2]int
	count  [2]int
	tier   int      // whom the current member is counted with: 0 the first, 1 the kept
	passed bool     // a member was passed on
	only   []string // of Limits.Only
	noted  bool     // it is in Reader.cut
	key    []byte   // of the current member
	due    phase
}

// phase is what comes next in a frame.
type phase uint8

const (
	dueFirst phase = iota // a member or the end
	dueMember
	dueColon
	dueValue
	dueComma // a comma or the end
)

const readAhead = 64 << 10

// buffers are shared: one of their own for each of a thousand small files is 64
// MiB for the garbage collector. The same holds for results, which are what Decode
// and ReadAll make of it; a large one is left to the collector.
var (
	buffers = sync.Pool{New: func() any { return new([readAhead]byte) }}
	results = sync.Pool{New: func() any { return new([]byte) }}
)

const maxResult = 256 << 10

// NewReader makes a Reader. It reads ahead by up to 64 KiB, never past what one
// Read of r gives, so that a stream is passed on as it comes.
func NewReader(r io.Reader, limits Limits) *Reader {
	return &Reader{src: r, limits: limits.withDefaults()}
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for r.sent == len(r.out) {
		if r.err != nil {
			return 0, r.err
		}
		r.out, r.sent = r.out[:0], 0
		r.fill()
	}
	n := copy(p, r.out[r.sent:])
	r.sent += n
	return n, nil
}

// fill takes what one Read of the source gives.
func (r *Reader) fill() {
	if r.in == nil {
		r.in = buffers.Get().(*[readAhead]byte)
	}
	n, err := r.src.Read(r.in[:])
	if r.err = err; r.raw+n > r.limits.Raw {
		r.err = ErrTooLarge
	} else if perr := r.feed(r.in[:n]); perr != nil {
		r.err = perr
	}
	r.raw += n
	if r.err == nil {
		return
	}
	buffers.Put(r.in) // all that is kept of it was copied
	r.in = nil
	if r.state == inScalar && len(r.stack) == 0 {
		r.endScalar() // nothing else ends the last one
	}
}

// feed takes the next bytes.
func (r *Reader) feed(p []byte) error {
	for len(p) > 0 {
		n, err := r.step(p)
		if err != nil {
			return err
		}
		p = p[n:]
		if r.total > r.limits.Total {
			return ErrTooLarge
		}
	}
	return nil
}

// step takes some of p, and says how many bytes.
func (r *Reader) step(p []byte) (int, error) {
	switch r.state {
	case inString:
		return r.text(p)
	case inEscape:
		return 1, r.escaped(p[0])
	case inScalar:
		if isScalar(p[0]) {
			r.lit = append(r.lit, p[0])
			if len(r.lit) > 64 {
				return 0, ErrMalformed // no number of an engine's is as long
			}
			return 1, nil
		}
		r.endScalar()
		return 0, nil
	case between:
	}
	return 1, r.punctuation(p[0])
}

func isScalar(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b == '-' || b == '+' || b == '.' || b == 'E'
}

// text takes a string up to its end or an escape. What is dropped is searched
// through, not looked at byte by byte.
func (r *Reader) text(p []byte) (int, error) {
	if r.full {
		return r.skip(p)
	}
	end := bytes.IndexByte(p, '"')
	if end < 0 {
		end = len(p)
	}
	if i := bytes.IndexByte(p[:end], '\\'); i >= 0 {
		end = i
	}
	r.keep(p[:end])
	if end == len(p) {
		return end, nil
	}
	if p[end] == '\\' {
		r.state, r.escape = inEscape, append(r.escape[:0], '\\')
		return end + 1, nil
	}
	return end + 1, r.endString()
}

// skip looks for the end of a string of which nothing more is kept: a quote
// behind an even number of backslashes.
func (r *Reader) skip(p []byte) (int, error) {
	for at := 0; ; {
		i := bytes.IndexByte(p[at:], '"')
		end := at + i
		if i < 0 {
			end = len(p)
		}
		odd := (end-len(bytes.TrimRight(p[at:end], `\`))-at)%2 == 1
		switch {
		case i < 0 && odd:
			r.state, r.escape = inEscape, append(r.escape[:0], '\\')
			return end, nil
		case i < 0:
			return end, nil
		case !odd:
			return end + 1, r.endString()
		}
		at = end + 1
	}
}

// keep adds to the string what there is room for.
func (r *Reader) keep(p []byte) {
	if room := r.limits.String - r.units; len(p) > room {
		r.full, p = true, p[:max(room, 0)]
	}
	r.units += len(p)
	r.lit = append(r.lit, p...)
}

// escaped takes the next byte of an escape. It counts as one, however it is written.
func (r *Reader) escaped(b byte) error {
	if r.full {
		r.state = inString
		return nil
	}
	r.escape = append(r.escape, b)
	switch n := len(r.escape); {
	case n > 2 && !isHex(b):
		return ErrMalformed
	case r.escape[1] == 'u' && n < 6:
		return nil
	}
	r.state = inString
	if r.units >= r.limits.String {
		r.full = true
		return nil
	}
	r.units++
	r.lit = append(r.lit, r.escape...)
	return nil
}

func isHex(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'a' && b <= 'f' || b >= 'A' && b <= 'F'
}

// punctuation takes a byte outside of literals.
func (r *Reader) punctuation(b byte) error {
	switch b {
	case ' ', '\t', '\r', '\n':
		return nil
	case '"':
		r.state, r.full, r.units, r.lit = inString, false, 0, r.lit[:0]
		return r.mayBegin(true)
	case '{', '[':
		return r.open(b)
	case '}', ']':
		return r.close(b)
	case ',':
		return r.comma()
	case ':':
		return r.colon()
	}
	if !isScalar(b) {
		return ErrMalformed
	}
	r.state, r.lit = inScalar, append(r.lit[:0], b)
	return r.mayBegin(false)
}

func (r *Reader) top() *frame {
	if len(r.stack) == 0 {
		return nil
	}
	return &r.stack[len(r.stack)-1]
}

// mayBegin says whether a value, or a key where it is a string, may stand here.
func (r *Reader) mayBegin(text bool) error {
	f := r.top()
	if f == nil || f.due == dueValue || !f.object && f.due <= dueMember || f.object && text && f.due <= dueMember {
		return nil
	}
	return ErrMalformed
}

func (r *Reader) comma() error {
	f := r.top()
	if f == nil || f.due != dueComma {
		return ErrMalformed
	}
	f.due = dueMember
	return nil
}

func (r *Reader) colon() error {
	f := r.top()
	if f == nil || f.due != dueColon {
		return ErrMalformed
	}
	f.due = dueValue
	r.emit(':')
	return nil
}

// maxName is how much of a key or a string is looked at for Limits.Keep.
const maxName = 128

// endString: a key begins a member, and so does a string in a list.
func (r *Reader) endString() error {
	r.state = between
	f := r.top()
	if f != nil && f.due != dueValue {
		name := r.lit[:min(len(r.lit), maxName)]
		if f.object && r.drop == 0 {
			f.key = append(f.key[:0], name...)
		}
		r.begin(f, name)
	}
	r.emit('"')
	r.emit(r.lit...)
	r.emit('"')
	if f != nil && f.object && f.due != dueValue {
		f.due = dueColon
		return nil
	}
	r.ended()
	return nil
}

func (r *Reader) endScalar() {
	r.state = between
	if f := r.top(); f != nil && f.due != dueValue {
		r.begin(f, nil)
	}
	r.emit(r.lit...)
	r.ended()
}

// begin decides whether a member is passed on, by what is spent and by its name.
func (r *Reader) begin(f *frame, name []byte) {
	if r.drop > 0 {
		return
	}
	switch {
	case f.only != nil && !slices.Contains(f.only, string(name)):
		r.drop = len(r.stack)
		return
	case f.free || f.count[0] < r.limits.Members && f.used[0] < f.budget:
		f.tier = 0
	case r.kept(name) && f.count[1] < r.limits.Members && f.used[1] < f.budget:
		f.tier = 1
	default:
		r.drop = len(r.stack)
		if !f.noted {
			f.noted = true
			r.noteCut()
		}
		return
	}
	f.count[f.tier]++
	if f.passed {
		r.emit(',')
	}
	f.passed = true
}

// maxCut bounds what is said of what was cut.
const maxCut = 32

// Cut says which lists and objects have lost members, by the keys that lead
// there ("Config.Labels"; empty for the outermost), in order of appearance, the
// first 32. Strings that were cut are not in it.
func (r *Reader) Cut() []string { return r.cut }

func (r *Reader) noteCut() {
	var keys []string
	for _, f := range r.stack[:len(r.stack)-1] {
		if f.object {
			keys = append(keys, string(f.key))
		}
	}
	if path := strings.Join(keys, "."); len(r.cut) < maxCut && !slices.Contains(r.cut, path) {
		r.cut = append(r.cut, path)
	}
}

func (r *Reader) kept(name []byte) bool {
	return slices.ContainsFunc(r.limits.Keep, func(p string) bool { return len(name) >= len(p) && string(name[:len(p)]) == p })
}

// ended closes a value: what it took is the parent's, too.
func (r *Reader) ended() {
	f := r.top()
	if f == nil {
		r.emit('\n') // another value may follow in the stream
		return
	}
	f.due = dueComma
	if r.drop == len(r.stack) {
		r.drop = 0
	}
}

func (r *Reader) open(b byte) error {
	if err := r.mayBegin(false); err != nil {
		return err
	}
	if len(r.stack) >= r.limits.Depth {
		return ErrTooDeep
	}
	f := r.top()
	if f != nil && f.due != dueValue {
		r.begin(f, nil)
	}
	r.emit(b)
	var key []byte // what a frame before had its key in
	if n := len(r.stack); n < cap(r.stack) {
		key = r.stack[:n+1][n].key[:0]
	}
	r.stack = append(r.stack, frame{object: b == '{', free: b == '[' && r.free(f), budget: r.budget(f), key: key})
	if b == '{' && len(r.limits.Only) > 0 && r.drop == 0 {
		r.top().only = r.only()
	}
	return nil
}

// only gives which members of the object that has just begun are passed on, nil
// for all.
func (r *Reader) only() []string {
	r.path = r.path[:0]
	for i := range r.stack[:len(r.stack)-1] {
		f := &r.stack[i]
		if !f.object || i == maxOnly {
			return nil
		}
		if i > 0 {
			r.path = append(r.path, '.')
		}
		r.path = append(r.path, f.key...)
	}
	return r.limits.Only[string(r.path)]
}

// maxOnly is how deep Limits.Only reaches.
const maxOnly = 3

// free says whether a list in f is the one that may be of any length.
func (r *Reader) free(f *frame) bool {
	if f == nil {
		return r.limits.List
	}
	return r.limits.Items != "" && len(r.stack) == 1 && f.object && string(f.key) == r.limits.Items
}

// budget is what a new list or object may take: its level's, and no more than
// what the one around it has left.
func (r *Reader) budget(f *frame) int {
	level := len(r.stack)
	switch {
	case level > 0 && r.stack[0].free:
		level--
	case level > 1 && r.stack[1].free:
		level -= 2
	}
	n := r.limits.Bytes[min(level, len(r.limits.Bytes)-1)]
	if f != nil && !f.free {
		n = min(n, max(f.budget-f.used[f.tier], 0))
	}
	return n
}

func (r *Reader) close(b byte) error {
	f := r.top()
	if f == nil || f.object != (b == '}') || f.due != dueComma && f.due != dueFirst {
		return ErrMalformed
	}
	spent := f.used[0] + f.used[1]
	if f.free {
		spent = 0
	}
	r.stack = r.stack[:len(r.stack)-1]
	if p := r.top(); p != nil {
		p.used[p.tier] += spent
	}
	r.emit(b)
	r.ended()
	return nil
}

// emit passes bytes on, unless they are of a member that is dropped.
func (r *Reader) emit(p ...byte) {
	if r.drop > 0 {
		return
	}
	r.out = append(r.out, p...)
	r.total += len(p)
	if f := r.top(); f != nil {
		f.used[f.tier] += len(p)
	}
}
