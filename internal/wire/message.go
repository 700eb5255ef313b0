// SPDX-License-Identifier: Apache-2.0

package wire

import "encoding/binary"

// message is the table of a protobuf message whose Go form is T: each field
// once, for both directions.
type message[T any] struct {
	fields []field[T]
	at     [64]uint8 // index in fields + 1, by number
	// byHand, where it is set, stands in the place of the rows.
	byHand *byHand[T]
}

// byHand is how a message is written and read that is in a reply a thousand
// times: a call through a row's function for each field takes longer than the
// field itself.
type byHand[T any] struct {
	append func(b []byte, v *T) []byte
	parse  func(v *T, s string) error
}

// field is one row of a table.
type field[T any] struct {
	num uint64
	// put appends the field to b, or nothing where it is zero.
	put func(b []byte, v *T) []byte
	// get takes the value that the scanner has read. A value of another type
	// than the field's is skipped, as protobuf has it for unknown fields.
	get func(v *T, in scanner) error
}

// table makes a message from rows with ascending numbers.
func table[T any](fields ...field[T]) *message[T] {
	m := &message[T]{fields: fields}
	for i, f := range fields {
		m.at[f.num] = uint8(i + 1)
	}
	return m
}

// append writes the fields of v.
func (m *message[T]) append(b []byte, v *T) []byte {
	if m.byHand != nil {
		return m.byHand.append(b, v)
	}
	for i := range m.fields {
		b = m.fields[i].put(b, v)
	}
	return b
}

// nested writes v as field num of the message around it.
func (m *message[T]) nested(b []byte, num uint64, v *T) []byte {
	b, start := open(b, num)
	return closed(m.append(b, v), start)
}

// parse reads fields into v.
func (m *message[T]) parse(v *T, s string) error {
	if m.byHand != nil {
		return m.byHand.parse(v, s)
	}
	in := scanner{s: s}
	for in.more() {
		if err := in.next(); err != nil {
			return err
		}
		if err := m.take(v, in); err != nil {
			return err
		}
	}
	return nil
}

// take reads one field into v, and skips one that is not in the table.
func (m *message[T]) take(v *T, in scanner) error {
	if in.num >= uint64(len(m.at)) || m.at[in.num] == 0 {
		return nil
	}
	return m.fields[m.at[in.num]-1].get(v, in)
}

func tag(b []byte, num uint64, typ uint8) []byte {
	return appendUvarint(b, num<<3|uint64(typ))
}

// appendUvarint is binary.AppendUvarint with the common case inlined.
func appendUvarint(b []byte, n uint64) []byte {
	if n < 0x80 {
		return append(b, byte(n))
	}
	return binary.AppendUvarint(b, n)
}

// open begins a field whose length is not known yet. Most have less than 128
// bytes, so one byte is kept free for the length.
func open(b []byte, num uint64) (_ []byte, start int) {
	b = append(tag(b, num, typeBytes), 0)
	return b, len(b)
}

// closed puts the length where open left room for it, and makes more room where
// that is not enough.
func closed(b []byte, start int) []byte {
	n := len(b) - start
	if n < 0x80 {
		b[start-1] = byte(n)
		return b
	}
	var length [binary.MaxVarintLen64]byte
	size := binary.PutUvarint(length[:], uint64(n))
	b = append(b, length[:size-1]...)
	copy(b[start+size-1:], b[start:start+n])
	copy(b[start-1:], length[:size])
	return b
}
