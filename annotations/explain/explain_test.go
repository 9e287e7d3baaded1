package explain

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/nanoclaw/nanoclaw/annotations"
)

func request(t *testing.T, line ...string) *Request {
	t.Helper()
	r, err := Docker(line)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func file(t *testing.T) *annotations.File {
	t.Helper()
	data, err := os.ReadFile("../testdata/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f, err := annotations.ParseFile("policy.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// asCalled takes every source for a folder of that name.
func asCalled(source string, _ *annotations.Policy) (annotations.Source, error) {
	if source == "/unknown" {
		return annotations.Source{}, errors.New("there is none")
	}
	return annotations.Source{Asked: source, Path: source, Kind: annotations.KindDir}, nil
}

func explain(t *testing.T, enforced annotations.Enforced, line ...string) *Explanation {
	t.Helper()
	return New(Input{Request: request(t, line...), Host: file(t), Enforced: enforced, Resolve: asCalled})
}

func TestDocker(t *testing.T) {
	r := request(t, strings.Fields("docker run --rm -it --runtime=nanoclaw -v /a:/x:ro -v/b:/y -v named:/n -v /anonymous --mount type=bind,src=/c,dst=/z,readonly "+
		"--mount type=volume,src=v,dst=/v --mount type=tmpfs,dst=/t --annotation io.nanoclaw.agent=a --annotation other=1 -m 512m --cpus 1.5 --pids-limit=7 --name n -e A=B image -v /not:/ours cmd")...)
	var mounts []string
	for _, m := range r.Mounts {
		s := m.Source.Asked + ":" + m.Destination
		if m.ReadOnly {
			s += ":ro"
		}
		mounts = append(mounts, s)
	}
	if want := []string{"/a:/x:ro", "/b:/y", "/c:/z:ro"}; !slices.Equal(mounts, want) {
		t.Errorf("mounts %v, want %v", mounts, want)
	}
	if r.Runtime != "nanoclaw" || r.Annotations[annotations.KeyAgent] != "a" || r.Annotations["other"] != "1" {
		t.Errorf("%+v", r)
	}
	res := r.spec.Linux.Resources
	if *res.Memory.Limit != 512<<20 || *res.CPU.Quota != 150000 || *res.Pids.Limit != 7 {
		t.Errorf("%+v", res)
	}
	if want := []string{"-v", "/not:/ours", "cmd"}; !slices.Equal(r.Command, want) {
		t.Errorf("command %v", r.Command)
	}
}

func TestDockerRefuses(t *testing.T) {
	for _, line := range []string{"", "docker run", "docker run --rm", "run --no-such-flag image", "run -v", "run --mount type=bind,src=/a image", "run -m much image", "run --cpus x image", "run --pids-limit x image", "run -v /a:/b:ro:x image"} {
		if r, err := Docker(strings.Fields(line)); err == nil {
			t.Errorf("%q was read: %+v", line, r)
		}
	}
}

func TestExplain(t *testing.T) {
	for _, c := range []struct {
		name, line string
		ok         bool
		want       []string
	}{
		{"baseline", "docker run --runtime nanoclaw -v /home/ada/p:/w image", true, []string{
			"(none: the baseline)", "mounts.refuse", "baseline", "policy.yaml:4", "The container would start."}},
		{"agent", "docker run --runtime nanoclaw --annotation io.nanoclaw.agent=support-agent -v /home/ada/p:/w image /bin/sh -c x", true, []string{
			"agent   support-agent", "exec.mode", "image", "agent", "policy.yaml:30", "rw      recorded as would: deny: it can be written, and would be read-only", "tool closed", "crm-api", "limits.cpus", "ceiling",
			"command: allow", "depending on whether the image brought /bin/sh"}},
		{"agent, enforced", "docker run --runtime nanoclaw --annotation io.nanoclaw.agent=support-agent --annotation io.nanoclaw.mode=enforce -v /home/ada/p:/w image", true, []string{
			"forced by mounts.readonly"}},
		{"denied, and only recorded", "docker run --runtime nanoclaw --annotation io.nanoclaw.agent=support-agent --annotation io.nanoclaw.exec.deny=/bin/x image /bin/x", true, []string{
			"command: deny", "note: in the mode audit the command is allow"}},
		{"annotation", "docker run --runtime nanoclaw --annotation io.nanoclaw.exec.deny=/usr/bin/nc image /usr/bin/nc -l", true, []string{"exec.deny", "io.nanoclaw.exec.deny", "command: deny"}},
		{"unknown agent", "docker run --runtime nanoclaw --annotation io.nanoclaw.agent=sale-agent image", false, []string{"nearest is sales-agent", "would not start"}},
		{"a mount outside", "docker run --runtime nanoclaw -v /opt/x:/w image", false, []string{"refused: nanoclaw refused the mount", "/home:rw, /srv/data:ro", "policy.yaml:4"}},
		{"a mount for writing", "docker run --runtime nanoclaw -v /srv/data:/w image", false, []string{"gives read-only"}},
		{"the socket", "docker run --runtime nanoclaw -v /var/run/docker.sock:/s image", false, []string{"mounts.refuse"}},
		{"above the ceiling", "docker run --runtime nanoclaw --cpus 9 image", false, []string{"--cpus 9", "ceiling of this host is 8", "policy.yaml:6"}},
		{"a flag below", "docker run --runtime nanoclaw --cpus 2 -m 1g image", true, []string{"limits.cpus", "flag", "--cpus", "--memory"}},
		{"host's namespace", "docker run --runtime nanoclaw --pid host image", false, []string{"--pid host"}},
		{"another's namespace", "docker run --runtime nanoclaw --ipc container:x image", false, []string{"--ipc container"}},
		{"another's network", "docker run --runtime nanoclaw --network container:x image", true, nil},
		{"a device", "docker run --runtime nanoclaw --device /dev/fuse image", false, []string{"--device"}},
		{"gpus", "docker run --runtime nanoclaw --gpus all image", false, []string{"--gpus"}},
		{"privileged", "docker run --runtime nanoclaw --privileged image", true, nil},
		{"another runtime", "docker run image", true, []string{"does not say --runtime=nanoclaw"}},
		{"a label", "docker run --runtime nanoclaw -l io.nanoclaw.agent=x image", true, []string{"labels are not read"}},
		{"a source that is not there", "docker run --runtime nanoclaw -v /unknown:/w image", true, []string{"could not be judged"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := explain(t, annotations.Everything, strings.Fields(c.line)...)
			var b bytes.Buffer
			if err := x.Write(&b); err != nil {
				t.Fatal(err)
			}
			if x.OK() != c.ok {
				t.Errorf("OK is %v:\n%s", x.OK(), b.String())
			}
			for _, words := range c.want {
				if !strings.Contains(b.String(), words) {
					t.Errorf("lacks %q:\n%s", words, b.String())
				}
			}
			b.Reset()
			if err := x.WriteJSON(&b); err != nil || !json.Valid(b.Bytes()) {
				t.Errorf("json: %v", err)
			}
			for _, r := range x.Rules {
				if r.Layer == "" || r.Rule == "" {
					t.Errorf("a rule without a layer: %+v", r)
				}
			}
		})
	}
}

func TestWhatIsNotEnforcedIsSaid(t *testing.T) {
	x := explain(t, nil, "run", "--runtime", "nanoclaw", "--annotation", "io.nanoclaw.agent=sales-agent", "image")
	if x.OK() || !strings.Contains(strings.Join(x.Refused, "\n"), "needs exec") || !strings.Contains(strings.Join(x.Refused, "\n"), "needs network") {
		t.Errorf("%q", x.Refused)
	}
}

func TestSecretsAreLookedAt(t *testing.T) {
	for _, c := range []struct {
		err     error
		refused bool
		note    string
	}{
		{nil, false, ""},
		{&annotations.Refusal{Rule: "secret CRM_TOKEN", Why: "it is missing"}, true, ""},
		{os.ErrPermission, false, "the secret CRM_TOKEN could not be looked at"},
	} {
		asked := 0
		x := New(Input{
			Request: request(t, "run", "--runtime", "nanoclaw", "--annotation", "io.nanoclaw.agent=sales-agent", "image"),
			Host:    file(t), Enforced: annotations.Everything, Resolve: asCalled,
			Available: func(_ *annotations.Policy, s annotations.Secret) error {
				asked++
				return c.err
			},
		})
		if asked == 0 || x.OK() == c.refused || !strings.Contains(strings.Join(x.Notes, "\n"), c.note) {
			t.Errorf("%v: asked %d times; %+v", c.err, asked, x)
		}
	}
}

func TestRunning(t *testing.T) {
	p, err := annotations.ForAgent(file(t), "support-agent")
	if err != nil {
		t.Fatal(err)
	}
	p.Container = "c1"
	var b bytes.Buffer
	if err := Running(p).Write(&b); err != nil || !strings.Contains(b.String(), "the container c1, which runs") || !strings.Contains(b.String(), "policy.yaml:30") {
		t.Errorf("%v:\n%s", err, b.String())
	}
}

func FuzzDocker(f *testing.F) {
	f.Add("docker run -it --rm -v /a:/b:ro --mount type=bind,src=/a,dst=/b image sh -c x")
	f.Add("run --cpus 0.5 -m 1g --network container:x --gpus all i")
	f.Fuzz(func(t *testing.T, line string) {
		r, err := Docker(strings.Fields(line))
		if err != nil {
			return
		}
		New(Input{Request: r, Resolve: asCalled})
	})
}
