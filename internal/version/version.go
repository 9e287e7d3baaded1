// Package version is the project's version, for every program of it.
package version

// Version is the project's.
const Version = "0.1.0"
