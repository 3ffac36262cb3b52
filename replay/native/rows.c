/*
 * The scalar rule of replay/kvm/fold.py for what is usual, compiled: the same counters, row by row, in the same order.
 *
 * Optional: where it was not built, or a row is unusual, Python does the same. fold.py is the specification; whatever this loop is
 * not sure of it hands back (the row's number and LEFT_PYTHON), having changed nothing for that row. It keeps no state between
 * calls and allocates only what it returns. All places that it computes are held against the lengths of the arrays.
 *
 * Source of each kind's effect: replay/kvm/fold.py, page_track.py, mmu.py, lpages.py, with the kernel functions that they cite.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>

#define ROWS_API 5 /* what compiled.py expects; to be raised with any change of arguments or results */

enum { ADD = 64, REMOVE, QUERY, GUEST_WRITE, ACCOUNT, UNACCOUNT };
enum { LIVE, UNUSUAL }; /* state of a memslot's place */
enum { OFF = 1, TRACKS = 2, TWICE = 4 }; /* flags of an address space: see compiled.py */
enum { LEFT_NOTHING, LEFT_PYTHON, LEFT_LEAVES, LEFT_HELD_LEAVES, LEFT_COVER };
enum { SAID_OFF, SAID_NO_SLOT, SAID_UNDERFLOW, SAID_OVERFLOW, SAID_WARNINGS, SAID_EINVAL = SAID_WARNINGS, SAID_TRUE, SAID_KINDS };
enum { BLOCK = 128, CHUNKS = 64, PASSED_OVER = 254 }; /* index of VMs whose rows are not to be folded */
enum { LEAF_SHIFT = 7, NODE_SHIFT = 16, LEAF_MASK = 127, NODE_MASK = 511 };
enum { REGION_SHIFT = 9, CHUNK_SHIFT = 12, CHUNK_MASK = 4095 };

struct place { /* one memslot; compiled.py packs them by first gfn */
	uint64_t base_gfn, end_gfn;
	int64_t bias, state;
};

struct space { /* one address space, as rows of one VM and as_id find it */
	const struct place *places;
	const struct place *near;
	int64_t count, flags, first; /* first: number of its first memslot among those of all spaces */
	PyObject *archs;
};

struct facts { /* of one VM; moves in and out */
	int64_t pages, held_root, held_roots, warned, bugged;
};

struct table {
	Py_buffer cells, nodes, roots, homes, free_leaves, free_nodes;
	Py_ssize_t leaves, nodes_taken;
	int none_left; /* what is said when leaves or nodes run out */
};

struct chunk { /* moves of 8 GiB of one memslot, as it was found in this call */
	const struct place *place;
	int64_t number;
	Py_buffer view;
};

struct column {
	Py_buffer view;
	uint64_t number;
	int constant;
};

struct work {
	struct column kind, vm, as_id, gfn, level;
	struct table counts, held;
	struct space *spaces;
	struct facts *facts;
	struct chunk chunks[CHUNKS];
	uint64_t *digests; /* what is added to those of counters, by memslot, then to those of moves */
	int64_t slots;
	const uint8_t *vm_index; /* VM number to index, 256 of them */
	int64_t nvms, count_max;
	int depth;
	uint8_t *warned, *answered; /* a byte a row: see run_columns.py */
	uint8_t bits[SAID_KINDS]; /* of warnings, by what is said */
	int64_t tally[SAID_KINDS], adds, removes;
};

#define NAMED ((uint64_t)1 << 60) /* regions are told apart from gfns by it: lpage_moves.py */

static uint64_t mix(uint64_t gfn)
{
	gfn *= 0x9E3779B97F4A7C15u;
	gfn = (gfn ^ gfn >> 32) * 0xD6E8FEB86659FD93u;
	return gfn ^ gfn >> 29;
}

/* Columns. */

static int open_column(struct column *column, PyObject *from, Py_ssize_t rows)
{
	if (PyLong_Check(from)) {
		column->constant = 1;
		column->number = PyLong_AsUnsignedLongLong(from);
		return PyErr_Occurred() ? -1 : 0;
	}
	if (PyObject_GetBuffer(from, &column->view, PyBUF_SIMPLE))
		return -1;
	if (rows && column->view.len % rows == 0) {
		column->number = column->view.len / rows; /* bytes of an item */
		if (column->number == 1 || column->number == 2 || column->number == 4 || column->number == 8)
			return 0;
	}
	PyErr_SetString(PyExc_ValueError, "a column has another length than the others");
	return -1;
}

#define TAKE(type, into, convert)                                                   \
	do {                                                                        \
		const type *from = (const type *)column->view.buf + first;          \
		for (Py_ssize_t i = 0; i < n; i++) {                                \
			uint64_t value = from[i];                                   \
			into[i] = convert;                                          \
		}                                                                   \
	} while (0)

#define TAKE_ANY(into, convert)                                                     \
	do {                                                                        \
		if (column->constant) {                                             \
			uint64_t value = column->number;                            \
			for (Py_ssize_t i = 0; i < n; i++)                          \
				into[i] = convert;                                  \
		} else if (column->number == 1)                                     \
			TAKE(uint8_t, into, convert);                               \
		else if (column->number == 2)                                       \
			TAKE(uint16_t, into, convert);                              \
		else if (column->number == 4)                                       \
			TAKE(uint32_t, into, convert);                              \
		else                                                                \
			TAKE(uint64_t, into, convert);                              \
	} while (0)

static void take_wide(const struct column *column, Py_ssize_t first, Py_ssize_t n, uint64_t *into)
{
	TAKE_ANY(into, value);
}

static void take_bytes(const struct column *column, Py_ssize_t first, Py_ssize_t n, uint8_t *into)
{
	TAKE_ANY(into, (uint8_t)(value > 255 ? 255 : value));
}

static void take_above(const struct column *column, Py_ssize_t first, Py_ssize_t n, uint8_t *into, uint64_t limit)
{
	TAKE_ANY(into, value > limit);
}

/* Counters. */

static int open_array(Py_buffer *view, PyObject *from, Py_ssize_t item)
{
	if (PyObject_GetBuffer(from, view, PyBUF_WRITABLE))
		return -1;
	if (view->itemsize != item) {
		PyErr_SetString(PyExc_ValueError, "an array of counters has items of another size");
		return -1;
	}
	view->len /= item;
	return 0;
}

static int open_table(struct table *table, PyObject *from, Py_ssize_t cell, int none_left)
{
	Py_buffer *views[] = {&table->cells, &table->nodes, &table->roots, &table->homes, &table->free_leaves, &table->free_nodes};

	if (!PyTuple_Check(from) || PyTuple_GET_SIZE(from) != 6) {
		PyErr_SetString(PyExc_TypeError, "a table of counters is six arrays");
		return -1;
	}
	for (int i = 0; i < 6; i++)
		if (open_array(views[i], PyTuple_GET_ITEM(from, i), i ? 4 : cell))
			return -1;
	table->none_left = none_left;
	return 0;
}

static void close_table(struct table *table)
{
	PyBuffer_Release(&table->cells);
	PyBuffer_Release(&table->nodes);
	PyBuffer_Release(&table->roots);
	PyBuffer_Release(&table->homes);
	PyBuffer_Release(&table->free_leaves);
	PyBuffer_Release(&table->free_nodes);
}

static inline int64_t at32(const Py_buffer *array, int64_t place)
{
	return (uint64_t)place < (uint64_t)array->len ? ((const int32_t *)array->buf)[place] : -1;
}

/* Return the place in nodes where the leaf of a gfn is named; -1 when names lead out of the arrays. */
static inline int64_t home_of(const struct table *table, int64_t root, uint64_t gfn)
{
	int64_t node = at32(&table->roots, root);
	int64_t home = node + (int64_t)(gfn >> LEAF_SHIFT & NODE_MASK);
	return node >= 0 && (uint64_t)home < (uint64_t)table->nodes.len ? home : -1;
}

/* Return the place of a gfn's cell, given its leaf's home; below 128 where there is no leaf; -1 as above. */
static inline int64_t cell_of(const struct table *table, int64_t home, uint64_t gfn)
{
	int64_t cell = at32(&table->nodes, home) | (int64_t)(gfn & LEAF_MASK);
	return (uint64_t)cell < (uint64_t)table->cells.len ? cell : -1;
}

/* Give a gfn a leaf: 0, or why it can not be done here. */
static int link_leaf(struct table *table, int64_t root, uint64_t gfn, int64_t *cell)
{
	int32_t *roots = table->roots.buf;
	Py_ssize_t leaves = table->free_leaves.len - table->leaves, nodes = table->free_nodes.len - table->nodes_taken;
	if (!leaves || (!roots[root] && !nodes))
		return table->none_left;
	int32_t leaf = ((const int32_t *)table->free_leaves.buf)[leaves - 1];
	int64_t node = roots[root] ? roots[root] : ((const int32_t *)table->free_nodes.buf)[nodes - 1];
	int64_t home = node + (int64_t)(gfn >> LEAF_SHIFT & NODE_MASK);
	if (leaf <= 0 || leaf >= table->homes.len || node <= 0 || home >= table->nodes.len ||
	    ((int64_t)(leaf + 1) << LEAF_SHIFT) > table->cells.len)
		return LEFT_PYTHON;
	table->nodes_taken += !roots[root];
	roots[root] = (int32_t)node;
	table->leaves++;
	((int32_t *)table->nodes.buf)[home] = leaf << LEAF_SHIFT;
	((int32_t *)table->homes.buf)[leaf] = (int32_t)home;
	*cell = ((int64_t)leaf << LEAF_SHIFT) | (int64_t)(gfn & LEAF_MASK);
	return 0;
}

/* Memslots. */

/* depth: turns of a binary search that are enough for each address space. */
static inline const struct place *place_of(struct space *space, uint64_t gfn, int depth)
{
	const struct place *near = space->near;
	if (near && gfn - near->base_gfn < near->end_gfn - near->base_gfn)
		return near;
	const struct place *place = space->places;
	if (!space->count || gfn < place->base_gfn)
		return NULL;
	int64_t rest = space->count;
	for (int turn = 0; turn < depth; turn++) { /* as often for all spaces: no branch that can not be foretold */
		int64_t half = rest / 2;
		place += place[half].base_gfn <= gfn ? half : 0;
		rest -= half;
	}
	if (gfn >= place->end_gfn)
		return NULL;
	return space->near = place;
}

/* Return where the moves of a region of 2 MiB are kept; NULL when Python is to look, with or without an exception. */
static int32_t *moves_of(struct work *work, const struct space *space, const struct place *place, uint64_t gfn)
{
	uint64_t region = gfn >> REGION_SHIFT;
	int64_t number = (int64_t)(region >> CHUNK_SHIFT);
	struct chunk *chunk = work->chunks + (((uintptr_t)place >> 5) + (uint64_t)number) % CHUNKS;
	if (chunk->place != place || chunk->number != number) {
		PyObject *arch = PyTuple_GetItem(space->archs, place - space->places);
		PyObject *moves = arch ? PyObject_GetAttrString(arch, "lpage_moves") : NULL;
		PyObject *array = moves ? PyObject_CallMethod(moves, "chunk", "L", (long long)number) : NULL;
		PyBuffer_Release(&chunk->view);
		chunk->place = NULL;
		if (array && !open_array(&chunk->view, array, 4) && chunk->view.len == 1 << CHUNK_SHIFT) {
			chunk->place = place;
			chunk->number = number;
		}
		Py_XDECREF(array);
		Py_XDECREF(moves);
	}
	return chunk->place ? (int32_t *)chunk->view.buf + (region & CHUNK_MASK) : NULL;
}

/* Move disallow_lpage of a region where no counter does: lpages.update_gfn_disallow_lpage_count(). */
static int move_lpages(struct work *work, const struct space *space, const struct place *place, const struct facts *facts,
		       uint64_t gfn, int step)
{
	int32_t *moves = moves_of(work, space, place, gfn);
	if (!moves || (*moves + step < 0 && !facts->warned) || *moves == (step > 0 ? INT32_MAX : INT32_MIN))
		return LEFT_PYTHON;
	*moves += step;
	if (work->digests) {
		uint64_t mixed = mix(NAMED | gfn >> REGION_SHIFT);
		work->digests[work->slots + space->first + (place - space->places)] += step > 0 ? mixed : -mixed;
	}
	return 0;
}

/* Rows. */

static inline void say(struct work *work, Py_ssize_t row, int what)
{
	if (what < SAID_WARNINGS)
		work->warned[row] |= work->bits[what];
	else
		work->answered[row] = what == SAID_TRUE ? 1 : (uint8_t)-EINVAL;
	work->tally[what]++;
}

/* A row on its way: what was found out of it before it is folded, a block at a time, so that memory is asked for early. */
struct row {
	uint64_t gfn;
	struct space *space;
	struct facts *facts;
	const struct place *place; /* NULL: no memslot */
	int64_t home, cell, held_home, held_cell; /* -1: not known, or none */
	uint8_t kind, deep, external; /* kind: 0 for a row that is passed over */
};

static inline int64_t root_of(const struct row *row)
{
	return row->place->bias + (int64_t)(row->gfn >> NODE_SHIFT);
}

static inline int64_t held_root_of(const struct row *row)
{
	return row->facts->held_root + (int64_t)(row->gfn >> NODE_SHIFT);
}

/* Find what external users hold of a gfn after a step, which stays at zero: *cell is -1 where nothing is to be written. */
static int hold(struct work *work, const struct row *row, int step, int64_t *cell, uint32_t *count)
{
	if (row->gfn >> NODE_SHIFT >= (uint64_t)row->facts->held_roots)
		return LEFT_COVER;
	int64_t root = held_root_of(row), at = row->held_cell;
	if (at <= LEAF_MASK)
		at = cell_of(&work->held, home_of(&work->held, root, row->gfn), row->gfn);
	if (at < 0)
		return LEFT_PYTHON;
	int64_t now = (int64_t)((const uint32_t *)work->held.cells.buf)[at] + step;
	int left = now > UINT32_MAX ? LEFT_PYTHON : 0;
	*cell = -1;
	if (now < 0)
		return 0;
	if (!left && at <= LEAF_MASK)
		left = link_leaf(&work->held, root, row->gfn, &at);
	*cell = at;
	*count = (uint32_t)now;
	return left;
}

/* Return the place of a row's counter, -1 as in cell_of(). */
static inline int64_t counter_of(const struct work *work, const struct row *row)
{
	if (row->cell > LEAF_MASK)
		return row->cell;
	return cell_of(&work->counts, home_of(&work->counts, root_of(row), row->gfn), row->gfn); /* it may have got a leaf */
}

/* Move a counter by one, and what is held with it: 0, or why the row is left, unchanged. */
static int change(struct work *work, const struct row *row, Py_ssize_t number, int step)
{
	int64_t cell = counter_of(work, row), held = -1;
	uint32_t count = 0;
	if (cell < 0)
		return LEFT_PYTHON;
	int now = ((const uint16_t *)work->counts.cells.buf)[cell] + step;
	int refused = now < 0 || now > work->count_max, left = 0; /* WARN: page_track.update_gfn_write_track() */
	if (refused && !row->facts->warned)
		return LEFT_PYTHON;
	if (!refused && cell <= LEAF_MASK)
		left = link_leaf(&work->counts, root_of(row), row->gfn, &cell);
	if (!left && row->external)
		left = hold(work, row, step, &held, &count);
	if (!left && refused)
		left = move_lpages(work, row->space, row->place, row->facts, row->gfn, step);
	if (left)
		return left;
	if (held >= 0)
		((uint32_t *)work->held.cells.buf)[held] = count;
	if (refused) {
		say(work, number, step < 0 ? SAID_UNDERFLOW : SAID_OVERFLOW);
		return 0;
	}
	((uint16_t *)work->counts.cells.buf)[cell] = (uint16_t)now;
	if (work->digests)
		work->digests[row->space->first + (row->place - row->space->places)] += step > 0 ? mix(row->gfn) : -mix(row->gfn);
	return 0;
}

/* Fold an add or a remove of an external user: page_track.external_track(). */
static int track(struct work *work, const struct row *row, Py_ssize_t number, int step)
{
	if (!(row->space->flags & TRACKS))
		return LEFT_PYTHON;
	if (!row->place) {
		say(work, number, SAID_EINVAL);
		return 0;
	}
	if (row->place->state != LIVE)
		return LEFT_PYTHON;
	if (!(row->space->flags & OFF))
		return change(work, row, number, step);
	int64_t cell;
	uint32_t count;
	int left = hold(work, row, step, &cell, &count);
	if (left)
		return left;
	if (cell >= 0)
		((uint32_t *)work->held.cells.buf)[cell] = count;
	row->facts->bugged = 1;
	say(work, number, SAID_OFF);
	return 0;
}

/* Fold a shadow page that comes or goes: mmu.account_shadowed(). */
static int account(struct work *work, const struct row *row, Py_ssize_t number, int step)
{
	int left = 0;
	if (!row->place) {
		say(work, number, SAID_NO_SLOT);
		*(step > 0 ? &work->adds : &work->removes) -= row->deep; /* it asks nobody: fold.count_changes() */
	} else if (row->place->state != LIVE) {
		left = LEFT_PYTHON;
	} else if (!row->deep) {
		left = move_lpages(work, row->space, row->place, row->facts, row->gfn, step);
	} else if (row->space->flags & OFF) {
		row->facts->bugged = 1;
		say(work, number, SAID_OFF);
	} else {
		left = change(work, row, number, step);
	}
	if (left)
		return left;
	row->facts->pages += step;
	if (row->facts->pages < 0)
		row->facts->pages = 0;
	return 0;
}

/* Fold a read: page_track.kvm_gfn_is_write_tracked(). other: the other address space of the VM. */
static int look(struct work *work, const struct row *row, struct space *other, Py_ssize_t number)
{
	if (row->space->flags & OFF || !row->place)
		return 0;
	struct row second = *row;
	for (int turn = 0; row->place; turn++) {
		if (row->place->state != LIVE)
			return LEFT_PYTHON;
		int64_t cell = counter_of(work, row);
		if (cell < 0)
			return LEFT_PYTHON;
		if (((const uint16_t *)work->counts.cells.buf)[cell]) {
			say(work, number, SAID_TRUE);
			return 0;
		}
		if (turn || !(row->space->flags & TWICE))
			return 0;
		second.place = place_of(other, row->gfn, work->depth);
		second.cell = -1;
		row = &second;
	}
	return 0;
}

/* Tell whether a row, which the next one takes back, changes nothing: its memslot counts, below the limit. */
static int takes_back(struct work *work, const struct row *row)
{
	if (!row->place || row->place->state != LIVE || (row->external && !(row->space->flags & TRACKS)))
		return 0;
	if (!row->deep && !row->external)
		return 1;
	if (row->space->flags & OFF)
		return 0;
	int64_t cell = counter_of(work, row);
	return cell >= 0 && ((const uint16_t *)work->counts.cells.buf)[cell] < work->count_max;
}

struct block {
	uint64_t gfn[BLOCK];
	uint8_t kind[BLOCK], vm[BLOCK], high[BLOCK], deep[BLOCK], pair[BLOCK]; /* pair: the next row takes it back */
	struct row rows[BLOCK];
};

/* Take a block of rows out of the columns; those that are constant are as they were, but in the first block. */
static void take_block(struct work *work, struct block *block, Py_ssize_t first, Py_ssize_t n, int all)
{
	if (all || !work->gfn.constant)
		take_wide(&work->gfn, first, n, block->gfn);
	if (all || !work->kind.constant)
		take_bytes(&work->kind, first, n, block->kind);
	if (all || !work->vm.constant)
		take_bytes(&work->vm, first, n, block->vm);
	if (all || !work->as_id.constant)
		take_above(&work->as_id, first, n, block->high, 0);
	if (all || !work->level.constant)
		take_above(&work->level, first, n, block->deep, 1);
}

/* Find the memslot and the homes of a row; 0 for one of a VM that is not known. pair: only what takes_back() asks for. */
static inline int find_row(struct work *work, struct block *block, Py_ssize_t i, int pair)
{
	struct row *row = block->rows + i;
	uint8_t vm = work->vm_index[block->vm[i]];
	row->home = row->cell = row->held_home = row->held_cell = -1;
	row->space = NULL;
	if (vm >= work->nvms)
		return vm == PASSED_OVER;
	row->gfn = block->gfn[i];
	row->kind = block->kind[i];
	row->deep = block->deep[i];
	row->external = row->kind <= REMOVE;
	row->facts = work->facts + vm;
	row->space = work->spaces + 2 * vm + block->high[i];
	row->place = place_of(row->space, row->gfn, work->depth);
	if (row->place && row->place->state == LIVE && !(row->space->flags & OFF)) {
		row->home = home_of(&work->counts, root_of(row), row->gfn);
		__builtin_prefetch((const int32_t *)work->counts.nodes.buf + row->home);
	}
	if (pair)
		return 1;
	int64_t held_root = row->external & (row->gfn >> NODE_SHIFT < (uint64_t)row->facts->held_roots) ? held_root_of(row) : 0;
	row->held_home = home_of(&work->held, held_root, row->gfn); /* of root 0 is nothing: reads and shadow pages count there */
	__builtin_prefetch((const int32_t *)work->held.nodes.buf + row->held_home);
	return 1;
}

/* Find the cells of a row, after its homes. */
static inline void find_cells(const struct work *work, struct row *row)
{
	if (row->home >= 0) {
		row->cell = cell_of(&work->counts, row->home, row->gfn);
		__builtin_prefetch((const uint16_t *)work->counts.cells.buf + row->cell);
	}
	if (row->held_home >= 0) {
		row->held_cell = cell_of(&work->held, row->held_home, row->gfn);
		__builtin_prefetch((const uint32_t *)work->held.cells.buf + row->held_cell);
	}
}

/* Find out which rows are taken back by the next one. */
static void find_pairs(struct block *block, Py_ssize_t n)
{
	for (Py_ssize_t i = 0; i < BLOCK - 1; i++) /* as far as the arrays go: what is behind n does not matter */
		block->pair[i] = block->gfn[i] == block->gfn[i + 1];
	for (Py_ssize_t i = 0; i < BLOCK - 1; i++) {
		uint8_t kind = block->kind[i], first = (uint8_t)(kind == ADD) | (uint8_t)(kind == ACCOUNT);
		uint8_t other = (uint8_t)(block->vm[i] ^ block->vm[i + 1]) | (uint8_t)(block->high[i] ^ block->high[i + 1]);
		other |= (uint8_t)((block->deep[i] ^ block->deep[i + 1]) & (kind == ACCOUNT));
		other |= (uint8_t)(block->kind[i + 1] ^ (uint8_t)(kind + 1));
		block->pair[i] &= first & (uint8_t)(other == 0);
	}
	block->pair[n - 1] = 0;
}

/* Find memslots and cells of a block's rows; return how many rows are of VMs that are known. */
static Py_ssize_t find_block(struct work *work, struct block *block, Py_ssize_t n)
{
	find_pairs(block, n);
	for (Py_ssize_t i = 0; i < n; i += 1 + block->pair[i])
		if (!find_row(work, block, i, block->pair[i]))
			return i;
	for (Py_ssize_t i = 0; i < n; i += 1 + block->pair[i])
		find_cells(work, block->rows + i);
	return n;
}

/* Fold a row of which all is usual and which needs no leaf, without a branch that can not be foretold; 0, and nothing is changed,
 * for any other. counts_linked, held_linked: a leaf was linked since the row's cells were looked up. */
static inline int fold_usual(struct work *work, const struct row *row, Py_ssize_t number, int counts_linked, int held_linked)
{
	static const int8_t steps[8] = {1, -1, 0, 0, 1, -1, 0, 0}, pages[8] = {0, 0, 0, 0, 1, -1, 0, 0};
	unsigned int kind = row->kind - ADD;
	if ((row->cell < 0) | (row->held_cell < 0) | (kind > UNACCOUNT - ADD) | ((row->space->flags & TWICE) != 0))
		return 0;
	int step = steps[kind], external = row->external;
	uint16_t *count = (uint16_t *)work->counts.cells.buf + row->cell;
	uint32_t *held = (uint32_t *)work->held.cells.buf + row->held_cell;
	int now = *count + step;
	int64_t held_now = (int64_t)*held + (external ? step : 0);
	int nowhere = row->cell <= LEAF_MASK, held_nowhere = row->held_cell <= LEAF_MASK;
	if ((now < 0) | (now > work->count_max) | (held_now > UINT32_MAX) | (nowhere & ((step != 0) | counts_linked)) |
	    (external & held_nowhere & ((step > 0) | held_linked)) | ((kind >= ACCOUNT - ADD) & !row->deep) |
	    (external & (!(row->space->flags & TRACKS) | (row->gfn >> NODE_SHIFT >= (uint64_t)row->facts->held_roots))))
		return 0;
	int hit = (step == 0) & (now != 0);
	*count = (uint16_t)now;
	*held = held_now < 0 ? 0 : (uint32_t)held_now;
	work->answered[number] |= hit;
	work->tally[SAID_TRUE] += hit;
	work->adds += step > 0;
	work->removes += step < 0;
	int64_t rest = row->facts->pages + pages[kind];
	row->facts->pages = rest < 0 ? 0 : rest;
	if (work->digests && step)
		work->digests[row->space->first + (row->place - row->space->places)] += step > 0 ? mix(row->gfn) : -mix(row->gfn);
	return 1;
}

static int fold_row(struct work *work, const struct row *row, Py_ssize_t number)
{
	int step = row->kind == ADD || row->kind == ACCOUNT ? 1 : -1, left;

	switch (row->kind) {
	case ADD:
	case REMOVE:
	case ACCOUNT:
	case UNACCOUNT:
		left = row->external ? track(work, row, number, step) : account(work, row, number, step);
		if (!left)
			*(step > 0 ? &work->adds : &work->removes) += row->external || row->deep;
		return left;
	case QUERY:
	case GUEST_WRITE:
		return look(work, row, work->spaces + ((row->space - work->spaces) ^ 1), number);
	default:
		return LEFT_PYTHON;
	}
}

/* Fold rows from `first` on; return the one that is left, and why. */
static Py_ssize_t fold_rows(struct work *work, Py_ssize_t first, Py_ssize_t rows, int *left)
{
	struct block block;

	memset(&block, 0, sizeof(block));
	for (int all = 1; first < rows; all = 0) {
		Py_ssize_t n = rows - first < BLOCK ? rows - first : BLOCK, i = 0;
		take_block(work, &block, first, n, all);
		Py_ssize_t known = find_block(work, &block, n), leaves = work->counts.leaves, held_leaves = work->held.leaves;
		while (i < known) {
			const struct row *row = block.rows + i;
			if (!row->space) { /* of a VM that is passed over, and so is what takes it back */
				i += 1 + block.pair[i];
				continue;
			}
			if (block.pair[i]) {
				if (takes_back(work, row)) {
					work->adds += row->external || row->deep;
					work->removes += row->external || row->deep;
					i += 2;
					continue;
				}
				for (Py_ssize_t at = i; at < i + 2; at++) {
					find_row(work, &block, at, 0);
					find_cells(work, block.rows + at);
				}
				block.pair[i] = 0;
			}
			if (fold_usual(work, row, first + i, work->counts.leaves != leaves, work->held.leaves != held_leaves)) {
				i++;
				continue;
			}
			*left = fold_row(work, row, first + i);
			if (*left)
				return first + i;
			i++;
		}
		first += i;
		if (known < n) {
			*left = LEFT_PYTHON;
			return first;
		}
	}
	*left = LEFT_NOTHING;
	return first;
}

/* The call. */

static int open_spaces(struct work *work, PyObject *pieces)
{
	Py_ssize_t count = PyTuple_Check(pieces) ? PyTuple_GET_SIZE(pieces) : 0;
	int64_t first = 0;
	work->spaces = PyMem_Calloc(count + 1, sizeof(*work->spaces));
	if (!work->spaces) {
		PyErr_NoMemory();
		return -1;
	}
	for (Py_ssize_t i = 0; i < count; i++) {
		PyObject *piece = PyTuple_GET_ITEM(pieces, i), *raw, *archs;
		struct space *space = work->spaces + i;
		long long flags;
		if (!PyArg_ParseTuple(piece, "SLO!", &raw, &flags, &PyTuple_Type, &archs))
			return -1;
		space->places = (const struct place *)PyBytes_AS_STRING(raw);
		space->count = PyBytes_GET_SIZE(raw) / (Py_ssize_t)sizeof(struct place);
		space->flags = flags;
		space->archs = archs;
		space->first = first;
		first += space->count;
		while (space->count > (int64_t)1 << work->depth)
			work->depth++;
		if (PyTuple_GET_SIZE(archs) != space->count) {
			PyErr_SetString(PyExc_ValueError, "as many memslots as places");
			return -1;
		}
	}
	if (count != 2 * work->nvms) {
		PyErr_SetString(PyExc_ValueError, "two address spaces for each VM");
		return -1;
	}
	return (int)(first > INT32_MAX);
}

static PyObject *result(struct work *work, Py_ssize_t row, int left)
{
	const int64_t *tally = work->tally;
	return Py_BuildValue("ni(LLLLLL)LL(nnnn)", row, left, (long long)tally[0], (long long)tally[1], (long long)tally[2],
			     (long long)tally[3], (long long)tally[4], (long long)tally[5], (long long)work->adds,
			     (long long)work->removes, work->counts.leaves, work->counts.nodes_taken, work->held.leaves,
			     work->held.nodes_taken);
}

static PyObject *fold(PyObject *self, PyObject *args)
{
	struct work work;
	PyObject *columns[5], *pieces, *counts, *held, *found = NULL;
	Py_buffer facts = {0}, digests = {0}, index = {0}, warned = {0}, answered = {0};
	Py_ssize_t row, rows;
	int left = 0;

	memset(&work, 0, sizeof(work));
	PyObject *facts_from, *digests_from, *index_from, *warned_from, *answered_from;
	const char *bits;
	Py_ssize_t nbits;
	long long count_max;
	if (!PyArg_ParseTuple(args, "(OOOOO)nnOOOOOOLOOy#", columns, columns + 1, columns + 2, columns + 3, columns + 4, &row, &rows, &pieces,
			      &index_from, &facts_from, &counts, &held, &digests_from, &count_max,
			      &warned_from, &answered_from, &bits, &nbits))
		return NULL;
	work.count_max = count_max;
	if (rows < 0 || row < 0 || row > rows || rows > INT32_MAX / 2 || count_max < 0 || count_max > UINT16_MAX) {
		PyErr_SetString(PyExc_ValueError, "rows out of range");
		return NULL;
	}
	if (open_array(&warned, warned_from, 1) || open_array(&answered, answered_from, 1))
		goto done;
	if (warned.len != rows || answered.len != rows || nbits != SAID_WARNINGS) {
		PyErr_SetString(PyExc_ValueError, "a byte for each row to say something, and one for each warning");
		goto done;
	}
	work.warned = warned.buf;
	work.answered = answered.buf;
	memcpy(work.bits, bits, SAID_WARNINGS);
	if (open_array(&facts, facts_from, 8) || PyObject_GetBuffer(index_from, &index, PyBUF_SIMPLE))
		goto done;
	if (index.len != 256 || facts.len % 5) {
		PyErr_SetString(PyExc_ValueError, "256 indexes of VMs, and five facts of each VM");
		goto done;
	}
	work.vm_index = index.buf;
	work.facts = facts.buf;
	work.nvms = facts.len / 5;
	if (open_spaces(&work, pieces))
		goto done;
	if (digests_from != Py_None) {
		if (open_array(&digests, digests_from, 8))
			goto done;
		work.digests = digests.buf;
		work.slots = work.nvms ? work.spaces[2 * work.nvms - 1].first + work.spaces[2 * work.nvms - 1].count : 0;
		if (digests.len != 2 * work.slots) {
			PyErr_SetString(PyExc_ValueError, "two digests for each memslot");
			goto done;
		}
	}
	if (open_column(&work.kind, columns[0], rows) || open_column(&work.vm, columns[1], rows) ||
	    open_column(&work.as_id, columns[2], rows) || open_column(&work.gfn, columns[3], rows) ||
	    open_column(&work.level, columns[4], rows))
		goto done;
	if (open_table(&work.counts, counts, 2, LEFT_LEAVES) || open_table(&work.held, held, 4, LEFT_HELD_LEAVES))
		goto done;
	row = fold_rows(&work, row, rows, &left);
	if (!PyErr_Occurred())
		found = result(&work, row, left);
done:
	for (int i = 0; i < CHUNKS; i++)
		PyBuffer_Release(&work.chunks[i].view);
	PyBuffer_Release(&work.kind.view);
	PyBuffer_Release(&work.vm.view);
	PyBuffer_Release(&work.as_id.view);
	PyBuffer_Release(&work.gfn.view);
	PyBuffer_Release(&work.level.view);
	close_table(&work.counts);
	close_table(&work.held);
	PyBuffer_Release(&facts);
	PyBuffer_Release(&index);
	PyBuffer_Release(&digests);
	PyBuffer_Release(&warned);
	PyBuffer_Release(&answered);
	PyMem_Free(work.spaces);
	return found;
}

/* What a run holds, for runs.py. */

static PyObject *counted(const int64_t *counts, int first, int end)
{
	PyObject *found = PyDict_New();
	for (int number = first; found && number < end; number++) {
		if (!counts[number])
			continue;
		PyObject *key = PyLong_FromLong(number), *count = PyLong_FromLongLong(counts[number]);
		if (!key || !count || PyDict_SetItem(found, key, count))
			Py_CLEAR(found);
		Py_XDECREF(key);
		Py_XDECREF(count);
	}
	return found;
}

static int64_t equal_to(const uint8_t *from, Py_ssize_t n, uint8_t number)
{
	int64_t count = 0;
	for (Py_ssize_t first = 0; first < n; first += 255) { /* so many fit a byte, which is what is added up fastest */
		uint8_t found = 0;
		Py_ssize_t end = n - first < 255 ? n : first + 255;
		for (Py_ssize_t i = first; i < end; i++)
			found += from[i] == number;
		count += found;
	}
	return count;
}

/* Count a column of one or two numbers, of which the runs of shadow paging are; 0 where there are more. */
static int count_two(const uint8_t *from, Py_ssize_t n, int64_t *counts)
{
	Py_ssize_t at = 0;
	if (!n)
		return 1;
	int64_t one = equal_to(from, n, from[0]), two = 0;
	while (at < n && from[at] == from[0])
		at++;
	if (at < n)
		two = equal_to(from, n, from[at]);
	if (one + two < n)
		return 0;
	counts[from[0]] = one;
	if (at < n)
		counts[from[at]] = two;
	return 1;
}

/* Return how many rows hold each number of a column of bytes, in order. */
static PyObject *tally(PyObject *self, PyObject *column)
{
	int64_t counts[2][256] = {{0}};
	Py_buffer view;

	if (PyObject_GetBuffer(column, &view, PyBUF_SIMPLE))
		return NULL;
	const uint8_t *from = view.buf;
	if (!count_two(from, view.len, counts[0]))
		for (Py_ssize_t i = 0; i < view.len; i++)
			counts[i & 1][from[i]]++;
	PyBuffer_Release(&view);
	for (int number = 0; number < 256; number++)
		counts[0][number] += counts[1][number];
	return counted(counts[0], 0, 256);
}

/* Return the same of a second column, kinds of hot events, by the number in the first one; {} where there are others. */
static PyObject *by_vm(PyObject *self, PyObject *args)
{
	int64_t counts[256 * 8] = {0};
	Py_buffer vms, kinds;

	if (!PyArg_ParseTuple(args, "y*y*", &vms, &kinds))
		return NULL;
	const uint8_t *vm = vms.buf, *kind = kinds.buf;
	uint8_t strange = vms.len != kinds.len;
	for (Py_ssize_t i = 0; !strange && i < vms.len; i++) {
		counts[vm[i] << 3 | (kind[i] & 7)]++;
		strange = (kind[i] ^ ADD) > 7;
	}
	PyBuffer_Release(&vms);
	PyBuffer_Release(&kinds);
	PyObject *found = PyDict_New();
	for (int number = 0; found && !strange && number < 256; number++) {
		int64_t of[128] = {0}, any = 0;
		for (int low = 0; low < 8; low++)
			any |= of[ADD | low] = counts[number << 3 | low];
		if (!any)
			continue;
		PyObject *key = PyLong_FromLong(number), *inner = counted(of, ADD, ADD + 8);
		if (!key || !inner || PyDict_SetItem(found, key, inner))
			Py_CLEAR(found);
		Py_XDECREF(key);
		Py_XDECREF(inner);
	}
	return found;
}

enum { APART_COLUMNS = 4, APART_GROUPS = 64 };

static uint64_t at(const struct column *column, Py_ssize_t row)
{
	if (column->constant)
		return column->number;
	switch (column->number) {
	case 1:
		return ((const uint8_t *)column->view.buf)[row];
	case 2:
		return ((const uint16_t *)column->view.buf)[row];
	case 4:
		return ((const uint32_t *)column->view.buf)[row];
	default:
		return ((const uint64_t *)column->view.buf)[row];
	}
}

struct group {
	uint64_t key[APART_COLUMNS];
	Py_ssize_t first, count;
};

/* Group the rows in which the last two of n columns, of bytes, differ; return how many groups there are, -1 for too many. */
static Py_ssize_t group_apart(const struct column *columns, Py_ssize_t n, Py_ssize_t rows, struct group *groups)
{
	const struct column *one = columns + n - 2, *other = columns + n - 1;
	const uint8_t bytes[2] = {(uint8_t)one->number, (uint8_t)other->number};
	const uint8_t *a = one->constant ? bytes : one->view.buf, *b = other->constant ? bytes + 1 : other->view.buf;
	Py_ssize_t ngroups = 0, g = 0;

	for (Py_ssize_t row = 0; row < rows; row++) {
		if (a[one->constant ? 0 : row] == b[other->constant ? 0 : row])
			continue;
		uint64_t key[APART_COLUMNS] = {0};
		for (Py_ssize_t c = 0; c < n; c++)
			key[c] = at(columns + c, row);
		if (!ngroups || memcmp(groups[g].key, key, sizeof(key)))
			for (g = 0; g < ngroups && memcmp(groups[g].key, key, sizeof(key)); g++)
				;
		if (g == ngroups) {
			if (ngroups++ == APART_GROUPS)
				return -1;
			memcpy(groups[g].key, key, sizeof(key));
			groups[g].first = row;
			groups[g].count = 0;
		}
		groups[g].count++;
	}
	return ngroups;
}

static PyObject *listed(const struct group *groups, Py_ssize_t ngroups, Py_ssize_t n)
{
	PyObject *found = PyList_New(ngroups);
	for (Py_ssize_t g = 0; found && g < ngroups; g++) {
		PyObject *key = PyTuple_New(n), *group = NULL;
		for (Py_ssize_t c = 0; key && c < n; c++) {
			PyObject *number = PyLong_FromUnsignedLongLong(groups[g].key[c]);
			if (!number)
				Py_CLEAR(key);
			else
				PyTuple_SET_ITEM(key, c, number);
		}
		if (key)
			group = Py_BuildValue("Nnn", key, groups[g].first, groups[g].count);
		if (group)
			PyList_SET_ITEM(found, g, group);
		else
			Py_CLEAR(found);
	}
	return found;
}

/* Return ((what columns say, ...), first row, how many rows) of rows in which the last two differ; None for too many groups. */
static PyObject *apart(PyObject *self, PyObject *args)
{
	struct column columns[APART_COLUMNS];
	struct group groups[APART_GROUPS];
	PyObject *from, *found = NULL;
	Py_ssize_t rows, n, opened = 0;

	memset(columns, 0, sizeof(columns));
	if (!PyArg_ParseTuple(args, "O!n", &PyTuple_Type, &from, &rows))
		return NULL;
	n = PyTuple_GET_SIZE(from);
	if (n < 2 || n > APART_COLUMNS || rows < 1) {
		PyErr_SetString(PyExc_ValueError, "two to four columns of some rows");
		return NULL;
	}
	while (opened < n && !open_column(columns + opened, PyTuple_GET_ITEM(from, opened), rows))
		opened++;
	if (opened == n && (columns[n - 2].constant | (columns[n - 2].number == 1)) && (columns[n - 1].constant | (columns[n - 1].number == 1))) {
		Py_ssize_t ngroups = group_apart(columns, n, rows, groups);
		found = ngroups < 0 ? Py_NewRef(Py_None) : listed(groups, ngroups, n);
	} else if (opened == n) {
		PyErr_SetString(PyExc_ValueError, "the last two columns are of bytes");
	}
	for (Py_ssize_t c = 0; c < n; c++)
		PyBuffer_Release(&columns[c].view);
	return found;
}

static PyMethodDef methods[] = {
	{"apart", apart, METH_VARARGS, "Group rows in which two columns of bytes differ; see replay/kvm/run_columns.py."},
	{"tally", tally, METH_O, "Count the numbers of a column of bytes."},
	{"by_vm", by_vm, METH_VARARGS, "Count kinds by VM, two columns of bytes."},
	{"fold", fold, METH_VARARGS, "Fold rows until one is left to Python; see replay/kvm/compiled.py."},
	{NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kvm_replay_rows", "The scalar rule, compiled.", -1, methods,
				    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kvm_replay_rows(void)
{
	PyObject *made = PyModule_Create(&module);
	if (made && PyModule_AddIntConstant(made, "API", ROWS_API)) {
		Py_DECREF(made);
		return NULL;
	}
	return made;
}
