package annotations

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// Digest identifies what the policy says: the SHA-256, in hexadecimal, of its
// JSON form without where each rule came from and without what differs from one
// container to the next. A comment added to the policy file does not change it.
func (p *Policy) Digest() string {
	q := *p
	q.sameContainer(&Policy{Mounts: Mounts{Refuse: p.Mounts.Refuse}, Privileged: p.Privileged})
	if p.Firm != nil {
		firm := *p.Firm
		firm.sameContainer(&q)
		q.Firm = &firm
	}
	b, err := json.Marshal(&q)
	var tree any
	if err == nil {
		err = json.Unmarshal(b, &tree)
	}
	if err == nil {
		// Objects are encoded with sorted keys.
		b, err = json.Marshal(withoutOrigins(tree))
	}
	if err != nil {
		// Strings, numbers and booleans only: it cannot fail.
		panic(fmt.Sprintf("encode policy: %v", err))
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func withoutOrigins(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = withoutOrigins(v[i])
		}
	case map[string]any:
		for _, k := range []string{"layer", "where", "from"} {
			delete(v, k)
		}
		for k := range v {
			v[k] = withoutOrigins(v[k])
		}
	}
	return v
}
