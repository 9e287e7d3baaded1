package annotations

import "slices"

// ForGuest returns what the guest has to know of the policy to enforce its part:
// rules about programs, destinations and hidden paths, and where each came from,
// for messages. What is decided on the host stays there: where its folders are,
// what is in them, and where it keeps secrets.
func (p *Policy) ForGuest() *Policy {
	q := *p
	q.Mounts = Mounts{Refuse: []Place{}, Allow: slices.Clone(p.Mounts.Allow), Readonly: slices.Clone(p.Mounts.Readonly), Hide: slices.Clone(p.Mounts.Hide)}
	q.Network.Namespace = ""
	q.Secrets = slices.Clone(p.Secrets)
	for i := range q.Secrets {
		q.Secrets[i].Source = ""
	}
	if p.Firm != nil {
		q.Firm = p.Firm.ForGuest()
	}
	return &q
}
