// SPDX-License-Identifier: Apache-2.0

// Package pidigreev1 is version 1 of the messages and the service on pidigree's
// socket, generated from the .proto files beside it. It owns no behaviour; Go
// programs use pkg/client, which speaks the nouns of pkg/workload.
package pidigreev1
