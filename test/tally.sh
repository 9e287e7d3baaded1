# Counting the outcomes of "go test -v". Sourced by those who print "N passed, N failed, N skipped", from the clone's root;
# results is the folder for logs.
# shellcheck shell=bash disable=SC2154 # set by those who source it

passed=0 failed=0 skipped=0

# tally LOG counts the outcomes in the output of "go test -v". A package that
# did not compile, or ended outside a test, counts as one failure.
tally() {
	local log=$1
	passed=$((passed + $(grep -cE '^ *--- PASS' "$log")))
	skipped=$((skipped + $(grep -cE '^ *--- SKIP' "$log")))
	local tests broken
	tests=$(grep -cE '^ *--- FAIL' "$log")
	broken=$(grep -cE '^FAIL	.*(build failed|setup failed)|^panic: ' "$log")
	failed=$((failed + tests + broken))
	if [ $((tests + broken)) -gt 0 ]; then
		grep -vE '^ *(=== |--- PASS)|^(ok|PASS|\?)' "$log" | tail -n 200
	fi
}

# step NAME COMMAND… runs a part of the suite and counts it.
step() {
	local name=$1
	shift
	echo "test: $name" >&2
	"$@" >"$results/$name.log" 2>&1
	local status=$?
	local before=$failed
	tally "$results/$name.log"
	if [ "$status" -ne 0 ] && [ "$failed" -eq "$before" ]; then
		failed=$((failed + 1))
		tail -n 50 "$results/$name.log"
	fi
	grep -E '^ *--- SKIP' -A1 "$results/$name.log" | grep -vE '^--$' || true
}

# add LOG counts what a script that ends as this one's callers do has counted.
add() {
	if [[ $(tail -n 1 "$1") =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
		passed=$((passed + BASH_REMATCH[1]))
		failed=$((failed + BASH_REMATCH[2]))
		skipped=$((skipped + BASH_REMATCH[3]))
		sed '$d' "$1"
	else
		failed=$((failed + 1))
		cat "$1"
	fi
}
