package egress

import (
	"strconv"
	"testing"
)

func TestNamesHaveAddresses(t *testing.T) {
	n := newNames()
	a, b := n.address("a"), n.address("b")
	if a == b || !Pool.Contains(a) || n.address("a") != a {
		t.Fatalf("a has %s, b has %s", a, b)
	}
	if name, ok := n.name(a); !ok || name != "a" {
		t.Errorf("%s is of %q, %v", a, name, ok)
	}
	if name, ok := n.name(poolAddress(7)); ok {
		t.Errorf("an address that nobody was told is of %q", name)
	}
}

func TestNamesAreBounded(t *testing.T) {
	n := newNames()
	first, second := n.address("first"), n.address("second")
	for i := range maxNames - 2 {
		n.address(strconv.Itoa(i))
	}
	if _, ok := n.name(first); !ok {
		t.Fatal("an address was taken away early")
	}
	// first was used just now, so it is second's turn.
	if got := n.address("one more"); got != second {
		t.Errorf("the new name has %s, not %s", got, second)
	}
	if name, _ := n.name(second); name != "one more" {
		t.Errorf("%s is of %s", second, name)
	}
	if n.used.Len() != maxNames || len(n.byName) != maxNames || len(n.byAddr) != maxNames {
		t.Errorf("%d names, %d by name, %d by address", n.used.Len(), len(n.byName), len(n.byAddr))
	}
	if !Pool.Contains(poolAddress(maxNames - 1)) {
		t.Error("the pool is too small")
	}
}
