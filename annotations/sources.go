package annotations

import (
	"path"
	"slices"
)

// checkAllowed judges a mount's destination by the closed lists of destinations.
func (p *Policy) checkAllowed(m Mount) error {
	for _, list := range p.Mounts.Allow {
		if err := p.checkList(m, list); err != nil {
			return err
		}
	}
	return nil
}

func (p *Policy) checkList(m Mount, list Allow) error {
	rule, says := "mounts.allow", "the list of the "+string(list.Layer)
	if list.Layer == LayerAnnotation {
		rule, says = list.Where, "the annotation"
	}
	refuse := func(why, instead string) error {
		return &Refusal{Rule: rule, Origin: list.Origin, What: describe(m), Why: why, Instead: instead}
	}
	for _, a := range list.Destinations {
		if a.Destination != path.Clean(m.Destination) {
			continue
		}
		if !a.Write && !p.mountedReadOnly(m) {
			return refuse("it asks for writing, and "+says+" allows "+a.Destination+" read-only",
				"mount it read-only (-v "+m.Source.Asked+":"+m.Destination+":ro)")
		}
		return nil
	}
	return refuse(says+" does not list its destination",
		"remove the mount, or add "+m.Destination+":ro to "+rule)
}

func (p *Policy) mountedReadOnly(m Mount) bool { return m.ReadOnly || p.ReadOnly(m.Destination) }

// checkSource judges what a source resolved to by the closed lists of host
// folders and by the folders of tools. Every name of the source counts: one
// that leads out of what is given is one too many. A volume or an image is the
// engine's own and in no list, unless it is in truth another folder.
func (p *Policy) checkSource(m Mount, s Source, prefix string) error {
	for _, name := range append([]string{s.Path}, s.Aliases...) {
		if p.isContent(name, m.ReadOnly) {
			continue
		}
		for _, list := range p.Mounts.Sources {
			if list.contains(name, !p.mountedReadOnly(m)) {
				continue
			}
			r := &Refusal{
				Rule: "ceiling.mounts.allow", Origin: list.Origin, What: describe(m),
				Why: prefix + quote(name) + " lies in no folder that this host gives", Instead: "mount a folder that it gives: " + list.String(),
			}
			if list.contains(name, false) {
				r.Why = prefix + "it asks for writing in " + quote(name) + ", which this host gives read-only"
				r.Instead = "mount it read-only (-v " + m.Source.Asked + ":" + m.Destination + ":ro)"
			}
			return r
		}
		if err := p.checkToolMount(m, name, prefix); err != nil {
			return err
		}
	}
	return nil
}

func (p *Policy) checkToolMount(m Mount, name, prefix string) error {
	for _, t := range p.Mounts.Tools {
		if !below(name, t.Source) && !below(t.Source, name) {
			continue
		}
		r := &Refusal{Rule: "tools." + t.Tool + " mounts", Origin: t.Origin, What: describe(m)}
		switch {
		case !t.Open:
			r.Why = prefix + quote(t.Source) + " belongs to the tool " + t.Tool + ", which is not granted"
			r.Instead = "mount another folder, or use an agent that has the tool"
			return r
		case !t.Write && !p.mountedReadOnly(m):
			r.Why = prefix + "it asks for writing in " + quote(t.Source) + ", which belongs to the tool " + t.Tool + " and is read-only"
			r.Instead = "mount it read-only (-v " + m.Source.Asked + ":" + m.Destination + ":ro)"
			return r
		}
	}
	return nil
}

// contains reports whether a host path lies in one of the folders, and may be
// written there if that is asked.
func (l SourceList) contains(name string, write bool) bool {
	return slices.ContainsFunc(l.Sources, func(s AllowedSource) bool { return below(name, s.Source) && (s.Write || !write) })
}

func (l SourceList) String() string {
	s := ""
	for i, a := range l.Sources {
		if i > 0 {
			s += ", "
		}
		s += a.key()
	}
	if s == "" {
		return "none"
	}
	return s
}
