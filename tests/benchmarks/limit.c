/*
 * The physical limit: what a plain C loop needs for the same columns, doing what one lane does with them (policy eager: write
 * tracking is enabled from the start, so each memslot has its array).
 *
 * Reads the file that c_limit.py wrote: how many rows and calls there are, the calls, then the columns of the rows. Calls say
 * before which row they happen and what userspace asked for; memslot tables are kept here, by VM and address space. For each row
 * the memslot is looked up, and its counter moves or is read. Not done: what external users hold for themselves, and saying which
 * row it was; only how many. Prints hits, changes without a memslot, warnings, bytes of write tracking now and at most, and the
 * nanoseconds a row of the fastest of some passes.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

enum { CREATE_VM, SET_MEMSLOT, DESTROY_VM };
enum { ADD = 64, REMOVE, QUERY, GUEST_WRITE, ACCOUNT, UNACCOUNT };
enum { VMS_MAX = 256, SPACES = 2, SLOTS_MAX = 32764 };

struct call {
	uint64_t row, base_gfn, npages; /* CREATE_VM: npages is the number of address spaces, base_gfn whether reads look into both */
	uint32_t op, vm, as_id, id;
};

struct slot {
	uint64_t base_gfn, end_gfn;
	uint16_t *counts;
	uint32_t id;
};

struct space {
	unsigned int used;
	struct slot slots[SLOTS_MAX]; /* by first gfn */
};

struct vm {
	uint64_t nas, reads_both;
	struct space spaces[SPACES];
};

static struct vm *vms[VMS_MAX];
static uint64_t hits, without_slot, warnings, bytes_now, bytes_peak;

static double cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

/* Return the place behind the last memslot that begins at or before a gfn. */
static unsigned int place_of(struct space *space, uint64_t gfn)
{
	unsigned int low = 0, high = space->used;

	while (low < high) {
		unsigned int middle = (low + high) / 2;

		if (space->slots[middle].base_gfn <= gfn)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static uint16_t *counter(struct space *space, uint64_t gfn)
{
	unsigned int place = place_of(space, gfn);
	struct slot *slot = space->slots + place - 1;

	return place && gfn < slot->end_gfn ? slot->counts + (gfn - slot->base_gfn) : NULL;
}

static void drop(struct space *space, unsigned int place)
{
	struct slot *slot = space->slots + place;

	bytes_now -= 2 * (slot->end_gfn - slot->base_gfn);
	free(slot->counts);
	memmove(slot, slot + 1, (--space->used - place) * sizeof(*slot));
}

static void create(struct space *space, const struct call *call)
{
	unsigned int place = place_of(space, call->base_gfn);
	struct slot *slot = space->slots + place;

	memmove(slot + 1, slot, (space->used++ - place) * sizeof(*slot));
	*slot = (struct slot){ call->base_gfn, call->base_gfn + call->npages, calloc(call->npages, 2), call->id };
	if (!slot->counts)
		abort();
}

static void set_memslot(struct vm *vm, const struct call *call)
{
	struct space *space = vm->spaces + call->as_id;
	unsigned int place;

	for (place = 0; place < space->used; place++)
		if (space->slots[place].id == call->id)
			break;
	if (place < space->used && call->npages && space->slots[place].base_gfn == call->base_gfn)
		return; /* flags */
	if (call->npages) { /* of a memslot that moves the new array is there before the old one goes */
		bytes_now += 2 * call->npages;
		if (bytes_now > bytes_peak)
			bytes_peak = bytes_now;
	}
	if (place < space->used)
		drop(space, place);
	if (call->npages)
		create(space, call);
}

static void destroy(struct vm *vm)
{
	for (unsigned int as_id = 0; as_id < vm->nas; as_id++)
		while (vm->spaces[as_id].used)
			drop(vm->spaces + as_id, vm->spaces[as_id].used - 1);
}

static void apply(const struct call *call)
{
	switch (call->op) {
	case CREATE_VM:
		vms[call->vm] = calloc(1, sizeof(struct vm));
		vms[call->vm]->nas = call->npages;
		vms[call->vm]->reads_both = call->base_gfn;
		break;
	case SET_MEMSLOT:
		set_memslot(vms[call->vm], call);
		break;
	case DESTROY_VM:
		destroy(vms[call->vm]);
		break;
	}
}

static void change(uint16_t *count, int delta)
{
	if (!count)
		without_slot++;
	else if (*count == (delta > 0 ? UINT16_MAX : 0))
		warnings++;
	else
		*count += delta;
}

/* Tell whether a gfn is tracked; reads that look into both address spaces need the memslot in their own. */
static int tracked(struct vm *vm, unsigned int as_id, uint64_t gfn)
{
	uint16_t *count = counter(vm->spaces + as_id, gfn);

	if (!count || *count || !vm->reads_both)
		return count && *count;
	count = counter(vm->spaces + !as_id, gfn);
	return count && *count;
}

int main(int argc, char **argv)
{
	int fd = open(argv[1], O_RDONLY), passes = atoi(argv[argc - 1]);
	struct stat file;
	double best = 1e30;

	if (fd < 0 || fstat(fd, &file))
		return 1;
	uint64_t *map = mmap(0, file.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	if (map == MAP_FAILED)
		return 1;
	uint64_t n = map[0], calls = map[1];
	struct call *call_at = (struct call *)(map + 2);
	uint32_t *gfn = (uint32_t *)(call_at + calls);
	uint8_t *kind = (uint8_t *)(gfn + n), *vm = kind + n, *as = vm + n, *level = as + n;

	for (int pass = 0; pass < passes; pass++) {
		double start = cpu_ns();
		uint64_t row = 0;

		hits = without_slot = warnings = bytes_now = bytes_peak = 0;
		for (uint64_t next = 0; next <= calls; next++) {
			uint64_t end = next < calls ? call_at[next].row : n;

			for (; row < end; row++) {
				struct vm *of = vms[vm[row]];
				unsigned int as_id = as[row] < of->nas ? as[row] : of->nas - 1;

				switch (kind[row]) {
				case ADD: /* external users track in address space 0 only */
					change(counter(of->spaces, gfn[row]), 1);
					break;
				case REMOVE:
					change(counter(of->spaces, gfn[row]), -1);
					break;
				case QUERY:
				case GUEST_WRITE:
					hits += tracked(of, as_id, gfn[row]);
					break;
				case ACCOUNT:
				case UNACCOUNT: { /* shadow pages of level 1 need a memslot, and count nothing */
					uint16_t *count = counter(of->spaces + as_id, gfn[row]);

					if (!count || level[row] > 1)
						change(count, kind[row] == ACCOUNT ? 1 : -1);
					break;
				}
				}
			}
			if (next < calls)
				apply(call_at + next);
		}
		if (cpu_ns() - start < best)
			best = cpu_ns() - start;
		if (pass < passes - 1)
			for (unsigned int number = 0; number < VMS_MAX; number++)
				if (vms[number]) {
					destroy(vms[number]);
					free(vms[number]);
					vms[number] = NULL;
				}
	}
	printf("%lu %lu %lu %lu %lu %.3f\n", hits, without_slot, warnings, bytes_now, bytes_peak, best / n);
	return 0;
}
