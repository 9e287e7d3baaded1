package annotations

import (
	"path"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func dir(p string, aliases ...string) Source {
	return Source{Asked: p, Path: p, Aliases: aliases, Kind: KindDir, FSType: "ext4"}
}

func fileAt(p string) Source { return Source{Asked: p, Path: p, Kind: KindFile, FSType: "ext4"} }

func TestCheckMount(t *testing.T) {
	const docker = "/var/lib/docker"
	own := docker + "/containers/" + testID
	for _, c := range []struct {
		name   string
		dest   string
		source Source
		refuse []string // nil: allowed
	}{
		{"workspace", "/w", dir("/home/ada/project"), nil},
		{"srv", "/w", dir("/srv/data"), nil},
		{"like etc", "/w", dir("/etcetera"), nil},
		{"a folder named like one", "/w", dir("/srv/etc"), nil},
		{"root", "/w", dir("/"), []string{"whole file system", `rule "mounts.refuse /"`}},
		{"proc", "/w", dir("/proc"), []string{"/proc"}},
		{"below proc", "/w", dir("/proc/sys"), []string{"lies in /proc"}},
		{"sys", "/w", dir("/sys"), []string{"/sys"}},
		{"dev", "/w", dir("/dev"), []string{"/dev"}},
		{"boot", "/w", dir("/boot"), []string{"/boot"}},
		{"etc", "/w", dir("/etc"), []string{"system folder"}},
		{"a file of etc", "/w", fileAt("/etc/shadow"), []string{"lies in /etc"}},
		{"home of root", "/w", dir("/root"), []string{"/root"}},
		{"run", "/w", dir("/run"), []string{"/run"}},
		{"var/run", "/w", dir("/var/run"), []string{"/run"}},
		{"var", "/w", dir("/var"), []string{"contains"}},
		{"var/lib", "/w", dir("/var/lib"), []string{"contains", "engine"}},
		{"engine", "/w", dir(docker), []string{"engine"}},
		{"an image layer", "/w", dir(docker + "/overlay2/x/diff"), []string{"engine"}},
		{"another container's files", "/etc/hosts", fileAt(docker + "/containers/other/hosts"), []string{"engine"}},
		{"containerd", "/w", dir("/var/lib/containerd"), []string{"engine"}},
		{"podman", "/w", dir("/var/lib/containers/storage"), []string{"engine"}},
		{"kubelet", "/w", dir("/var/lib/kubelet"), []string{"engine"}},
		{"ssh", "/w", dir("/home/ada/.ssh"), []string{"credential"}},
		{"an ssh key", "/w", fileAt("/home/ada/.ssh/id_ed25519"), []string{"credential"}},
		{"gcloud", "/w", dir("/home/ada/.config/gcloud"), []string{"credential"}},
		{"other configuration", "/w", dir("/home/ada/.config/nvim"), nil},
		{"netrc", "/w", fileAt("/home/ada/.netrc"), []string{"credential"}},
		{"docker's configuration", "/w", dir("/home/ada/.docker"), []string{"credential"}},
		{"a file named like one", "/w", fileAt("/srv/x.ssh"), nil},
		{"a home that holds one", "/w", Source{Asked: "/home/ada", Path: "/home/ada", Kind: KindDir, Holds: []string{".ssh"}}, []string{"holds", ".ssh"}},
		{"homes", "/w", Source{Asked: "/home", Path: "/home", Kind: KindDir, Holds: []string{"ada/.aws"}}, []string{"holds", ".aws"}},
		{"an alias", "/w", dir("/srv/x", "/etc"), []string{"the same as \"/etc\""}},
		{"a mount within", "/w", Source{Asked: "/srv", Path: "/srv", Kind: KindDir, Inside: []Source{dir("/srv/x", "/etc")}}, []string{"contains the mount", "/srv/x"}},
		{"what is mounted over a place", "/w", Source{Asked: "/data", Path: "/data", Kind: KindDir, Contains: []string{docker}}, []string{"mounted at", docker}},
		{"what is mounted in a place", "/w", Source{Asked: "/data", Path: "/data", Kind: KindDir, Contains: []string{"/run/x"}}, nil},
		{"proc elsewhere", "/w", Source{Asked: "/srv/p", Path: "/srv/p", Kind: KindDir, FSType: "proc"}, []string{"proc file system"}},

		{"engine socket", "/var/run/docker.sock", Source{Asked: "/var/run/docker.sock", Path: "/run/docker.sock", Kind: KindSocket}, []string{"/var/run/docker.sock", "controls the host"}},
		{"engine socket elsewhere", "/x", Source{Asked: "/opt/docker.sock", Path: "/opt/docker.sock", Kind: KindSocket}, []string{"controls the host"}},
		{"ssh-agent", "/x", Source{Asked: "/tmp/ssh-abc/agent.7", Path: "/tmp/ssh-abc/agent.7", Kind: KindSocket}, []string{"agent that holds keys"}},
		{"a socket", "/x", Source{Asked: "/srv/app.sock", Path: "/srv/app.sock", Kind: KindSocket}, []string{"socket", "network"}},
		{"a pipe", "/x", Source{Asked: "/srv/fifo", Path: "/srv/fifo", Kind: KindFIFO}, []string{"named pipe"}},
		{"null", "/w/.env", Source{Asked: "/dev/null", Path: "/dev/null", Kind: KindChar, Major: 1, Minor: 3}, nil},
		{"mem", "/x", Source{Asked: "/dev/mem", Path: "/dev/mem", Kind: KindChar, Major: 1, Minor: 1}, []string{"character device"}},
		{"a disk", "/x", Source{Asked: "/dev/vda", Path: "/dev/vda", Kind: KindBlock, Major: 254}, []string{"block device"}},
		{"null, as a block device", "/x", Source{Asked: "/srv/n", Path: "/srv/n", Kind: KindBlock, Major: 1, Minor: 3}, []string{"block device"}},

		{"own hosts", "/etc/hosts", fileAt(own + "/hosts"), nil},
		{"own hostname", "/etc/hostname", fileAt(own + "/hostname"), nil},
		{"own resolv.conf", "/etc/resolv.conf", fileAt(own + "/resolv.conf"), nil},
		{"own hosts elsewhere", "/x", fileAt(own + "/hosts"), []string{"engine"}},
		{"own configuration", "/etc/hosts", fileAt(own + "/config.v2.json"), []string{"engine"}},
		{"own folder", "/etc/hosts", dir(own), []string{"engine"}},
		{"own hosts that is another file", "/etc/hosts", Source{Asked: own + "/hosts", Path: own + "/hosts", Aliases: []string{"/etc/shadow"}, Kind: KindFile}, []string{"engine"}},
		{"a swarm secret", "/run/secrets/x", fileAt(own + "/mounts/secrets/x"), nil},
		{"init", "/sbin/docker-init", fileAt("/usr/bin/docker-init"), nil},
		{"init that is something else", "/sbin/docker-init", Source{Asked: "/usr/bin/docker-init", Path: "/etc/shadow", Kind: KindFile}, []string{"/etc"}},

		{"a volume", "/w", dir(docker + "/volumes/data/_data"), nil},
		{"a part of a volume", "/w", dir("/tmp/safe-mount12", docker+"/volumes/data/_data/sub"), nil},
		{"a part of a volume where Docker mounts it", "/w", dir(docker+"/tmp/safe-mount12", docker+"/volumes/data/_data/sub"), nil},
		{"something else that is mounted there", "/w", dir(docker+"/tmp/safe-mount12", docker+"/overlay2/ab/diff"), []string{"engine"}},
		{"another temporary file of Docker's", "/w", dir(docker + "/tmp/other"), []string{"engine"}},
		{"a volume with a home in it", "/w", Source{Asked: "v", Path: docker + "/volumes/home/_data", Kind: KindDir, Holds: []string{".ssh"}}, nil},
		{"a volume that is a bind mount of etc", "/w", dir(docker+"/volumes/data/_data", "/etc"), []string{"/etc"}},
		{"a volume that is a bind mount of a home", "/w", Source{Asked: "v", Path: docker + "/volumes/h/_data", Aliases: []string{"/home/ada"}, Kind: KindDir, Holds: []string{".ssh"}}, []string{"holds"}},
		{"the volumes", "/w", dir(docker + "/volumes"), []string{"engine"}},
		{"a volume's options", "/w", fileAt(docker + "/volumes/data/opts.json"), []string{"engine"}},
		{"a volume of a plugin", "/w", dir(docker + "/plugins/" + strings.Repeat("a", 64) + "/propagated-mount/v"), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := mustCompile(t, dockerSpec())
			err := p.CheckMount(Mount{Destination: c.dest, Source: c.source})
			if c.refuse == nil {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			refusal(t, err, append(c.refuse, c.source.Asked, c.dest)...)
		})
	}
}

// TestEveryPlace sees each place of the baseline refused, and allowed without it.
func TestEveryPlace(t *testing.T) {
	for i, place := range baselinePlaces() {
		p := mustCompile(t, dockerSpec())
		// Alone, so that no other rule helps.
		p.Mounts.Engine = nil
		p.Mounts.Refuse = p.Mounts.Refuse[i : i+1]
		name := place.Path
		if !path.IsAbs(name) {
			name = "/home/ada/" + name
		}
		m := Mount{Destination: "/x", Source: dir(name)}
		refusal(t, p.CheckMount(m), place.Rule)
		p.Mounts.Refuse = nil
		if err := p.CheckMount(m); err != nil {
			t.Errorf("%s is refused without its rule: %v", name, err)
		}
	}
}

func TestMovedEngine(t *testing.T) {
	s := dockerSpec(func(s *specs.Spec) {
		for i := range s.Mounts {
			s.Mounts[i].Source = strings.Replace(s.Mounts[i].Source, "/var/lib/docker", "/data/engine", 1)
		}
	})
	p := mustCompile(t, s)
	refusal(t, p.CheckMount(Mount{Destination: "/x", Source: dir("/data/engine/containers")}), "/data/engine")
	refusal(t, p.CheckMount(Mount{Destination: "/x", Source: dir("/data")}), "contains /data/engine")
	for _, m := range []Mount{
		{Destination: "/x", Source: dir("/data/engine/volumes/v/_data")},
		{Destination: "/etc/hosts", Source: fileAt("/data/engine/containers/" + testID + "/hosts")},
	} {
		if err := p.CheckMount(m); err != nil {
			t.Error(err)
		}
	}
}

func TestOnHost(t *testing.T) {
	links := map[string]string{"/var/lib/docker": "/big/docker", "/boot": "/efi/boot", "/run": "/run"}
	p := mustCompile(t, dockerSpec())
	before := p.Digest()
	image := "/big/docker/overlay2/own/merged"
	q := p.OnHost(func(name string) string { return links[name] }, func(engine, container string) []string {
		if engine == "/big/docker" && container == testID {
			return []string{image}
		}
		return nil
	})
	if p.Digest() != before {
		t.Error("the policy was changed")
	}
	for _, name := range []string{"/big/docker/overlay2", "/efi/boot/x", "/boot"} {
		refusal(t, q.CheckMount(Mount{Destination: "/x", Source: dir(name)}))
	}
	for _, m := range []Mount{
		{Destination: "/x", Source: dir("/big/docker/volumes/v/_data")},
		{Destination: "/x", Source: dir("/big/other")},
		{Destination: "/etc/hosts", Source: fileAt("/big/docker/containers/" + testID + "/hosts")},
	} {
		if err := q.CheckMount(m); err != nil {
			t.Error(err)
		}
	}
	part := Source{Asked: "/tmp/safe-mount1", Path: "/big/docker/tmp/safe-mount1", Aliases: []string{image + "/sub"}, Kind: KindDir, Holds: []string{".ssh"}}
	for _, s := range []Source{dir(image), part} {
		if err := q.CheckMount(Mount{Destination: "/image", ReadOnly: true, Source: s}); err != nil {
			t.Error(err)
		}
		refusal(t, q.CheckMount(Mount{Destination: "/image", Source: s}), "engine")
	}
	other := Mount{Destination: "/image", ReadOnly: true, Source: dir("/big/docker/overlay2/other/merged")}
	refusal(t, q.CheckMount(other), "engine")
	q.Mounts.Images = append(q.Mounts.Images, "/big/docker/overlay2")
	if err := q.CheckMount(other); err != nil {
		t.Errorf("only the check of whose image it is keeps another container's root out: %v", err)
	}
	if !q.EngineShm("/big/docker/containers/"+testID+"/mounts/shm") || q.EngineShm("/big/docker/containers/other/mounts/shm") {
		t.Error("the engine's shared memory is not told from others")
	}
}

func TestMountsAllow(t *testing.T) {
	own := "/var/lib/docker/containers/" + testID + "/hosts"
	for _, c := range []struct {
		name, value string
		mount       Mount
		refuse      []string
	}{
		{"listed", "/w:rw", Mount{Destination: "/w", Source: dir("/srv/w")}, nil},
		{"unclean destination", "/w:rw", Mount{Destination: "/w/", Source: dir("/srv/w")}, nil},
		{"read-only as asked", "/w:ro", Mount{Destination: "/w", ReadOnly: true, Source: dir("/srv/w")}, nil},
		{"wider", "/w:ro", Mount{Destination: "/w", Source: dir("/srv/w")}, []string{"asks for writing", ":ro"}},
		{"not listed", "/w:rw", Mount{Destination: "/x", Source: dir("/srv/w")}, []string{"does not list", "annotation"}},
		{"none", "", Mount{Destination: "/x", Source: dir("/srv/w")}, []string{"does not list"}},
		{"listed and refused", "/w:rw", Mount{Destination: "/w", Source: dir("/etc")}, []string{"baseline"}},
		{"engine's own", "", Mount{Destination: "/etc/hosts", Source: fileAt(own)}, nil},
		{"init", "", Mount{Destination: "/sbin/docker-init", Source: fileAt("/usr/bin/docker-init")}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := mustCompile(t, dockerSpec(), KeyMountsAllow, c.value).CheckMount(c.mount)
			if c.refuse == nil {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			refusal(t, err, c.refuse...)
		})
	}
	t.Run("wider, but forced to be read-only", func(t *testing.T) {
		p := mustCompile(t, dockerSpec(), KeyMountsAllow, "/w:ro", KeyMountsReadonly, "*")
		if err := p.CheckMount(Mount{Destination: "/w", Source: dir("/srv/w")}); err != nil {
			t.Error(err)
		}
	})
}

func TestReadOnly(t *testing.T) {
	for _, c := range []struct {
		value, dest string
		want        bool
	}{{"*", "/anything", true}, {"/etc/hosts", "/etc/hosts", true}, {"/etc/hosts", "/etc/hosts/", true}, {"/etc/hosts", "/etc/hostname", false}} {
		if got := mustCompile(t, dockerSpec(), KeyMountsReadonly, c.value).ReadOnly(c.dest); got != c.want {
			t.Errorf("%s with %q: %v", c.dest, c.value, got)
		}
	}
	if mustCompile(t, dockerSpec()).ReadOnly("/etc/hosts") {
		t.Error("read-only without a rule")
	}
}

func TestCheckRootfs(t *testing.T) {
	p := mustCompile(t, dockerSpec())
	for _, name := range []string{
		"/var/lib/docker/overlay2/ab/merged", "/var/lib/docker/rootfs/overlayfs/x",
		"/run/containerd/io.containerd.runtime.v2.task/default/x/rootfs", "/srv/rootfs",
	} {
		if err := p.CheckRootfs(dir(name)); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []Source{
		dir("/"), dir("/var"), dir("/etc/x"), dir("/root"), dir("/run"), dir("/srv/x", "/etc"), fileAt("/srv/x"),
		{Asked: "/srv/r", Path: "/srv/r", Kind: KindDir, Inside: []Source{{Path: "/srv/r/proc", FSType: "proc"}}},
	} {
		refusal(t, p.CheckRootfs(s), "root file system")
	}
}

func TestFilesOfThePeer(t *testing.T) {
	const x = "/big/docker/containers/x/"
	spec := dockerSpec(func(s *specs.Spec) {
		for i := range s.Mounts {
			s.Mounts[i].Source = strings.Replace(s.Mounts[i].Source, "/var/lib/docker/containers/"+testID+"/", x, 1)
		}
	})
	p, err := Compile(Input{ID: testID, Peers: []string{"x", "y"}, Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		if err := p.CheckMount(Mount{Destination: "/etc/" + name, Source: fileAt(x + name)}); err != nil {
			t.Error(err)
		}
	}
	for _, m := range []Mount{
		{Destination: "/etc/hosts", Source: fileAt(x + "config.v2.json")},
		{Destination: "/etc/hosts", Source: fileAt("/big/docker/containers/other/hosts")},
		{Destination: "/run/secrets/s", Source: fileAt(x + "mounts/secrets/s")},
		{Destination: "/d", Source: dir(x + "mounts")},
	} {
		refusal(t, p.CheckMount(m), "engine")
	}
}

func FuzzCheckMount(f *testing.F) {
	for _, s := range []string{"/", "/etc", "/var/run/docker.sock", "/home/a/.ssh/x", "/var/lib/docker/volumes/v/_data", "/etc/../srv"} {
		f.Add("/x", s)
	}
	p, err := Compile(Input{ID: testID, Spec: dockerSpec()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, dest, source string) {
		name := path.Clean("/" + source)
		err := p.CheckMount(Mount{Destination: dest, Source: dir(name)})
		for _, forbidden := range []string{"/etc", "/proc", "/run", "/root", "/dev", "/sys", "/boot"} {
			if (name == forbidden || strings.HasPrefix(name, forbidden+"/")) && err == nil {
				t.Errorf("%q was allowed", name)
			}
		}
		if name == "/" && err == nil {
			t.Error("/ was allowed")
		}
	})
}
