// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"strings"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// Bytes is a message as it goes over the wire. Encoding and decoding happen
// in the call's handler and not in gRPC's codec, where nothing would recover a
// panic.
type Bytes struct {
	buf mem.Buffer // to send, once
	out []byte     // to send; never changed again
	in  string     // received
}

// string gives the bytes, also those of a message that was not sent at all.
func (b *Bytes) string() string {
	switch {
	case b.buf != nil:
		return string(b.buf.ReadOnlyData())
	case b.out != nil:
		return string(b.out)
	}
	return b.in
}

// Codec is gRPC's for protobuf, which hands Bytes through as they are.
type Codec struct{}

var _ encoding.CodecV2 = Codec{}

// Marshal implements encoding.CodecV2.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.(*Bytes); ok && b.buf != nil {
		return mem.BufferSlice{b.buf}, nil
	} else if ok {
		return mem.BufferSlice{mem.SliceBuffer(b.out)}, nil
	}
	return encoding.GetCodecV2(proto.Name).Marshal(v)
}

// Unmarshal implements encoding.CodecV2. The buffers are gRPC's: Bytes takes a copy.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*Bytes)
	if !ok {
		return encoding.GetCodecV2(proto.Name).Unmarshal(data, v)
	}
	var s strings.Builder
	s.Grow(data.Len())
	for _, part := range data {
		s.Write(part.ReadOnlyData())
	}
	*b = Bytes{in: s.String()}
	return nil
}

// Name implements encoding.CodecV2.
func (Codec) Name() string { return proto.Name }

// The service and its methods, as gRPC names them.
const (
	ServiceName          = "pidigree.v1.PidigreeService"
	MethodResolve        = "/" + ServiceName + "/Resolve"
	MethodResolveStream  = "/" + ServiceName + "/ResolveStream"
	MethodGet            = "/" + ServiceName + "/Get"
	MethodList           = "/" + ServiceName + "/List"
	MethodStreamEntities = "/" + ServiceName + "/StreamEntities"
	MethodStatus         = "/" + ServiceName + "/Status"
)
