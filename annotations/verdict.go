package annotations

// Decision is what becomes of an attempt.
type Decision string

// The decisions, from the widest to the narrowest.
const (
	DecisionAllow Decision = "allow"
	// DecisionAsk lets a person decide. Nobody there, or too late: deny.
	DecisionAsk  Decision = "ask"
	DecisionDeny Decision = "deny"
	// DecisionPartly is no decision about one attempt: of several, some would
	// be decided otherwise than others.
	DecisionPartly Decision = "partly"
)

var decisions = []Decision{DecisionAllow, DecisionAsk, DecisionDeny}

// Verdict is a decision about one attempt, and the rule that made it.
type Verdict struct {
	Decision Decision `json:"decision"`
	Rule     string   `json:"rule"`
	Origin
	// Why says more, where the rule does not say it all.
	Why string `json:"why,omitempty"`
	// Depends is set where the decision could be stricter, or a denial
	// laxer, by what is only known in the container.
	Depends string `json:"depends,omitempty"`
}

func (v *Verdict) depends(on bool, what string) {
	if on && v.Depends == "" {
		v.Depends = what
	}
}

func (v Verdict) closedTool(tool string) Verdict {
	if tool != "" {
		v.Why = "it belongs to the tool " + tool + ", which is not granted"
	}
	return v
}
