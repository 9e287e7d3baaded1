package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/internal/vmm"
	"github.com/nanoclaw/nanoclaw/hypervisor/qemu/internal/qmp"
)

// nic is a NIC in its port.
type nic struct {
	port int
	// busy: an AddNIC or RemoveNIC of it is under way. nics.mu guards it.
	busy bool
	// asked: the guest was asked to give the NIC up. It belongs to the call that
	// made the NIC busy.
	asked bool
	// gone is closed when the guest has given it up.
	gone chan struct{}
}

// nics is which NIC sits in which port.
type nics struct {
	mu   sync.Mutex
	byID map[string]*nic
	used []bool // by port
}

func (s *nics) init(cold []hypervisor.NIC) {
	s.byID = make(map[string]*nic)
	s.used = make([]bool, len(cold)+sparePorts)
	for i, n := range cold {
		s.byID[n.ID] = &nic{port: i, gone: make(chan struct{})}
		s.used[i] = true
	}
}

// reserve takes a free port for a NIC that is about to be added.
func (s *nics) reserve(id string) (*nic, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[id] != nil {
		return nil, errors.New("there is a NIC of that name already")
	}
	for port, used := range s.used {
		if !used {
			n := &nic{port: port, busy: true, gone: make(chan struct{})}
			s.byID[id], s.used[port] = n, true
			return n, nil
		}
	}
	return nil, fmt.Errorf("all %d slots for NICs are taken", len(s.used))
}

// acquire takes hold of a NIC that is about to be removed.
func (s *nics) acquire(id string) (*nic, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byID[id]
	switch {
	case n == nil:
		return nil, errors.New("there is no such NIC")
	case n.busy:
		return nil, errors.New("the NIC is being added or removed already")
	}
	n.busy = true
	return n, nil
}

// settle lets go of a NIC that stays.
func (s *nics) settle(n *nic) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n.busy = false
}

// free gives the port of a NIC back.
func (s *nics) free(id string, n *nic) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, id)
	s.used[n.port] = false
}

// deleted notes that the guest gave a device up.
func (s *nics) deleted(data json.RawMessage) {
	var d struct {
		Device string `json:"device"`
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return
	}
	id, ok := strings.CutPrefix(d.Device, "nic-")
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byID[id]
	if n == nil {
		return
	}
	select {
	case <-n.gone:
	default:
		close(n.gone)
	}
}

// AddNIC is part of hypervisor.VM. There is room for sparePorts more than at
// the start.
func (v *vm) AddNIC(ctx context.Context, n hypervisor.NIC) error {
	if err := vmm.CheckNIC(n); err != nil {
		return fmt.Errorf("plug NIC: %w", err)
	}
	slot, err := v.nics.reserve(n.ID)
	if err != nil {
		return fmt.Errorf("plug NIC %s: %w", n.ID, err)
	}
	if err := v.plug(ctx, n, slot.port); err != nil {
		v.nics.free(n.ID, slot)
		return fmt.Errorf("plug NIC %s: %w", n.ID, v.stopped(err))
	}
	v.nics.settle(slot)
	return nil
}

// plug hands the tap to QEMU and makes the two halves of the NIC. QEMU forgets
// the tap's name as soon as it has used it.
func (v *vm) plug(ctx context.Context, n hypervisor.NIC, port int) error {
	name := "tap-" + n.ID
	if err := v.monitor.Execute(ctx, "getfd", map[string]string{"fdname": name}, n.Tap); err != nil {
		return err
	}
	if err := v.monitor.Execute(ctx, "netdev_add", netdev(n.ID, name)); err != nil {
		return errors.Join(err, v.undo("closefd", map[string]string{"fdname": name}))
	}
	if err := v.monitor.Execute(ctx, "device_add", nicDevice(n, port)); err != nil {
		return errors.Join(err, v.undo("netdev_del", map[string]string{"id": "net-" + n.ID}))
	}
	return nil
}

// undo takes a step back even when the caller's time is over.
func (v *vm) undo(command string, args any) error {
	ctx, cancel := context.WithTimeout(context.Background(), endGrace)
	defer cancel()
	return v.monitor.Execute(ctx, command, args)
}

// RemoveNIC is part of hypervisor.VM. It waits for the guest to give the NIC
// up, which a guest may refuse: the NIC then stays, and the call can be repeated.
func (v *vm) RemoveNIC(ctx context.Context, id string) error {
	n, err := v.nics.acquire(id)
	if err != nil {
		return fmt.Errorf("unplug NIC %s: %w", id, err)
	}
	if err := v.unplug(ctx, id, n); err != nil {
		v.nics.settle(n)
		return fmt.Errorf("unplug NIC %s: %w", id, v.stopped(err))
	}
	v.nics.free(id, n)
	return nil
}

func (v *vm) unplug(ctx context.Context, id string, n *nic) error {
	err := v.monitor.Execute(ctx, "device_del", map[string]string{"id": "nic-" + id})
	var refused *qmp.Error
	switch {
	case err == nil:
		n.asked = true
	case !errors.As(err, &refused):
		return err
	case n.asked:
		// The guest has answered an earlier request since, or has not yet:
		// QEMU refuses to ask twice for a while. Either way the event tells.
	default:
		return err
	}
	select {
	case <-n.gone:
	case <-v.qemu.Done():
		return hypervisor.ErrStopped
	case <-ctx.Done():
		return fmt.Errorf("the guest has not given it up: %w", ctx.Err())
	}
	return v.monitor.Execute(ctx, "netdev_del", map[string]string{"id": "net-" + id})
}
