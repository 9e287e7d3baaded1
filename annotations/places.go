package annotations

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// baselinePlaces are the host places that are never shared.
func baselinePlaces() []Place {
	groups := []struct {
		kind  string
		paths []string
	}{
		{"the host's whole file system", []string{"/"}},
		{"a folder of the host's kernel", []string{"/proc", "/sys", "/dev"}},
		{"a system folder of the host", []string{"/boot", "/etc", "/root"}},
		{"the folder of the host's sockets and running services", []string{"/run", "/var/run"}},
		{"a folder of the container engine", []string{
			"/var/lib/docker", "/var/lib/containerd", "/var/lib/containers", "/var/lib/buildkit",
			"/var/lib/buildkitd", "/var/lib/kubelet", "/var/lib/nanoclaw", "/var/log/nanoclaw",
			"/var/lib/nerdctl", "/var/lib/crio",
		}},
		{"a credential folder or file", []string{
			".ssh", ".aws", ".azure", ".config/gcloud", ".config/gh", ".config/op", ".config/sops",
			".kube", ".docker", ".gnupg", ".netrc", ".git-credentials", ".pypirc", ".vault-token",
			".password-store", ".local/share/keyrings",
		}},
		{"an engine or agent socket", []string{
			"docker.sock", "containerd.sock", "containerd.sock.ttrpc", "podman.sock", "crio.sock",
			"buildkitd.sock", "S.gpg-agent", "S.gpg-agent.ssh", "S.gpg-agent.extra",
		}},
	}
	var places []Place
	for _, g := range groups {
		for _, p := range g.paths {
			places = append(places, Place{Path: p, Kind: g.kind, Rule: "mounts.refuse " + p, Origin: baseline})
		}
	}
	return places
}

// refusePrivate adds the runtime's own folders to the refused places, as far as
// they do not lie in one already.
func (p *Policy) refusePrivate(folders []string) {
	for _, folder := range folders {
		p.refuse(path.Clean(folder), "nanoclaw's own", baseline)
	}
}

// refuseSecrets adds the files of the catalog's secrets: a tool's secret is used
// for a container, and never shown to one.
func (p *Policy) refuseSecrets(host *File) {
	if host == nil {
		return
	}
	for _, t := range host.Tools {
		for _, s := range t.Secrets {
			if _, file, ok := strings.Cut(s.Source, ":"); ok {
				p.refuse(file, "a secret of the tool "+t.Name, s.Origin)
			}
		}
	}
}

func (p *Policy) refuse(place, kind string, from Origin) {
	if slices.ContainsFunc(p.Mounts.Refuse, func(r Place) bool {
		return path.IsAbs(r.Path) && r.Path != "/" && below(place, r.Path)
	}) {
		return
	}
	p.Mounts.Refuse = append(p.Mounts.Refuse, Place{Path: place, Kind: kind, Rule: "mounts.refuse " + place, Origin: from})
}

// Probes are names to look for below a folder that is to be shared, one level
// deep: what is found goes into [Source.Holds]. A home folder is refused for
// holding credentials, not for its own name. A name that projects use for
// harmless things too, such as .docker, is probed by the file that matters.
func (p *Policy) Probes() []string {
	var probes []string
	for _, place := range p.Mounts.Refuse {
		switch {
		case path.IsAbs(place.Path):
		case place.Path == ".docker":
			probes = append(probes, ".docker/config.json")
		case place.Path == ".pypirc", place.Path == ".netrc":
			// Both are a project's own often enough.
		default:
			probes = append(probes, place.Path)
		}
	}
	return probes
}

// HomeParent reports whether a resolved folder holds people's home folders, so
// that [Policy.Probes] have to be looked for in each folder below it.
func HomeParent(resolved string) bool {
	return slices.Contains([]string{"/home", "/var/home", "/Users"}, resolved)
}

// OnHost returns the policy with the refused places named also as they are on
// this host: /var/run may be a link to /run, /var/lib/docker one to another
// disk. canonical resolves a path; for one that does not exist it returns "".
// images returns where the engine with that data folder mounted images for a
// container.
func (p *Policy) OnHost(canonical func(string) string, images func(engine, container string) []string) *Policy {
	q := *p
	q.Mounts.Refuse = slices.Clone(p.Mounts.Refuse)
	for _, place := range p.Mounts.Refuse {
		if !path.IsAbs(place.Path) {
			continue
		}
		if real := canonical(place.Path); real != "" && real != place.Path {
			place.Path = real
			q.Mounts.Refuse = append(q.Mounts.Refuse, place)
		}
	}
	q.Mounts.Sources = slices.Clone(p.Mounts.Sources)
	for i, list := range q.Mounts.Sources {
		for _, s := range list.Sources {
			if real := canonical(s.Source); real != "" && real != s.Source {
				s.Source = real
				q.Mounts.Sources[i].Sources = append(slices.Clone(q.Mounts.Sources[i].Sources), s)
			}
		}
	}
	q.Mounts.Tools = slices.Clone(p.Mounts.Tools)
	for _, t := range p.Mounts.Tools {
		if real := canonical(t.Source); real != "" && real != t.Source {
			t.Source = real
			q.Mounts.Tools = append(q.Mounts.Tools, t)
		}
	}
	q.Mounts.Engine = slices.Clone(p.Mounts.Engine)
	for _, folder := range append(slices.Clone(p.Mounts.Engine), dockerFolder) {
		if real := canonical(folder); real != "" && real != folder {
			q.Mounts.Engine = append(q.Mounts.Engine, real)
		}
	}
	q.Mounts.Images = nil
	for _, folder := range q.engine() {
		q.Mounts.Images = append(q.Mounts.Images, images(folder, p.Container)...)
	}
	if p.Firm != nil {
		q.Firm = p.Firm.OnHost(canonical, images)
	}
	return &q
}

const dockerFolder = "/var/lib/docker"

// engineFolders finds Docker's data folder, which its configuration may have
// moved: Docker mounts three files out of it into every container.
func engineFolders(id string, spec *specs.Spec) []string {
	var folders []string
	for _, m := range spec.Mounts {
		root, rest, ok := strings.Cut(path.Clean(m.Source), "/containers/"+id+"/")
		if ok && id != "" && path.IsAbs(root) && ownFiles[m.Destination] == rest && !slices.Contains(folders, root) {
			folders = append(folders, root)
		}
	}
	return folders
}

// ownFiles are the files that Docker makes for each container, by where it
// mounts them.
var ownFiles = map[string]string{
	"/etc/hosts":       "hosts",
	"/etc/hostname":    "hostname",
	"/etc/resolv.conf": "resolv.conf",
}

// initDestination is where Docker mounts the program of --init.
const initDestination = "/sbin/docker-init"

// initProgram reports whether the mount is the program of --init, which no list
// of allowed mounts has to name. What it resolved to is judged like any other.
func initProgram(m Mount) bool {
	return m.Destination == initDestination && m.Source.Kind == KindFile && path.Base(m.Source.Asked) == "docker-init"
}

// ownFile reports whether the engine itself made this mount for this container:
// one of its three files, which are those of the other one where it joins a
// network, or something in the container's own folder of mounts (swarm secrets,
// a shareable /dev/shm).
func (p *Policy) ownFile(m Mount) bool {
	if p.Container == "" {
		return false
	}
	for _, folder := range p.engine() {
		name, known := ownFiles[m.Destination]
		for _, id := range append([]string{p.Container}, p.Peers...) {
			if known && m.Source.Path == path.Join(folder, "containers", id, name) && m.Source.Kind == KindFile {
				return true
			}
		}
		own := path.Join(folder, "containers", p.Container)
		if below(m.Source.Path, path.Join(own, "mounts")) {
			return true
		}
	}
	return false
}

func (p *Policy) engine() []string { return append(slices.Clone(p.Mounts.Engine), dockerFolder) }

// EngineShm reports whether a source is the shared-memory folder that Docker
// makes for a container with --ipc shareable. It is memory and no files, and
// the VM has its own.
func (p *Policy) EngineShm(resolved string) bool {
	for _, folder := range p.engine() {
		if p.Container != "" && resolved == path.Join(folder, "containers", p.Container, "mounts/shm") {
			return true
		}
	}
	return false
}

// volume is the content of a volume, below an engine's data folder: of the
// built-in driver, or of a driver that is a plugin. A part of a volume
// (volume-subpath) Docker mounts at a place of its own first.
var volume = regexp.MustCompile(`^/(volumes/[^/]+/_data|tmp/safe-mount[0-9]+|plugins/[0-9a-f]{64}/(rootfs|propagated-mount)/.+)(/|$)`)

func (p *Policy) isVolume(name string) bool {
	for _, folder := range p.engine() {
		if rest, ok := strings.CutPrefix(name, folder); ok && volume.MatchString(rest) {
			return true
		}
	}
	return false
}

// isContent reports whether the engine keeps name for containers to mount: a
// volume, or an image that it mounted for this container and that is asked for
// as Docker asks for it, read-only. Next to it lie the roots of other containers.
func (p *Policy) isContent(name string, readonly bool) bool {
	return p.isVolume(name) || readonly && slices.ContainsFunc(p.Mounts.Images, func(image string) bool { return below(name, image) })
}

// below reports whether name is dir or lies below it. Both are clean.
func below(name, dir string) bool {
	return name == dir || dir == "/" || strings.HasPrefix(name, dir+"/")
}
