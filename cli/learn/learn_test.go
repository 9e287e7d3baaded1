package learn

import (
	"strings"
	"testing"
	"time"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/audit"
)

func exec(decision, would audit.Decision, exe string, argv ...string) *audit.Record {
	return &audit.Record{Agent: "sales", Entry: audit.Entry{
		Event: audit.Exec, Decision: decision, Would: would, Subject: &audit.Subject{Exe: exe, Argv: argv},
	}}
}

func mount(decision audit.Decision, destination, access string) *audit.Record {
	return &audit.Record{Agent: "sales", Entry: audit.Entry{
		Event: audit.Mount, Decision: decision, Object: &audit.Object{Source: "/srv/x", Destination: destination, Access: access},
	}}
}

func connection(host string, port uint16) *audit.Record {
	return &audit.Record{Agent: "sales", Entry: audit.Entry{
		Event: audit.Network, Decision: audit.Allow, Object: &audit.Object{Host: host, Port: port},
	}}
}

// entry parses what was learned as a policy file, and returns its one agent's
// policy.
func entry(t *testing.T, records ...*audit.Record) (*annotations.Policy, string) {
	t.Helper()
	var e Entry
	for _, r := range records {
		e.Add(r)
	}
	text := e.YAML("sales")
	file, err := annotations.ParseFile("learned", []byte("version: 1\nagents:\n"+text))
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	p, err := annotations.ForAgent(file, "sales")
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return p, text
}

func TestLearnedEntryAllowsWhatWasSeenAndNoMore(t *testing.T) {
	p, text := entry(t,
		exec(audit.Allow, "", "/usr/bin/python3"),
		exec("", audit.Deny, "/usr/bin/git"), // audit mode
		exec(audit.Deny, "", "/usr/bin/nc"),
		&audit.Record{Agent: "sales", Entry: audit.Entry{
			Event: audit.Exec, Decision: audit.Allow, Would: audit.Deny,
			Subject: &audit.Subject{Exe: "sh"}, Object: &audit.Object{Path: "/usr/bin/curl"},
		}},
		exec(audit.Allow, "", "", "/bin/sh", "-c", "x"),
		exec(audit.Allow, "", "", "ls"),
		mount(audit.Allow, "/data", "ro"), mount(audit.Allow, "/work", "ro"), mount(audit.Allow, "/work", "rw"),
		mount(audit.Allow, "/etc/hosts", "rw"), mount(audit.Deny, "/s", "rw"),
		connection("crm.example.com", 443), connection("192.0.2.1", 0), connection("2001:db8::1", 53),
	)
	for query, want := range map[string]annotations.Decision{
		"exec /usr/bin/python3":       annotations.DecisionAllow,
		"exec /usr/bin/git":           annotations.DecisionAllow,
		"exec /bin/sh":                annotations.DecisionAllow,
		"exec /usr/bin/curl":          annotations.DecisionAllow,
		"exec /usr/bin/nc":            annotations.DecisionDeny,
		"exec /bin/ls":                annotations.DecisionDeny,
		"mount /srv/x:/data:ro":       annotations.DecisionAllow,
		"mount /srv/x:/data":          annotations.DecisionDeny,
		"mount /srv/x:/work":          annotations.DecisionAllow,
		"mount /srv/x:/s":             annotations.DecisionDeny,
		"network crm.example.com:443": annotations.DecisionAllow,
		"network crm.example.com:80":  annotations.DecisionDeny,
		"network 192.0.2.1:22":        annotations.DecisionAllow,
		"network [2001:db8::1]:53":    annotations.DecisionAllow,
		"network example.org:443":     annotations.DecisionDeny,
	} {
		q, err := annotations.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Decide(q); got.Decision != want {
			t.Errorf("%s: %s (%s), want %s", query, got.Decision, got.Rule, want)
		}
	}
	for _, comment := range []string{"was denied, and still is: exec /usr/bin/nc", "was denied, and still is: mount /srv/x -> /s", "by hand: exec ls"} {
		if !strings.Contains(text, comment) {
			t.Errorf("nothing is said of %q:\n%s", comment, text)
		}
	}
}

// What the network's rules would have denied in the mode audit.
func TestEndpointsOfTheModeAudit(t *testing.T) {
	seen := func(protocol, host string, port uint16) *audit.Record {
		return &audit.Record{Agent: "sales", Entry: audit.Entry{
			Event: audit.Network, Decision: audit.Allow, Would: audit.Deny, Object: &audit.Object{Host: host, Port: port, Protocol: protocol},
		}}
	}
	p, text := entry(t,
		seen("dns", "crm.example.com", 0), seen("tcp", "crm.example.com", 443), seen("dns", "192.0.2.53", 53),
		seen("dns", "only.example.com", 0), seen("udp", "time.example.com", 123), seen("icmp", "192.0.2.1", 0),
	)
	for query, want := range map[string]annotations.Decision{
		"network crm.example.com:443": annotations.DecisionAllow,
		// The look-up has no port, and opens none.
		"network crm.example.com:80":   annotations.DecisionDeny,
		"network only.example.com:443": annotations.DecisionDeny,
		"network time.example.com:123": annotations.DecisionDeny,
		"network 192.0.2.53:53":        annotations.DecisionAllow,
	} {
		q, err := annotations.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Decide(q); got.Decision != want {
			t.Errorf("%s: %s (%s), want %s", query, got.Decision, got.Rule, want)
		}
	}
	for _, comment := range []string{
		"looked up and not connected to: only.example.com\n", "by hand: network udp time.example.com:123 (", "by hand: network icmp 192.0.2.1 (",
	} {
		if !strings.Contains(text, comment) {
			t.Errorf("nothing is said of %q:\n%s", comment, text)
		}
	}
	if strings.Contains(text, "connected to: crm") {
		t.Errorf("it was connected to:\n%s", text)
	}
}

// A guest that calls a host or a program by a pattern's name widens nothing.
func TestPatternsAreNotLearned(t *testing.T) {
	p, text := entry(t,
		connection("private", 1), connection("10.0.0.0/8", 1), connection("**", 1), connection("*.com", 0),
		connection("known.example.com", 443),
		exec(audit.Allow, "", "/**"), exec(audit.Allow, "", "/bin/*"), exec(audit.Allow, "", "/bin/true"),
		mount(audit.Allow, "/a,/b", "ro"), mount(audit.Allow, "/*", "rw"),
	)
	for _, query := range []string{"network 10.1.1.1:1", "network example.com:1", "exec /bin/sh", "mount /srv/x:/b:ro", "mount /srv/x:/w"} {
		q, err := annotations.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Decide(q); got.Decision != annotations.DecisionDeny {
			t.Errorf("%s: %s:\n%s", query, got.Decision, text)
		}
	}
}

func TestNothingIsLearnedFromNothing(t *testing.T) {
	p, text := entry(t)
	if p.Exec.Mode != annotations.ExecAny || p.Network.Mode != annotations.NetworkOpen {
		t.Errorf("what is not on record is forbidden:\n%s", text)
	}
}

func TestAgent(t *testing.T) {
	var e Entry
	if e.Agent() != "" {
		t.Error("an agent of no records")
	}
	e.Add(exec(audit.Allow, "", "/bin/sh"))
	if e.Agent() != "sales" || e.Records() != 1 {
		t.Errorf("%q, %d", e.Agent(), e.Records())
	}
	e.Add(&audit.Record{Agent: "support"})
	if e.Agent() != "" {
		t.Error("one agent of two")
	}
}

// Whatever a guest had its programs and hosts called, the entry is one, and
// names nothing that was not seen.
func FuzzLearn(f *testing.F) {
	f.Add("/bin/sh", "/w", "h.example.com")
	f.Add("/bin/*", "/w: ro", "*.com")
	f.Add("/a\\x0a- name: evil", "/a,b", "h:1\\x0a")
	f.Add(`/"`, "/#", "#")
	f.Fuzz(func(t *testing.T, exe, destination, host string) {
		id := audit.Identity{Agent: "sales"}
		var e Entry
		for _, entry := range []audit.Entry{
			{Event: audit.Exec, Decision: audit.Allow, Subject: &audit.Subject{Exe: exe}},
			{Event: audit.Exec, Decision: audit.Deny, Subject: &audit.Subject{Exe: exe + "x"}},
			{Event: audit.Mount, Decision: audit.Allow, Object: &audit.Object{Destination: destination, Access: "ro"}},
			{Event: audit.Network, Decision: audit.Allow, Object: &audit.Object{Host: host, Port: 1}},
			{Event: audit.Network, Decision: audit.Allow, Object: &audit.Object{Host: host, Protocol: "dns"}},
			{Event: audit.Network, Decision: audit.Allow, Object: &audit.Object{Host: host, Protocol: "udp"}},
		} {
			r := audit.NewRecord(time.Now(), id, entry)
			e.Add(&r)
		}
		text := e.YAML("sales")
		file, err := annotations.ParseFile("learned", []byte("version: 1\nagents:\n"+text))
		if err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
		if len(file.Agents) != 1 {
			t.Fatalf("%d agents:\n%s", len(file.Agents), text)
		}
	})
}
