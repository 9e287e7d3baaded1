// Package agent is the protobuf contract between the shim and the guest agent.
//
// It holds generated code and the few constants that both sides must agree on.
// It does not hold behaviour: the agent's is in package guestagent, the shim's
// in package shim.
//
// agent.pb.go and agent_ttrpc.pb.go are generated from agent.proto by
// "make generate"; CI fails when they are stale.
package agent
