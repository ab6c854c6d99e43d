// Runs the SQL of its second argument on the database file of its first, and prints what that answers.
#include <stdio.h>
#include "sqlite3-binding.h"

static int row(void *unused, int n, char **values, char **names) {
	(void)unused, (void)names;
	for (int i = 0; i < n; i++)
		printf("%s%s", i ? "|" : "", values[i] ? values[i] : "");
	putchar('\n');
	return 0;
}

int main(int argc, char **argv) {
	sqlite3 *db;
	char *error = NULL;
	if (argc != 3) {
		fprintf(stderr, "usage: sqlite DATABASE SQL\n");
		return 2;
	}
	if (sqlite3_open(argv[1], &db) || sqlite3_exec(db, argv[2], row, NULL, &error)) {
		fprintf(stderr, "sqlite: %s\n", error ? error : sqlite3_errmsg(db));
		return 1;
	}
	return sqlite3_close(db);
}
