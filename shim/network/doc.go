// Package network joins a VM to the network namespace that the container's
// manager made for it. In the "bridged" mode Ethernet frames pass unchanged
// between the namespace's interfaces and the VM's; in the "gateway" mode, for
// containers that have rules about the network, all that the guest sends is led
// to listeners of package egress in the namespace.
//
// Docker goes on owning the namespace: its addresses, routes and resolver stay
// where they are, and it may connect and disconnect networks while the
// container runs. This package reads what Docker did and never changes it. It
// adds taps and nftables tables of its own, "netdev nanoclaw" and, for a
// gateway, "inet nanoclaw", and touches no other table: Docker's resolver lives
// in one.
//
// What the bridged mode promises for security: the guest's frames can leave only by the
// interface that its tap is bound to, and are never delivered to the
// namespace's own network stack. Into that stack come only ARP and neighbour
// replies, and packets of connections that a process in the namespace itself
// opened, which in practice is the manager's resolver asking upstream.
//
// What it does not promise: it filters nothing that runc would let through. A
// guest may send any frame by its interface, as a container with CAP_NET_RAW
// may.
//
// What the gateway mode promises: of the guest's frames only plain IPv4 from the
// container's own addresses is looked at, from the tap's first moment on; none
// of it leaves the namespace or reaches anything in it but the listeners, and
// datagrams and echo requests where the gateway says that they pass. What a
// connection may lead to is not decided here.
package network
