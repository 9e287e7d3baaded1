package uptime

import "testing"

func TestTheProgramBeganBeforeNow(t *testing.T) {
	if began, now := Began(), Now(); began <= 0 || now < began {
		t.Errorf("began at %s, now %s", began, now)
	}
}
