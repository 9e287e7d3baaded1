// Command remote runs commands in the machine of test/kvm. "remote serve" is its
// end inside; "remote run" is what test/kvm/enter becomes.
//
// It is a tool of the tests: whoever reaches the server's address is root in
// the machine. That address is in a network namespace which only root enters.
package main

import (
	"fmt"
	"log"
	"os"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("remote: ")
	switch {
	case len(os.Args) == 3 && os.Args[1] == "serve":
		log.Fatal(serve(os.Args[2]))
	case len(os.Args) >= 5 && os.Args[1] == "run":
		code, err := run(os.Args[2], os.Args[3], os.Args[4:])
		if err != nil {
			log.Print(err)
		}
		os.Exit(code)
	default:
		fmt.Fprintln(os.Stderr, "usage: remote serve ADDRESS | remote run ADDRESS FOLDER COMMAND ARGS…")
		os.Exit(2)
	}
}
