// Ends in the way that its argument names: what a compiler of C makes of it is a trap, or an exit.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile int zero;
static char *volatile held; // what nobody looks at would be compiled away

static int deep(int n) {
	volatile char frame[4096];
	frame[n % sizeof frame] = (char)n;
	return deep(n + 1) + frame[0];
}

int main(int argc, char **argv) {
	const char *how = argc > 1 ? argv[1] : "";
	puts("ready");
	fflush(stdout);
	if (!strcmp(how, "unreachable"))
		__builtin_trap();
	if (!strcmp(how, "divide"))
		return argc * 1000 / zero;
	if (!strcmp(how, "stack"))
		return deep(0);
	if (!strcmp(how, "bounds"))
		return *(volatile int *)0xfffffff0;
	if (!strcmp(how, "abort"))
		abort();
	if (!strcmp(how, "hog")) { // until there is no more
		size_t mib = 0;
		while ((held = malloc(1 << 20))) {
			memset(held, 1, 1 << 20);
			mib++;
		}
		printf("%zu MiB, then refused\n", mib);
		return 0;
	}
	if (argc > 2 && !strcmp(how, "exit"))
		_Exit((int)strtoul(argv[2], NULL, 0));
	return 99;
}
