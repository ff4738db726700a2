/* SPDX-License-Identifier: Apache-2.0
 *
 * What programs do with files of a share, each part timed: `share_work FOLDER`.
 * FOLDER/big is read; other files are made and removed. Prints "NAME SECONDS" lines.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 1 << 20, PAGE = 4096, READS = 512, WRITTEN_MIB = 32, FILES = 200 };

static char buffer[BLOCK];

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int checked(long result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
	return (int)result;
}

static void say(const char *name, double since)
{
	printf("%s %.6f\n", name, now() - since);
	fflush(stdout);
}

static void random_reads(const char *path)
{
	int fd = checked(open(path, O_RDONLY), path);
	off_t pages = lseek(fd, 0, SEEK_END) / PAGE;
	unsigned long seed = 1;
	double since = now();
	for (int i = 0; i < READS; i++) {
		seed = seed * 6364136223846793005ul + 1442695040888963407ul;
		checked(pread(fd, buffer, PAGE, (off_t)((seed >> 33) % (unsigned long)pages) * PAGE), path);
	}
	say("random-read", since);
	close(fd);
}

static void sequential(const char *folder, const char *path)
{
	char out[512];
	double since = now();
	int fd = checked(open(path, O_RDONLY), path);
	while (checked(read(fd, buffer, BLOCK), path) > 0)
		;
	close(fd);
	say("sequential-read", since);
	snprintf(out, sizeof out, "%s/written", folder);
	since = now();
	fd = checked(open(out, O_CREAT | O_TRUNC | O_WRONLY, 0600), out);
	for (int i = 0; i < WRITTEN_MIB; i++)
		checked(write(fd, buffer, BLOCK), out);
	checked(fsync(fd), out);
	close(fd);
	say("sequential-write", since);
	unlink(out);
}

static void small_files(const char *folder)
{
	static const char *const names[] = { "small-create", "small-read", "small-stat", "small-remove" };
	char path[512];
	struct stat info;
	for (int part = 0; part < 4; part++) {
		double since = now();
		for (int i = 0; i < FILES; i++) {
			int fd;
			snprintf(path, sizeof path, "%s/small-%d", folder, i);
			if (part == 0) {
				fd = checked(open(path, O_CREAT | O_EXCL | O_WRONLY, 0600), path);
				checked(write(fd, buffer, 1024), path);
				close(fd);
			} else if (part == 1) {
				fd = checked(open(path, O_RDONLY), path);
				checked(read(fd, buffer, BLOCK), path);
				close(fd);
			} else if (part == 2) {
				checked(stat(path, &info), path);
			} else {
				checked(unlink(path), path);
			}
		}
		say(names[part], since);
	}
}

int main(int count, char **arguments)
{
	char path[512];
	if (count != 2)
		return 2;
	snprintf(path, sizeof path, "%s/big", arguments[1]);
	random_reads(path);
	sequential(arguments[1], path);
	small_files(arguments[1]);
	return 0;
}
