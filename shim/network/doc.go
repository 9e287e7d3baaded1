// Package network joins a VM to the network namespace that the container's
// manager made for it: the "bridged" mode, in which Ethernet frames pass
// unchanged between the namespace's interfaces and the VM's.
//
// Docker goes on owning the namespace: its addresses, routes and resolver stay
// where they are, and it may connect and disconnect networks while the
// container runs. This package reads what Docker did and never changes it. It
// adds taps and one nftables table of its own, "netdev nanoclaw", and touches
// no other table: Docker's resolver lives in one.
//
// What it promises for security: the guest's frames can leave only by the
// interface that its tap is bound to, and are never delivered to the
// namespace's own network stack. Into that stack come only ARP and neighbour
// replies, and packets of connections that a process in the namespace itself
// opened, which in practice is the manager's resolver asking upstream.
//
// What it does not promise: it filters nothing that runc would let through. A
// guest may send any frame by its interface, as a container with CAP_NET_RAW
// may. Rules about destinations need the gateway mode, which is another
// package's.
package network
