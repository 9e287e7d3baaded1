package execgate

//go:generate go tool bpf2go -target bpfel -cc clang -cflags "-O2 -g -Wall -Werror" -type scope -type label -type argset -type arg_rule -type word -type event -type scope_flag -type label_bit -type kind -type decision -go-package execgate gate bpf/gate.bpf.c -- -I/usr/include/x86_64-linux-gnu
