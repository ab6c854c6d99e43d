package wasm

/*
#include <signal.h>
#include <string.h>
#include <unistd.h>

static void die(int sig) { _exit(128 + sig); }

static int die_on(int sig) {
	struct sigaction sa;
	memset(&sa, 0, sizeof sa);
	sa.sa_handler = die;
	sa.sa_flags = SA_ONSTACK;
	return sigaction(sig, &sa, NULL);
}
*/
import "C"

import "golang.org/x/sys/unix"

// dieOnSignals makes the signals that ask a program to end do so. The first process of a pid namespace would ignore
// them. It is C, because a guest that computes leaves Go no moment to handle anything.
func dieOnSignals() {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM} {
		C.die_on(C.int(sig))
	}
}
