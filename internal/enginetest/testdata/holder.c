// holder WHAT [SOCKET]: holds on to a lock on /root/lock, a TCP connection with itself, or one to a datagram socket, and
// counts. With tcp each number passes through the connection; with unix each number is sent.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void check(int result, const char *what) {
	if (result < 0) {
		perror(what);
		exit(1);
	}
}

int main(int argc, char **argv) {
	int in = -1, out = -1;
	if (argc > 1 && !strcmp(argv[1], "lock")) {
		int fd = open("/root/lock", O_RDWR | O_CREAT, 0600);
		check(flock(fd, LOCK_EX | LOCK_NB), "flock");
	}
	if (argc > 1 && !strcmp(argv[1], "tcp")) {
		struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(9000), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		int listener = socket(AF_INET, SOCK_STREAM, 0);
		check(bind(listener, (struct sockaddr *)&a, sizeof a), "bind");
		check(listen(listener, 1), "listen");
		out = socket(AF_INET, SOCK_STREAM, 0);
		check(connect(out, (struct sockaddr *)&a, sizeof a), "connect");
		check(in = accept(listener, NULL, NULL), "accept");
	}
	if (argc > 2 && !strcmp(argv[1], "unix")) {
		struct sockaddr_un a = {.sun_family = AF_UNIX};
		strncpy(a.sun_path, argv[2], sizeof a.sun_path - 1);
		out = socket(AF_UNIX, SOCK_DGRAM, 0);
		check(connect(out, (struct sockaddr *)&a, sizeof a), "connect");
	}
	for (int i = 1;; i++) {
		if (out >= 0 && in < 0)
			check(send(out, &i, sizeof i, MSG_DONTWAIT) < 0 && errno != EAGAIN ? -1 : 0, "send");
		if (in >= 0) {
			check(write(out, &i, sizeof i), "write");
			check(recv(in, &i, sizeof i, MSG_WAITALL), "read");
		}
		dprintf(1, "%d\n", i);
		usleep(20000);
	}
}
