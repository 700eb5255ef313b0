// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
)

// ErrMalformed means that a message is no protobuf, or contradicts itself: it
// came from something that is no pidigree, or from a broken one.
var ErrMalformed = errors.New("malformed message")

// The wire types of protobuf. Groups are long gone from the language.
const (
	typeVarint = 0
	typeFixed8 = 1
	typeBytes  = 2
	typeFixed4 = 5
)

// scanner goes through the fields of one message. It works on a string, so that
// the strings of the message are parts of it, and remembers places: to store a
// part of a string takes long while garbage is collected. It is passed by value:
// a pointer given to a table's function would be an allocation for each message.
type scanner struct {
	s    string
	at   int    // after the field
	from int    // where the value of a field of typeBytes begins; it ends at at
	n    uint64 // else the value
	num  uint64
	typ  uint8
}

// more reports whether there is a field to read.
func (in *scanner) more() bool { return in.at < len(in.s) }

// bytes is the value of a field of typeBytes.
func (in *scanner) bytes() string { return in.s[in.from:in.at] }

// next reads the next field; there is one as long as more says so. Nearly
// all have a number below 16 and a value or a length below 128.
func (in *scanner) next() error {
	s, at := in.s, in.at
	if at+1 < len(s) && s[at] >= 1<<3 && s[at] < 0x80 && s[at+1] < 0x80 {
		in.num, in.typ = uint64(s[at]>>3), s[at]&7
		switch n := int(s[at+1]); {
		case in.typ == typeVarint:
			in.n, in.from, in.at = uint64(n), at+2, at+2
			return nil
		case in.typ == typeBytes && n <= len(s)-at-2:
			in.from, in.at = at+2, at+2+n
			return nil
		}
	}
	return in.any()
}

// any reads a field of any form.
func (in *scanner) any() error {
	tag, rest, ok := uvarint(in.s[in.at:])
	if !ok || tag>>3 == 0 {
		return fmt.Errorf("%w: no field where one should be", ErrMalformed)
	}
	in.num, in.typ = tag>>3, uint8(tag&7)
	length := 0
	switch in.typ {
	case typeVarint:
		in.n, rest, ok = uvarint(rest)
	case typeBytes:
		var value string
		value, rest, ok = prefixed(rest)
		length = len(value)
	case typeFixed8:
		rest, ok = skip(rest, 8)
	case typeFixed4:
		rest, ok = skip(rest, 4)
	default:
		ok = false
	}
	if !ok {
		return fmt.Errorf("%w: field %d is cut off", ErrMalformed, in.num)
	}
	in.at = len(in.s) - len(rest)
	in.from = in.at - length
	return nil
}

// kind is the field's tag: its number and its type in one.
func (in *scanner) kind() uint64 { return in.num<<3 | uint64(in.typ) }

// alike counts this field and those of the same number and type that follow at
// once, so that a list is allocated in one piece.
func (in *scanner) alike() int {
	n := 1
	for rest := in.s[in.at:]; rest != ""; n++ {
		tag, after, ok := uvarint(rest)
		if !ok || tag != in.num<<3|typeBytes {
			break
		}
		if _, rest, ok = prefixed(after); !ok {
			break
		}
	}
	return n
}

// uvarint reads a number of 10 bytes at most.
func uvarint(s string) (n uint64, rest string, ok bool) {
	if s != "" && s[0] < 0x80 {
		return uint64(s[0]), s[1:], true
	}
	return longUvarint(s)
}

func longUvarint(s string) (n uint64, rest string, ok bool) {
	for i := 0; i < len(s) && i < 10; i++ {
		c := s[i]
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return n, s[i+1:], true
		}
	}
	return 0, "", false
}

func prefixed(s string) (value, rest string, ok bool) {
	n, s, ok := uvarint(s)
	if !ok || n > uint64(len(s)) {
		return "", "", false
	}
	return s[:n], s[n:], true
}

func skip(s string, n int) (rest string, ok bool) {
	if len(s) < n {
		return "", false
	}
	return s[n:], true
}
