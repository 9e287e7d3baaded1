package audit

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

func ptr[T any](v T) *T { return &v }

func TestLine(t *testing.T) {
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for want, r := range map[string]Record{
		"0123456789ab  sales           mount      deny        /var/run/docker.sock (/run/docker.sock) -> /s rw rule \"mounts.refuse docker.sock\" of the baseline – a socket": {
			Container: "0123456789abcdef", Agent: "sales", Entry: Entry{
				Event: Mount, Decision: Deny, Rule: "mounts.refuse docker.sock",
				Object: &Object{Source: "/var/run/docker.sock", Path: "/run/docker.sock", Destination: "/s", Access: "rw", Layer: "baseline", Detail: "a socket"},
			}},
		"c             -               exec       would deny  /usr/bin/nc [nc -l] uid=0 pid=7 rule \"exec.deny\"": {
			Container: "c", Entry: Entry{
				Event: Exec, Would: Deny, Rule: "exec.deny",
				Subject: &Subject{Exe: "/usr/bin/nc", Argv: []string{"nc", "-l"}, UID: ptr(uint32(0)), PID: 7},
			}},
		"c             -               lifecycle  allow       create in qemu (emulation): no isolation mode=audit": {
			Container: "c", Entry: Entry{Event: Lifecycle, Decision: Allow, Object: &Object{
				Action: "create", Hypervisor: "qemu (emulation)", Emulated: true, Mode: "audit",
			}}},
		"c             -               lifecycle  -           exit status 0 out of memory": {
			Container: "c", Entry: Entry{Event: Lifecycle, Object: &Object{Action: "exit", Status: ptr(uint32(0)), OOM: true}}},
		"c             -               network    deny        GET crm.example.com:443/items": {
			Container: "c", Entry: Entry{Event: Network, Decision: Deny, Object: &Object{Method: "GET", Host: "crm.example.com", Port: 443, Path: "/items"}}},
		"-             -               log        -           rotate audit-1.jsonl": {
			Entry: Entry{Event: LogFile, Object: &Object{Action: ActionRotate, File: "audit-1.jsonl"}}},
		"c             -               approval   allow       approval 7F by root (once)": {
			Container: "c", Entry: Entry{Event: Approval, Decision: Allow, Approval: &Approved{ID: "7F", By: "root", Scope: "once"}}},
	} {
		r.Time = at
		if _, got, _ := strings.Cut(r.Line(), ".000  "); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestFilter(t *testing.T) {
	at := time.Now()
	deny := Record{Time: at, Container: "abcdef", Agent: "sales", Entry: Entry{Event: Exec, Decision: Deny}}
	allow := Record{Time: at, Container: "abcdef", Agent: "sales", Entry: Entry{Event: Exec, Decision: Allow}}
	died := Record{Time: at, Container: "fedcba", Agent: "support", Entry: Entry{Event: Boundary}}
	own := Record{Time: at, Entry: Entry{Event: Lost}}
	for name, c := range map[string]struct {
		f    Filter
		want [4]bool
	}{
		"all":        {Filter{}, [4]bool{true, true, true, true}},
		"container":  {Filter{Container: "abc"}, [4]bool{true, true, false, true}},
		"agent":      {Filter{Agent: "support"}, [4]bool{false, false, true, true}},
		"violations": {Filter{Violations: true}, [4]bool{true, false, true, false}},
		"events":     {Filter{Events: []Event{Boundary, Lost}}, [4]bool{false, false, true, true}},
		"since":      {Filter{Since: at.Add(time.Second)}, [4]bool{}},
	} {
		for i, r := range []*Record{&deny, &allow, &died, &own} {
			if got := c.f.Match(r); got != c.want[i] {
				t.Errorf("%s: record %d: %v, want %v", name, i, got, c.want[i])
			}
		}
	}
}

func TestEachGivesLinesAsTheyAre(t *testing.T) {
	l := newTestLog(t, Options{})
	mustAppend(t, l, event("a", 1), event("a", 2))
	want := content(t, l.o.Dir)
	n := 0
	if err := Each(l.o.Dir, func(r *Record) error {
		if string(r.JSON()) != want[n] {
			t.Errorf("%s, want %s", r.JSON(), want[n])
		}
		n++
		return nil
	}); err != nil || n != 3 {
		t.Errorf("%d records, %v", n, err)
	}
}

func TestViolations(t *testing.T) {
	l := newTestLog(t, Options{})
	mustAppend(t, l, event("a", 1), event("b", 2), event("a", 3), Record{Container: "b", Entry: Entry{Event: Exec, Decision: Allow}})
	got, err := Violations(l.o.Dir, time.Now().Add(-time.Hour))
	if err != nil || got["a"] != 2 || got["b"] != 1 {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := Violations(l.o.Dir, time.Now().Add(time.Hour)); err != nil || len(got) != 0 {
		t.Errorf("files that were finished before are read: %v, %v", got, err)
	}
}

// follow runs Follow and returns the PIDs of the subjects, as they come.
func follow(t *testing.T, dir string, last int) <-chan string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	seen := make(chan string, 1000)
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		if err := Follow(ctx, dir, last, func(r *Record) error {
			if r.Event == Exec {
				seen <- r.Subject.Argv[1]
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}()
	return seen
}

func mustSee(t *testing.T, seen <-chan string, want ...string) {
	t.Helper()
	for _, w := range want {
		select {
		case got := <-seen:
			if got != w {
				t.Fatalf("saw %s, want %s", got, w)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s was not seen", w)
		}
	}
}

func TestFollow(t *testing.T) {
	l := newTestLog(t, Options{Keep: 50})
	for n := range 4 {
		mustAppend(t, l, event("a", n))
	}
	seen := follow(t, l.o.Dir, 2)
	mustSee(t, seen, "2", "3")
	l.o.MaxSize = 1200
	for n := 4; n < 20; n++ { // several files on
		mustAppend(t, l, event("a", n))
	}
	mustSee(t, seen, "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19")
	mustAppend(t, l, event("a", 20))
	mustSee(t, seen, "20")
	// Another log in its place is followed too.
	l.Close()
	if err := os.Rename(l.o.Dir, l.o.Dir+".old"); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, event("a", 100))
	mustSee(t, seen, "100")
}

func TestFollowWaitsForALog(t *testing.T) {
	l := newTestLog(t, Options{})
	if err := os.Mkdir(l.o.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	seen := follow(t, l.o.Dir, 10)
	time.Sleep(2 * pollInterval)
	mustAppend(t, l, event("a", 1))
	mustSee(t, seen, "1")
}

func TestFollowEndsWithItsReader(t *testing.T) {
	l := newTestLog(t, Options{})
	mustAppend(t, l, event("a", 1))
	gone := errors.New("nobody reads")
	if err := Follow(context.Background(), l.o.Dir, 10, func(*Record) error { return gone }); !errors.Is(err, gone) {
		t.Errorf("%v", err)
	}
}
