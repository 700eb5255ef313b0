// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// The kinds of rows. Each takes the field's number and where the field is in a T.

type integer interface {
	~int | ~int32 | ~int64 | ~uint16 | ~uint32 | ~uint64
}

// number is a field of type int32, int64, uint32 or uint64. Protobuf cuts what
// does not fit, and so does this.
func number[T any, N integer](num uint64, at func(*T) *N) field[T] {
	return field[T]{num, func(b []byte, v *T) []byte {
		n := *at(v)
		if n == 0 {
			return b
		}
		return appendUvarint(tag(b, num, typeVarint), uint64(int64(n)))
	}, func(v *T, in scanner) error {
		if in.typ == typeVarint {
			*at(v) = N(in.n)
		}
		return nil
	}}
}

func boolean[T any](num uint64, at func(*T) *bool) field[T] {
	return field[T]{num, func(b []byte, v *T) []byte {
		if !*at(v) {
			return b
		}
		return append(tag(b, num, typeVarint), 1)
	}, func(v *T, in scanner) error {
		if in.typ == typeVarint {
			*at(v) = in.n != 0
		}
		return nil
	}}
}

// present is an empty message that is there or not.
func present[T any](num uint64, at func(*T) *bool) field[T] {
	return field[T]{num, func(b []byte, v *T) []byte {
		if !*at(v) {
			return b
		}
		return append(tag(b, num, typeBytes), 0)
	}, func(v *T, in scanner) error {
		if in.typ == typeBytes {
			*at(v) = true
		}
		return nil
	}}
}

// reference is an `optional uint32` that counts from 0 on the wire; in the
// encoder it counts from 1, and 0 is none.
type reference uint32

func appendReference(b []byte, num uint64, r reference) []byte {
	return appendUvarint(tag(b, num, typeVarint), uint64(r-1))
}

func text[T any, S ~string](num uint64, at func(*T) *S) field[T] {
	return field[T]{num, func(b []byte, v *T) []byte {
		if s := string(*at(v)); s != "" {
			return appendText(b, num, s)
		}
		return b
	}, func(v *T, in scanner) error {
		if in.typ == typeBytes {
			*at(v) = S(in.bytes())
		}
		return checkText(in)
	}}
}

func texts[T any](num uint64, at func(*T) *[]string) field[T] {
	return field[T]{num, func(b []byte, v *T) []byte {
		for _, s := range *at(v) {
			b = appendText(b, num, s)
		}
		return b
	}, func(v *T, in scanner) error {
		if in.typ == typeBytes {
			p := at(v)
			*p = append(room(*p, in), in.bytes())
		}
		return checkText(in)
	}}
}

// appendText makes a hostile string fit for the wire. Whoever reads protobuf
// refuses a whole message for one string that is not valid UTF-8.
func appendText(b []byte, num uint64, s string) []byte {
	if !utf8.ValidString(s) {
		s = valid(s)
	}
	b = appendUvarint(tag(b, num, typeBytes), uint64(len(s)))
	return append(b, s...)
}

func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func checkText(in scanner) error {
	if in.typ == typeBytes && !utf8.ValidString(in.bytes()) {
		return fmt.Errorf("%w: field %d is not valid UTF-8", ErrMalformed, in.num)
	}
	return nil
}

// room allocates a list in one piece when its first element comes.
func room[E any](list []E, in scanner) []E {
	if list != nil {
		return list
	}
	return make([]E, 0, in.alike())
}

// enum is an enumeration whose words are at their numbers in a table. A word
// that is not in the table goes out as nothing, and a number beyond it comes
// back as nothing: an older side skips what a newer one invents.
func enum[T any, W ~string](num uint64, words []W, at func(*T) *W) field[T] {
	return field[T]{num, func(b []byte, v *T) []byte {
		if n := numberOf(words, *at(v)); n != 0 {
			return append(tag(b, num, typeVarint), byte(n))
		}
		return b
	}, func(v *T, in scanner) error {
		if in.typ == typeVarint {
			*at(v) = wordOf(words, in.n)
		}
		return nil
	}}
}

func numberOf[W ~string](words []W, w W) int {
	for i, x := range words {
		if x == w {
			return i
		}
	}
	return 0
}

func wordOf[W ~string](words []W, n uint64) W {
	if n >= uint64(len(words)) {
		return ""
	}
	return words[n]
}

// indexes is a `repeated uint32`, packed or not.
func indexes[T any](num uint64, at func(*T) *[]uint32) field[T] {
	return field[T]{num, func(b []byte, v *T) []byte {
		list := *at(v)
		if len(list) == 0 {
			return b
		}
		b, start := open(b, num)
		for _, n := range list {
			b = appendUvarint(b, uint64(n))
		}
		return closed(b, start)
	}, func(v *T, in scanner) error {
		p := at(v)
		return packed(in, func(n uint64) { *p = append(*p, uint32(min(n, math.MaxUint32))) })
	}}
}

func packed(in scanner, f func(uint64)) error {
	if in.typ == typeVarint {
		f(in.n)
		return nil
	}
	for s := in.bytes(); s != ""; {
		n, rest, ok := uvarint(s)
		if !ok {
			return fmt.Errorf("%w: field %d is cut off", ErrMalformed, in.num)
		}
		f(n)
		s = rest
	}
	return nil
}

// pointer is a message that may be absent.
func pointer[T, M any](num uint64, m *message[M], at func(*T) **M) field[T] {
	return field[T]{num, func(b []byte, v *T) []byte {
		if p := *at(v); p != nil {
			return m.nested(b, num, p)
		}
		return b
	}, func(v *T, in scanner) error {
		if in.typ != typeBytes {
			return nil
		}
		p := at(v)
		if *p == nil {
			*p = new(M)
		}
		return m.parse(*p, in.bytes())
	}}
}

// value is a message that is absent where it is zero.
func value[T any, M comparable](num uint64, m *message[M], at func(*T) *M) field[T] {
	return field[T]{num, func(b []byte, v *T) []byte {
		p := at(v)
		if *p == *new(M) {
			return b
		}
		return m.nested(b, num, p)
	}, func(v *T, in scanner) error {
		if in.typ != typeBytes {
			return nil
		}
		return m.parse(at(v), in.bytes())
	}}
}

// always is a message that is always there.
func always[T, M any](num uint64, m *message[M], at func(*T) *M) field[T] {
	return field[T]{num, func(b []byte, v *T) []byte {
		return m.nested(b, num, at(v))
	}, func(v *T, in scanner) error {
		if in.typ != typeBytes {
			return nil
		}
		return m.parse(at(v), in.bytes())
	}}
}

// list is a list of messages.
func list[T, M any](num uint64, m *message[M], at func(*T) *[]M) field[T] {
	return field[T]{num, func(b []byte, v *T) []byte {
		items := *at(v)
		for i := range items {
			b = m.nested(b, num, &items[i])
		}
		return b
	}, func(v *T, in scanner) error {
		if in.typ != typeBytes {
			return nil
		}
		p := at(v)
		*p = append(room(*p, in), *new(M))
		return m.parse(&(*p)[len(*p)-1], in.bytes())
	}}
}

// textMap and countMap are maps by a string. Protobuf makes a message of each
// element, with the key as field 1 and the value as field 2.
func textMap[T any](num uint64, at func(*T) *map[string]string) field[T] {
	return dict(num, at, func(b []byte, s string) []byte { return appendText(b, 2, s) },
		func(in scanner) string { return in.bytes() })
}

func countMap[T any](num uint64, at func(*T) *map[string]uint64) field[T] {
	return dict(num, at, func(b []byte, n uint64) []byte { return appendUvarint(tag(b, 2, typeVarint), n) },
		func(in scanner) uint64 { return in.n })
}

func dict[T, V any](num uint64, at func(*T) *map[string]V, put func([]byte, V) []byte, get func(scanner) V) field[T] {
	return field[T]{num, func(b []byte, v *T) []byte {
		for key, val := range *at(v) {
			var start int
			b, start = open(b, num)
			b = closed(put(appendText(b, 1, key), val), start)
		}
		return b
	}, func(v *T, in scanner) error {
		if in.typ != typeBytes {
			return nil
		}
		p := at(v)
		if *p == nil {
			*p = make(map[string]V, in.alike())
		}
		var key string
		var val V
		for e := (scanner{s: in.bytes()}); e.more(); {
			if err := e.next(); err != nil {
				return err
			}
			if err := checkText(e); err != nil {
				return err
			}
			switch e.num {
			case 1:
				key = e.bytes()
			case 2:
				val = get(e)
			}
		}
		(*p)[key] = val
		return nil
	}}
}

// instant is a google.protobuf.Timestamp; the zero time is absent, and so is one
// that a Timestamp cannot say, as whoever reads it would refuse the message.
func instant[T any](num uint64, at func(*T) *time.Time) field[T] {
	return field[T]{num, func(b []byte, v *T) []byte {
		t := *at(v)
		if t.IsZero() || !sayable(t) {
			return b
		}
		return secondsMessage.nested(b, num, &seconds{t.Unix(), int32(t.Nanosecond())})
	}, func(v *T, in scanner) error {
		if in.typ != typeBytes {
			return nil
		}
		var s seconds
		if err := secondsMessage.parse(&s, in.bytes()); err != nil {
			return err
		}
		if s.sec < minTime || s.sec > maxTime || s.nano < 0 || s.nano >= 1e9 {
			return fmt.Errorf("%w: field %d is no time between the years 1 and 9999", ErrMalformed, in.num)
		}
		*at(v) = time.Unix(s.sec, int64(s.nano)).UTC()
		return nil
	}}
}

func sayable(t time.Time) bool { return t.Unix() >= minTime && t.Unix() <= maxTime }

// The first and the last second that a Timestamp may say.
const (
	minTime = -62135596800
	maxTime = 253402300799
)

// span is a google.protobuf.Duration; 0 is absent. One that does not fit into a
// time.Duration, or whose parts have different signs, is refused: it would come
// out as another one.
func span[T any](num uint64, at func(*T) *time.Duration) field[T] {
	return field[T]{num, func(b []byte, v *T) []byte {
		d := *at(v)
		if d == 0 {
			return b
		}
		return secondsMessage.nested(b, num, &seconds{int64(d / time.Second), int32(d % time.Second)})
	}, func(v *T, in scanner) error {
		if in.typ != typeBytes {
			return nil
		}
		var s seconds
		if err := secondsMessage.parse(&s, in.bytes()); err != nil {
			return err
		}
		d := time.Duration(s.sec)*time.Second + time.Duration(s.nano)
		if int64(d/time.Second) != s.sec || int32(d%time.Second) != s.nano {
			return fmt.Errorf("%w: field %d is too long a time", ErrMalformed, in.num)
		}
		*at(v) = d
		return nil
	}}
}

// seconds is what Timestamp and Duration consist of.
type seconds struct {
	sec  int64
	nano int32
}

var secondsMessage = table(
	number(1, func(s *seconds) *int64 { return &s.sec }),
	number(2, func(s *seconds) *int32 { return &s.nano }),
)
