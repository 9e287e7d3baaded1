package qmp

import (
	"encoding/json"
	"errors"
	"fmt"
)

// maxLine bounds a message from QEMU. The longest of those that the driver asks
// for are a few hundred bytes.
const maxLine = 64 << 10

// Event is something that QEMU reports by itself.
type Event struct {
	Name string
	Data json.RawMessage
}

// Error is QEMU's refusal of a command.
type Error struct {
	Command string
	// Class is one of a few fixed words; all but "DeviceNotFound",
	// "CommandNotFound" and "DeviceNotActive" are "GenericError".
	Class string
	// Desc is for people only.
	Desc string
}

func (e *Error) Error() string {
	return fmt.Sprintf("qemu refused %s: %s", e.Command, e.Desc)
}

// ClassDeviceNotFound is the class of an Error about a device that is not there.
const ClassDeviceNotFound = "DeviceNotFound"

// message is any line that QEMU sends: exactly one of its kinds is set.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	Event    string          `json:"event"`
	Data     json.RawMessage `json:"data"`
	Return   json.RawMessage `json:"return"`
	Error    *refusal        `json:"error"`
	ID       *uint64         `json:"id"`
}

type refusal struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

var errNotQMP = errors.New("not a QMP message")

// parse reads one line. Members that are not named above are ignored: QEMU adds
// them between versions.
func parse(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, fmt.Errorf("%w: %w", errNotQMP, err)
	}
	kinds := 0
	for _, set := range []bool{m.Greeting != nil, m.Event != "", m.Return != nil, m.Error != nil} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		return message{}, fmt.Errorf("%w: %d kinds in one", errNotQMP, kinds)
	}
	return m, nil
}
