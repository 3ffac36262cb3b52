/*
 * The physical limit: what a plain C loop needs for the same columns, with one dense array of u16 for each address space.
 * Reads the columns (op, space, gfn) that run.py wrote, and prints hits, warnings and the nanoseconds an event of the fastest
 * of some passes. op: 0 remove, 1 read, 2 add, 3 nothing (no memslot), 4 zero a range: gfn = first page, two records, the
 * second one's gfn = pages.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static double cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(int argc, char **argv)
{
	size_t n = strtoull(argv[2], 0, 10), pages = strtoull(argv[3], 0, 10), spaces = strtoull(argv[4], 0, 10);
	size_t passes = strtoull(argv[5], 0, 10), size = 6 * n, i, pass;
	int fd = open(argv[1], O_RDONLY);
	uint8_t *map = mmap(0, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	uint32_t *gfn = (uint32_t *)map;
	uint8_t *op = map + 4 * n, *space = op + n;
	double best = 1e30;
	uint64_t hits = 0, warns = 0;

	if (map == MAP_FAILED)
		return 1;
	for (pass = 0; pass < passes; pass++) {
		uint16_t *cells = mmap(0, 2 * pages * spaces, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		double start = cpu_ns();

		hits = warns = 0;
		for (i = 0; i < n; i++) {
			uint16_t *cell = cells + pages * space[i] + gfn[i];

			switch (op[i]) {
			case 0:
				if (*cell)
					--*cell;
				else
					warns++;
				break;
			case 1:
				hits += *cell != 0;
				break;
			case 2:
				if (*cell != 65535)
					++*cell;
				else
					warns++;
				break;
			case 4:
				memset(cell, 0, 2 * (size_t)gfn[i + 1]);
				i++;
				break;
			}
		}
		if (cpu_ns() - start < best)
			best = cpu_ns() - start;
		munmap(cells, 2 * pages * spaces);
	}
	printf("%lu %lu %.3f\n", hits, warns, best / n);
	return 0;
}
