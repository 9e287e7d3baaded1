package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/nanoclaw/nanoclaw/hypervisor"
)

// growthDevice is the device by which memory is plugged into the guest.
const growthDevice = "growth"

// cpu is one that the machine has or has room for, as the monitor describes it.
type cpu struct {
	Driver string          `json:"type"`
	Place  json.RawMessage `json:"props"`
	// Path is not empty where it is there.
	Path string `json:"qom-path"`
}

// Grow is part of hypervisor.VM. Of what it could not do it has done a part: the
// memory before the CPUs, and these one by one.
func (v *vm) Grow(ctx context.Context, to hypervisor.Size) error {
	v.growing.Lock()
	defer v.growing.Unlock()
	if err := v.config.Check(v.size, to); err != nil {
		return err
	}
	if to.Memory > v.size.Memory {
		err := v.command(ctx, "qom-set", map[string]any{
			"path": "/machine/peripheral/" + growthDevice, "property": "requested-size", "value": to.Memory - v.config.Memory,
		})
		if err != nil {
			return fmt.Errorf("plug memory: %w", err)
		}
		v.size.Memory = to.Memory
	}
	if to.CPUs == v.size.CPUs {
		return nil
	}
	var all []cpu
	if err := v.stopped(v.monitor.Query(ctx, "query-hotpluggable-cpus", &all)); err != nil {
		return fmt.Errorf("ask for room for CPUs: %w", err)
	}
	// It lists them from the last to the first.
	slices.Reverse(all)
	for _, c := range all {
		if c.Path != "" || v.size.CPUs == to.CPUs {
			continue
		}
		properties := map[string]any{}
		if err := json.Unmarshal(c.Place, &properties); err != nil {
			return fmt.Errorf("read where a CPU goes: %w", err)
		}
		properties["driver"], properties["id"] = c.Driver, fmt.Sprintf("cpu-%d", v.size.CPUs)
		if err := v.command(ctx, "device_add", properties); err != nil {
			return fmt.Errorf("plug CPU %d: %w", v.size.CPUs, err)
		}
		v.size.CPUs++
	}
	if v.size.CPUs < to.CPUs {
		return errors.New("the machine has no room for another CPU")
	}
	return nil
}
