/* The compiled kernel of the model: the rules of the Python files beside it once more, for speed.
 *
 * A second implementation, because what makes the readable one slow is what makes it readable. What holds the two
 * together is that the same scenario and seed give the same Run, bit for bit, which a hypothesis test asks of random
 * scenarios (tests/test_model_compiled.py). So it draws random numbers where the Python does, and adds floating-point
 * numbers in the same order; the contract is in clock.py. Its parts follow the Python files: the server (server.py), the
 * rules of the pool (poolctl/pool: openings, queues, sweeps), what requests do (clients.py), instances (instances.py),
 * the loop (model.py). A pool here decides and acts at once, where Pool returns actions: the order is the same.
 *
 * It knows no poolers. It gets a list of numbers for each service (compiled.py, in the order of FIELDS), and returns
 * numbers again. It touches no Python object while it runs, and gives the interpreter's lock away.
 */
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LAYOUT 5
/* Changed with the order of FIELDS or of the figures: a file left over from another version is not used. */

/* The way of a request is a dozen short functions: what calling them costs is a fifth of the time. */
#ifdef __GNUC__
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

#ifdef __GNUC__
#define PREFETCH(where) __builtin_prefetch(where)
#else
#define PREFETCH(where) ((void)0)
#endif

#define INF ((double)INFINITY)
#define TWO_PI 6.283185307179586

enum { HOLD_END, OPENED, WORK, BEGIN, CLEAN, SAMPLE, WARM, EVENT, POD_ENDS, OPENER, LIFE, SWEEP, WAKE, TICK,
       POD_BEGINS, REST };
enum { TIMED_OUT, REFUSED, FAILED };
enum { ALIVE, DEAD, KNOWN_DEAD };
enum { FREE, OPENING, IDLE, IN_USE, RETURNING, ORPHAN, ZOMBIE, CLOSING };
enum { OUT, WAITING, DIALING, USING, LOCKED };
enum { CONSTANT, EXPONENTIAL, LOGNORMAL };
enum { SERVER_AWAY = -1, CUT = -2 };
enum { LEAKED = -2 };

enum { ORDER_RANDOM, ORDER_FIFO, ORDER_NONE, ORDER_LIFO };
enum { GROWTH_ORDERED, GROWTH_ONE, GROWTH_WANTED, GROWTH_INCREMENT };
enum { FILL_NONE, FILL_BEFORE, FILL_BACKGROUND };
enum { FLOOR_NONE, FLOOR_OPEN, FLOOR_IDLE };
enum { CLOSING_GO, CLOSING_TIMER, CLOSING_SWEEP, CLOSING_ONE, CLOSING_MEDIAN, CLOSING_NONE };
enum { KEPT_MAX_IDLE, KEPT_ALL, KEPT_SWEEP };
enum { DEAD_ONE, DEAD_ALL, DEAD_DROPPED };
enum { TIMEOUT_ALL, TIMEOUT_QUEUE, TIMEOUT_EACH };
enum { LEAVES, GHOST, OPENS };
enum { FATE_KEPT, FATE_CLOSED, FATE_RETURNED };
enum { DO_OTHER, DO_PAUSE, DO_SLOW, DO_CUT };

/* Kinds of error; of service n, 4 + 2 n is its timeout and 5 + 2 n its rejection. */
enum { RESERVED, TOO_MANY, STARTING, TERMINATED, OVERDUE, REJECTED };

#define FIELDS(X) \
    X(max_open) X(keeps) X(min_idle) X(lifetime) X(patience) X(max_uses) X(max_queue) X(rate) \
    X(hold_kind) X(hold_mean) X(hold_mu) X(hold_sigma) \
    X(outside_kind) X(outside_mean) X(outside_mu) X(outside_sigma) \
    X(think_kind) X(think_mean) X(think_mu) X(think_sigma) \
    X(every) X(fate) X(sweep) X(max_idle) X(max_idle_time) X(lifetime_jitter) \
    X(is_lifo) X(waiter_order) X(opens_in_background) X(checked_at_acquire) X(checked_at_release) \
    X(checked_by_cleaner) X(checked_by_timer) X(barging) X(generations) X(by_thread) X(replaced_by_caller) \
    X(openers) X(growth) X(orders_lapse) X(open_pause) X(retry_first) X(retry_longest) X(fill) X(floor) X(is_refilled) \
    X(idle_closing) X(closes_newest) X(idle_kept) X(jitter_low) X(jitter_high) X(validated_after) X(dead) \
    X(is_reopened) X(stale_attempts) X(timeout) X(keeps_abandoned) X(timed_out_waiter) X(wakes_on_failure) \
    X(replaces_spent) X(probes_first) X(returned_by_opener) X(opens_locked) X(codel_target) X(codel_interval) X(abandoned_after) \
    X(workers) X(requests) X(ends_when_done) X(drain) X(error_pause) X(retries) X(retry_backoff) X(retry_growth) X(retry_jitter) \
    X(each)

enum {
#define X(name) F_##name,
    FIELDS(X)
#undef X
    N_FIELDS
};

static const char *const field_names[] = {
#define X(name) #name,
    FIELDS(X)
#undef X
};

typedef struct { int kind; double mean, mu, sigma; } Times;
typedef struct { double at; int64_t seq, code; } Entry;
typedef struct { Entry *items; Py_ssize_t n, room; } Heap;
typedef struct { int *items; Py_ssize_t n, room; } Ints;
typedef struct { double at; int64_t serial; int c; } Due;
typedef struct { Due *items; Py_ssize_t head, n, room; } Ring; /* room is a power of 2 */
typedef struct { int64_t *counts; Py_ssize_t n; int64_t count; double total, max; } Histogram;
typedef struct { uint32_t state[624], told[624]; int index; } Random; /* told: what the state says, tempered */

typedef struct { double at, until; int workers, requests; Times hold, think; } Burst;

/* Numbers that are counts, kinds or answers are kept as such: comparisons of integers are what a run mostly does. */
typedef struct {
    double f[N_FIELDS];
    Times hold, outside, think;
    Burst *bursts;
    Py_ssize_t n_bursts;
    double max_open, keeps, lifetime, patience, max_idle_time, rate, shortest_life;
    int waiter_order, growth, idle_closing, each, every, max_uses, stale_attempts, max_queue, min_idle, retries;
    int codel, overdue, rejected;
    int barging, by_thread, generations, is_lifo, opens_in_background, replaced_by_caller, opens_locked, timeout;
    int returned_by_opener;
    Ints active, free_arrivals;
    Ring deadlines;
    double arrival;
    int64_t peak_open, peak_in_use;
} Part;

typedef struct {
    int64_t open, in_use, idle, opening, waiting, queued, opened, failed;
    int64_t max_idle, idle_time, lifetime, error, reclaimed, other, peak_open, peak_in_use;
    double queued_time, open_time, in_use_time, exhausted_at, since, recovered_at, exhausted_time;
    int is_set;
} Stats;

typedef struct {
    /* First what every request needs, which is to lie in few lines of the processor's cache. */
    Part *part;
    Ints idle;
    int number, tally, state, open, waiting, lock, room, alert, ghosts, clients, low;
    double use_time, ends_at, budget, since;
    int opening, ordered, busy, old, requests, leaked, sources, own_head, own_tail;
    Ints random;
    Ring fifo, locked, tasks;
    int64_t begun; /* Background openings. What is to be taken back or opened once more goes in turn with them. */
    double begins_at, told, clean_at;
    int is_probed, samples[30], n_samples, n_chosen, first_chosen, last_chosen;
    double codel[4];
    int64_t opened, failed, queued, max_idle, idle_time, lifetime, error, reclaimed, other, peak_open, peak_in_use;
    double open_area, queued_time, exhausted_at, recovered, exhausted_time;
} Pod;

typedef struct {
    int pod, client, state, dead, held_next, uses;
    double released, acquired, outside, stale, spent;
    int64_t timer, rest;
    double born, asked, ends;
    int slot, tries, own_next, own_previous, next_gone, is_cut, is_replaced, is_probe;
    int64_t number; /* Of this connection, where its record was another one's before. */
} Connection;

typedef struct {
    int pod, worker, state, attempt, tries, place, last, leaks, counted, held, held_first, held_last;
    int64_t serial, ticket, last_number;
    double due, queued, since, deadline;
    const Times *hold;
} Client;

typedef struct { double until; int left; const Times *think; } Worker;
typedef struct { int kind; int64_t count; double first_at; } Seen;
typedef struct {
    int64_t timed_out, refused, failed, leaked, unfinished, queued_count, late, requests, completed, broken;
    double queued_time;
    Histogram wait, use, connect, unfinished_time;
    Seen *errors;
    Py_ssize_t n_errors, room;
} Tally;
typedef struct { double at; int64_t open, in_use, idle, opening, waiting, acquired, errors, slots; } Point;
typedef struct { int kind; double at, duration, factor, down; } Event;

typedef struct {
    PyObject_HEAD
    jmp_buf out_of_memory;
    int is_running;
    Part *parts;
    Py_ssize_t n_parts;
    Pod *pods;
    Py_ssize_t n_pods;
    Stats *ended, *warm;
    Tally *tallies;
    Py_ssize_t n_tallies;
    Event *events;
    Py_ssize_t n_events;
    Connection *k;
    Py_ssize_t n_k, room_k;
    Client *c;
    Py_ssize_t n_c, room_c;
    Worker *w;
    Py_ssize_t n_w, room_w;
    Ints free_connections, free_clients;
    Ring ready;
    Heap jobs, timers;
    Random arrivals, holds, thinks, pool, server;
    double now, interval, warmup, duration_known, next_job, next_arrival, next_deadline;
    int64_t seq, serial, n_acquired, n_errors, waiting, at_once;
    int over, stuck, is_cut_off, is_endless, paused, is_shared, pods_left;
    double base_v, base_t, rate, pause_ends, work_done, slow_factor, down_until, connect_cpu;
    double *rates, *slow;
    Py_ssize_t n_rates, room_rates, n_slow, active;
    double cores, alpha, beta;
    Times connect_time;
    int64_t max_connections, usable, slots, doomed, peak_slots, refused, most_waiting, most_rows, standstill;
    Point *timeline;
    Py_ssize_t n_timeline;
    double shortest_cleaning, wake_time, stood_at, progress;
} Kernel;

/* Memory: everything belongs to the kernel, and a request that fails leaves through out_of_memory. */

static void *grown(Kernel *s, void *items, Py_ssize_t *room, size_t size)
{
    Py_ssize_t wanted = *room ? *room * 2 : 8;
    void *more;
    if ((size_t)wanted > SIZE_MAX / 4 / size)
        longjmp(s->out_of_memory, 1);
    more = realloc(items, (size_t)wanted * size);
    if (!more)
        longjmp(s->out_of_memory, 1);
    *room = wanted;
    return more;
}

INLINE void push(Kernel *s, Ints *ints, int value)
{
    if (ints->n == ints->room)
        ints->items = grown(s, ints->items, &ints->room, sizeof(int));
    ints->items[ints->n++] = value;
}

static int pop_at(Ints *ints, Py_ssize_t at)
{
    int value = ints->items[at];
    ints->n--;
    memmove(ints->items + at, ints->items + at + 1, (size_t)(ints->n - at) * sizeof(int));
    return value;
}

static Py_ssize_t find(const Ints *ints, int value)
{
    Py_ssize_t at;
    for (at = 0; at < ints->n; at++)
        if (ints->items[at] == value)
            return at;
    return -1;
}

static Due *ring_at(const Ring *ring, Py_ssize_t at)
{
    return &ring->items[(ring->head + at) & (ring->room - 1)];
}

static void ring_push(Kernel *s, Ring *ring, double at, int c, int64_t serial)
{
    if (ring->n == ring->room) {
        Py_ssize_t before = ring->room, wrapped = ring->head;
        ring->items = grown(s, ring->items, &ring->room, sizeof(Due));
        /* What had wrapped around to the front follows the old end. */
        memcpy(ring->items + before, ring->items, (size_t)wrapped * sizeof(Due));
    }
    Due *due = ring_at(ring, ring->n++);
    due->at = at;
    due->c = c;
    due->serial = serial;
}

static Due ring_pop(Ring *ring)
{
    Due due = *ring_at(ring, 0);
    ring->head = (ring->head + 1) & (ring->room - 1);
    ring->n--;
    return due;
}

/* Without branches, and of integers: which of two entries comes first is what a processor cannot foresee. Times that
 * are not negative have the order of their bits. */
INLINE int is_before(const Entry *a, const Entry *b)
{
    uint64_t x, y;
    memcpy(&x, &a->at, sizeof x);
    memcpy(&y, &b->at, sizeof y);
#ifdef __SIZEOF_INT128__
    return ((unsigned __int128)x << 64 | (uint64_t)a->seq) < ((unsigned __int128)y << 64 | (uint64_t)b->seq);
#else
    return (x < y) | ((x == y) & (a->seq < b->seq));
#endif
}

INLINE void sift_up(Heap *heap, Py_ssize_t at)
{
    Entry entry = heap->items[at];
    while (at > 0) {
        Py_ssize_t parent = (at - 1) / 4;
        if (!is_before(&entry, &heap->items[parent]))
            break;
        heap->items[at] = heap->items[parent];
        at = parent;
    }
    heap->items[at] = entry;
}

INLINE void sift_down(Heap *heap, Py_ssize_t at)
{
    Entry entry = heap->items[at];
    for (;;) {
        Py_ssize_t first = 4 * at + 1, best, other;
        if (first >= heap->n)
            break;
        if (first + 4 <= heap->n) {
            best = first + is_before(&heap->items[first + 1], &heap->items[first]);
            other = first + 2 + is_before(&heap->items[first + 3], &heap->items[first + 2]);
            best = is_before(&heap->items[other], &heap->items[best]) ? other : best;
        } else
            for (best = first, other = first + 1; other < heap->n; other++)
                best = is_before(&heap->items[other], &heap->items[best]) ? other : best;
        if (!is_before(&heap->items[best], &entry))
            break;
        heap->items[at] = heap->items[best];
        at = best;
    }
    heap->items[at] = entry;
}

INLINE void heap_push(Kernel *s, Heap *heap, double at, int64_t seq, int64_t code)
{
    if (heap->n == heap->room)
        heap->items = grown(s, heap->items, &heap->room, sizeof(Entry));
    heap->items[heap->n].at = at;
    heap->items[heap->n].seq = seq;
    heap->items[heap->n].code = code;
    sift_up(heap, heap->n++);
}

INLINE Entry heap_pop(Heap *heap)
{
    Entry top = heap->items[0];
    heap->items[0] = heap->items[--heap->n];
    if (heap->n)
        sift_down(heap, 0);
    return top;
}

static void heapify(Heap *heap)
{
    Py_ssize_t at;
    for (at = 1; at < heap->n; at++)
        sift_up(heap, at);
}

static double top_of(const Heap *heap)
{
    return heap->n ? heap->items[0].at : INF;
}

/* Random numbers: MT19937 with 53 bits, as random.random() (Modules/_randommodule.c). */

static uint32_t twisted(uint32_t upper, uint32_t lower, uint32_t other)
{
    uint32_t y = (upper & 0x80000000u) | (lower & 0x7fffffffu);
    return other ^ (y >> 1) ^ (0x9908b0dfu & (0u - (y & 1u)));
}

/* All at once, which a compiler turns into a few wide operations. */
static void temper(Random *r)
{
    int at;
    for (at = 0; at < 624; at++) {
        uint32_t y = r->state[at];
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c5680u;
        y ^= (y << 15) & 0xefc60000u;
        r->told[at] = y ^ (y >> 18);
    }
}

static void refresh(Random *r)
{
    uint32_t *mt = r->state;
    int at;
    for (at = 0; at < 227; at++)
        mt[at] = twisted(mt[at], mt[at + 1], mt[at + 397]);
    for (; at < 623; at++)
        mt[at] = twisted(mt[at], mt[at + 1], mt[at - 227]);
    mt[623] = twisted(mt[623], mt[0], mt[396]);
    temper(r);
    r->index = 0;
}

INLINE double unit(uint32_t a, uint32_t b)
{
    return ((a >> 5) * 67108864.0 + (b >> 6)) * (1.0 / 9007199254740992.0);
}

INLINE uint32_t next_32(Random *r)
{
    if (r->index >= 624)
        refresh(r);
    return r->told[r->index++];
}

INLINE double uniform(Random *r)
{
    uint32_t a, b;
    if (r->index <= 622) {
        r->index += 2;
        return unit(r->told[r->index - 2], r->told[r->index - 1]);
    }
    a = next_32(r);
    b = next_32(r);
    return unit(a, b);
}

INLINE double draw(const Times *times, Random *r)
{
    if (times->kind == EXPONENTIAL)
        return -log(1.0 - uniform(r)) * times->mean;
    if (times->kind == LOGNORMAL) {
        double radius = sqrt(-2.0 * log(1.0 - uniform(r)));
        double angle = TWO_PI * uniform(r);
        return exp(times->mu + times->sigma * radius * cos(angle));
    }
    return times->mean;
}

INLINE int pick(Random *r, Py_ssize_t n)
{
    return (int)(uniform(r) * (double)n);
}

INLINE void record(Kernel *s, Histogram *h, double seconds)
{
    double scaled = seconds * 1e6;
    Py_ssize_t at;
    if (scaled < 256.0)
        at = scaled > 0.0 ? (Py_ssize_t)scaled : 0;
    else {
        /* The exponent and the upper 7 bits of the mantissa are the bucket (Histogram.record). */
        uint64_t bits;
        memcpy(&bits, &scaled, sizeof bits);
        at = (Py_ssize_t)((((bits >> 52) - 1030) << 7) + ((bits >> 45) & 127) + 128);
    }
    if (at >= h->n) {
        Py_ssize_t room = at + 128;
        int64_t *counts = realloc(h->counts, (size_t)room * sizeof(int64_t));
        if (!counts)
            longjmp(s->out_of_memory, 1);
        memset(counts + h->n, 0, (size_t)(room - h->n) * sizeof(int64_t));
        h->counts = counts;
        h->n = room;
    }
    h->counts[at]++;
    h->count++;
    h->total += seconds;
    if (seconds > h->max)
        h->max = seconds;
}

/* What calls what: the pool and the server know each other. */

INLINE void attempt(Kernel *s, int c, double now);
INLINE void serve(Kernel *s, int c, int k, double now);
static void fail(Kernel *s, int c, int outcome, int kind, double now);
static void open_for_waiters(Kernel *s, Pod *p, double now);
INLINE int put(Kernel *s, int k, Pod *p, double now);
INLINE void release(Kernel *s, int k, double now, int broken);
static void close_connection(Kernel *s, int k, Pod *p, double now);
static int leave_queue(Kernel *s, Pod *p, double now, int c);
static void recover_if_free(Pod *p, double now);
static void recover(Pod *p, double now);
static void await_patience(Kernel *s, int c, Pod *p, double now);
static void unlock(Kernel *s, Pod *p, double now);
INLINE void look_whether_over(Kernel *s, Pod *p, double now);
static void end_pod(Kernel *s, Pod *p, double now);
static void opened(Kernel *s, int k, double now);
static void open_failed(Kernel *s, int k, double now, int kind);
static void statement_failed(Kernel *s, int k, int kind, double now);
static void cut(Kernel *s, int k, double now);
static int drop_overdue(Kernel *s, Pod *p, double now);

/* The client learns of it when the pool is done with what it does. */
static void fail_soon(Kernel *s, int c, int outcome, int kind)
{
    ring_push(s, &s->ready, 0.0, c, 1 + outcome + 4 * (int64_t)kind);
}

INLINE Pod *pod_of(const Kernel *s, int k)
{
    return &s->pods[s->k[k].pod];
}

/* State */

static int new_connection(Kernel *s, Pod *p, int client)
{
    Connection *x;
    int k;
    if (s->free_connections.n)
        k = s->free_connections.items[--s->free_connections.n];
    else {
        if (s->n_k == s->room_k)
            s->k = grown(s, s->k, &s->room_k, sizeof(Connection));
        k = (int)s->n_k++;
        memset(&s->k[k], 0, sizeof(Connection));
        s->k[k].held_next = -1;
    }
    x = &s->k[k];
    x->pod = p->number;
    x->client = client;
    x->state = OPENING;
    x->dead = x->uses = x->slot = x->tries = x->is_cut = x->is_replaced = x->is_probe = 0;
    x->number = ++s->serial;
    x->timer = x->rest = 0;
    x->own_next = -1;
    x->own_previous = p->own_tail;
    if (p->own_tail >= 0)
        s->k[p->own_tail].own_next = k;
    else
        p->own_head = k;
    p->own_tail = k;
    return k;
}

static int new_client(Kernel *s, int pod, int worker, const Times *hold)
{
    Client *x;
    int c;
    if (s->free_clients.n)
        c = s->free_clients.items[--s->free_clients.n];
    else {
        if (s->n_c == s->room_c)
            s->c = grown(s, s->c, &s->room_c, sizeof(Client));
        c = (int)s->n_c++;
        memset(&s->c[c], 0, sizeof(Client));
        s->c[c].held_first = s->c[c].held_last = -1;
    }
    x = &s->c[c];
    x->last = -1;
    x->pod = pod;
    x->worker = worker;
    x->hold = hold;
    x->tries = 0;
    return c;
}

INLINE int new_arrival(Kernel *s, int pod, Part *part)
{
    if (part->free_arrivals.n) {
        int c = part->free_arrivals.items[--part->free_arrivals.n];
        s->c[c].pod = pod;
        return c;
    }
    return new_client(s, pod, -1, &part->hold);
}

INLINE void hold_connection(Kernel *s, int c, int k)
{
    Client *x = &s->c[c];
    s->k[k].held_next = -1;
    if (x->held_last >= 0)
        s->k[x->held_last].held_next = k;
    else
        x->held_first = k;
    x->held_last = k;
    x->held++;
}

static void forget_held(Client *x)
{
    x->held_first = x->held_last = -1;
    x->held = 0;
}

/* Counts */

static void count_error(Kernel *s, Pod *p, int counted, int kind, double now)
{
    Tally *tally = &s->tallies[p->tally];
    Py_ssize_t at;
    s->n_errors++;
    if (!counted)
        return;
    for (at = 0; at < tally->n_errors; at++)
        if (tally->errors[at].kind == kind) {
            tally->errors[at].count++;
            return;
        }
    if (tally->n_errors == tally->room)
        tally->errors = grown(s, tally->errors, &tally->room, sizeof(Seen));
    tally->errors[at].kind = kind;
    tally->errors[at].count = 1;
    tally->errors[at].first_at = now;
    tally->n_errors++;
}

static Stats stats(const Kernel *s, const Pod *p, double now)
{
    Stats told;
    double held = 0.0;
    int k;
    for (k = p->own_head; k >= 0; k = s->k[k].own_next)
        if (s->k[k].state == IN_USE)
            held += now - s->k[k].acquired;
    told.open = p->open - p->ordered;
    told.in_use = p->open - p->idle.n - p->opening;
    told.idle = p->idle.n;
    told.opening = p->opening - p->ordered;
    told.waiting = p->waiting;
    told.queued = p->queued;
    told.queued_time = p->queued_time;
    told.opened = p->opened;
    told.failed = p->failed;
    told.max_idle = p->max_idle;
    told.idle_time = p->idle_time;
    told.lifetime = p->lifetime;
    told.error = p->error;
    told.reclaimed = p->reclaimed;
    told.other = p->other;
    told.peak_open = p->peak_open;
    told.peak_in_use = p->peak_in_use;
    told.open_time = p->open_area + (double)told.open * now;
    told.in_use_time = p->use_time + held;
    told.exhausted_at = p->exhausted_at;
    told.since = p->since;
    told.recovered_at = p->recovered;
    told.exhausted_time = p->exhausted_time + (p->since >= 0.0 ? now - p->since : 0.0);
    told.is_set = 1;
    return told;
}

/* Server */

static int64_t at_time(Kernel *s, double time, int kind, int64_t number)
{
    s->seq++;
    heap_push(s, &s->timers, time, s->seq, number * 16 + kind);
    return s->seq;
}

static int64_t after(Kernel *s, double delay, int kind, int64_t number, double now)
{
    return at_time(s, now + delay, kind, number);
}

/* The rate at which each of so many queries proceeds (rates_of); kept, since to divide takes its time. */
INLINE double rate_of(Kernel *s, Py_ssize_t active)
{
    while (active >= s->n_rates) {
        double n = (double)s->n_rates, rate = n <= s->cores ? 1.0 : s->cores / n;
        if (s->alpha != 0.0 || s->beta != 0.0)
            rate = rate / (1.0 + s->alpha * (n - 1.0) + s->beta * n * (n - 1.0));
        if (s->n_rates == s->room_rates)
            s->rates = grown(s, s->rates, &s->room_rates, sizeof(double));
        if (!s->n_rates)
            rate = 1.0;
        s->rates[s->n_rates++] = rate;
    }
    return s->rates[active];
}

INLINE void find_next_job(Kernel *s)
{
    double left = s->jobs.n ? s->jobs.items[0].at - s->base_v : 0.0;
    if (!s->jobs.n || s->rate == 0.0)
        s->next_job = INF;
    else {
        /* Of a large fleet no connection is in the nearest cache, and this one is wanted next. */
        if (s->jobs.items[0].code >= 0)
            PREFETCH(&s->k[s->jobs.items[0].code]);
        /* A division by 1 takes as long as any other. */
        s->next_job = s->is_shared ? s->base_t + (s->rate == 1.0 ? left : left / s->rate) : s->jobs.items[0].at;
    }
}

/* Bring V, and the processor time spent, up to now. */
INLINE void advance(Kernel *s, double now)
{
    double v = s->base_v + (now - s->base_t) * s->rate;
    s->work_done += (double)s->active * (v - s->base_v);
    s->base_v = v;
    s->base_t = now;
}

INLINE void add_job(Kernel *s, double work, int64_t code, double now)
{
    /* Where nothing slows a query down, V is the clock. */
    double v = now;
    s->seq++;
    if (s->is_shared) {
        advance(s, now);
        v = s->base_v;
    }
    heap_push(s, &s->jobs, v + work, s->seq, code);
    s->active++;
    if (s->is_shared)
        s->rate = s->paused ? 0.0 : rate_of(s, s->active);
    find_next_job(s);
}

INLINE int64_t take_job(Kernel *s, double now)
{
    Entry job = heap_pop(&s->jobs);
    if (s->is_shared)
        s->work_done += (double)s->active * (job.at - s->base_v);
    s->active--;
    if (s->is_shared) {
        s->base_v = s->active ? job.at : 0.0;
        s->base_t = now;
        s->rate = s->paused ? 0.0 : rate_of(s, s->active ? s->active : 1);
    }
    find_next_job(s);
    return job.code;
}

static void set_paused(Kernel *s, int paused, double now)
{
    advance(s, now);
    s->paused = paused;
    s->rate = paused ? 0.0 : rate_of(s, s->active ? s->active : 1);
    find_next_job(s);
}

static void claim_slot(Kernel *s, int k, double now)
{
    Connection *x = &s->k[k];
    x->slot = 0;
    if (now < s->down_until) {
        x->slot = SERVER_AWAY;
        return;
    }
    if (s->slots + s->doomed >= s->max_connections)
        return;
    if (s->slots + s->doomed >= s->usable) {
        s->doomed++;
        x->slot = 2;
        return;
    }
    s->slots++;
    x->slot = 1;
    if (s->slots > s->peak_slots)
        s->peak_slots = s->slots;
}

static void dial(Kernel *s, int k, double now)
{
    double took, work;
    s->k[k].asked = now;
    took = draw(&s->connect_time, &s->server);
    claim_slot(s, k, now);
    work = s->k[k].slot == 1 && s->is_shared ? (s->connect_cpu < took ? s->connect_cpu : took) : 0.0;
    s->k[k].outside = work;
    if (work != 0.0)
        took -= work;
    after(s, took, OPENED, k, now);
}

static void free_connection(Kernel *s, int k)
{
    Connection *x = &s->k[k];
    Pod *p = pod_of(s, k);
    x->state = FREE;
    x->timer = x->rest = 0;
    if (x->own_previous >= 0)
        s->k[x->own_previous].own_next = x->own_next;
    else
        p->own_head = x->own_next;
    if (x->own_next >= 0)
        s->k[x->own_next].own_previous = x->own_previous;
    else
        p->own_tail = x->own_previous;
    push(s, &s->free_connections, k);
}

static void hang_up(Kernel *s, int k)
{
    if (s->k[k].slot == 1)
        s->slots--;
    else if (s->k[k].slot == 2)
        s->doomed--;
    s->k[k].slot = 0;
}

static void dial_ended(Kernel *s, int k, double now)
{
    int slot;
    if (s->paused) {
        double delay = s->pause_ends - now;
        after(s, delay > 0.0 ? delay : 0.0, OPENED, k, now);
        return;
    }
    slot = s->k[k].slot;
    if (slot == 2) {
        s->doomed--;
        s->k[k].slot = 0;
    }
    if (s->k[k].state == ZOMBIE) {
        hang_up(s, k);
        free_connection(s, k);
    } else if (slot == 1)
        opened(s, k, now);
    else if (slot == SERVER_AWAY || slot == CUT)
        open_failed(s, k, now, slot == SERVER_AWAY ? STARTING : TERMINATED);
    else {
        s->refused++;
        open_failed(s, k, now, slot == 2 ? RESERVED : TOO_MANY);
    }
}

static void dialed(Kernel *s, int k, double now)
{
    if (s->k[k].outside > 0.0 && s->k[k].slot == 1) {
        add_job(s, s->k[k].outside, -1 - (int64_t)k, now);
        s->k[k].outside = 0.0;
        return;
    }
    dial_ended(s, k, now);
}

static void query_ended(Kernel *s, int k, double now)
{
    double outside = s->k[k].outside;
    s->k[k].outside = 0.0;
    after(s, outside, HOLD_END, k, now);
}

INLINE void statement(Kernel *s, int k, double work, double now)
{
    if (work > 0.0)
        add_job(s, work, k, now);
    else
        query_ended(s, k, now);
}

/* What is marked in ``is_gone`` (1: cut, 2: its opening is) loses what it had to do. */
static void drop_work(Kernel *s, const char *is_gone)
{
    Py_ssize_t at, kept = 0;
    double now = s->now;
    for (at = 0; at < s->jobs.n; at++) {
        int64_t code = s->jobs.items[at].code;
        if (!is_gone[code >= 0 ? code : -1 - code])
            s->jobs.items[kept++] = s->jobs.items[at];
    }
    s->jobs.n = kept;
    heapify(&s->jobs);
    if (s->is_shared)
        advance(s, now);
    s->active = s->jobs.n;
    s->rate = s->paused ? 0.0 : rate_of(s, s->active ? s->active : 1);
    find_next_job(s);
    for (at = kept = 0; at < s->timers.n; at++) {
        int64_t code = s->timers.items[at].code, number = code >> 4;
        int kind = (int)(code & 15);
        if (kind == HOLD_END && number >= 0 && is_gone[number])
            continue;
        if (kind == OPENED && is_gone[number] == 2)
            continue;
        s->timers.items[kept++] = s->timers.items[at];
    }
    s->timers.n = kept;
    heapify(&s->timers);
}

static void cut_chain(Kernel *s, int first, double now)
{
    int k;
    for (k = first; k >= 0; k = s->k[k].next_gone)
        if (!s->k[k].is_cut) {
            hang_up(s, k);
            s->k[k].outside = 0.0;
            s->k[k].slot = CUT;
            after(s, 0.0, OPENED, k, now);
        }
    for (k = first; k >= 0; k = s->k[k].next_gone)
        if (s->k[k].is_cut) {
            hang_up(s, k);
            s->k[k].dead = DEAD;
            s->k[k].stale = s->k[k].spent = -1.0;
        }
    for (k = first; k >= 0; k = s->k[k].next_gone)
        if (s->k[k].is_cut) {
            s->k[k].is_cut = 0;
            cut(s, k, now);
        }
}

/* Every connection loses its server process, in the order of the instances, and in each in the order of the openings. */
static void cut_all(Kernel *s, double now)
{
    Py_ssize_t n = s->n_k, at, n_gone = 0;
    char *is_gone = calloc((size_t)n + 1, 1);
    int *gone = malloc(((size_t)n + 1) * sizeof(int)), k;
    if (!is_gone || !gone) {
        free(is_gone);
        free(gone);
        longjmp(s->out_of_memory, 1);
    }
    for (at = 0; at < s->n_pods; at++)
        for (k = s->pods[at].own_head; k >= 0; k = s->k[k].own_next) {
            int state = s->k[k].state;
            if ((state == IDLE || state == IN_USE || state == RETURNING) && s->k[k].dead == ALIVE)
                is_gone[k] = 1;
            else if ((state == OPENING || state == ORPHAN || state == ZOMBIE) && s->k[k].slot == 1)
                is_gone[k] = 2;
            if (is_gone[k])
                gone[n_gone++] = k;
        }
    drop_work(s, is_gone);
    /* Chained through next_gone, so that nothing is lost if memory runs out meanwhile. */
    for (at = 0; at < n_gone; at++) {
        s->k[gone[at]].next_gone = at + 1 < n_gone ? gone[at + 1] : -1;
        s->k[gone[at]].is_cut = is_gone[gone[at]] == 1;
    }
    k = n_gone ? gone[0] : -1;
    free(is_gone);
    free(gone);
    cut_chain(s, k, now);
}

static void multiply_slow(Kernel *s)
{
    Py_ssize_t at;
    s->slow_factor = 1.0;
    for (at = 0; at < s->n_slow; at++)
        s->slow_factor *= s->slow[at];
}

static void serve_event(Kernel *s, const Event *event, double now)
{
    if (event->kind == DO_PAUSE) {
        s->pause_ends = now + event->duration;
        set_paused(s, 1, now);
    } else if (event->kind == DO_SLOW) {
        s->slow[s->n_slow++] = event->factor;
        s->slow_factor *= event->factor;
    } else if (event->kind == DO_CUT) {
        s->down_until = now + event->down;
        cut_all(s, now);
    }
}

static void end_event(Kernel *s, const Event *event, double now)
{
    if (event->kind == DO_PAUSE)
        set_paused(s, 0, now);
    else if (event->kind == DO_SLOW) {
        Py_ssize_t at;
        for (at = 0; at < s->n_slow && s->slow[at] != event->factor; at++)
            ;
        if (at < s->n_slow)
            memmove(s->slow + at, s->slow + at + 1, (size_t)(--s->n_slow - at) * sizeof(double));
        multiply_slow(s);
    }
}

/* Openings */

static void take_slot(Pod *p)
{
    p->open++;
    p->opening++;
}

static void begin_opening(Pod *p, double now)
{
    int open = p->open - p->ordered;
    p->open_area -= now;
    if (open > p->peak_open)
        p->peak_open = open;
}

static void forget(Pod *p, double now)
{
    p->open--;
    p->open_area += now;
    if (p->since >= 0.0)
        recover_if_free(p, now);
}

INLINE void take(Kernel *s, int k, Pod *p, double now)
{
    s->k[k].state = IN_USE;
    s->k[k].acquired = now;
    if (p->room)
        p->room--;
    else
        p->peak_in_use++;
}

INLINE void untake(Kernel *s, int k, Pod *p, double now)
{
    p->use_time += now - s->k[k].acquired;
    s->k[k].acquired = now;
    p->room++;
}

static void open_for(Kernel *s, int c, Pod *p, double now)
{
    int k = new_connection(s, p, c);
    s->c[c].state = DIALING;
    take_slot(p);
    begin_opening(p, now);
    await_patience(s, c, p, now);
    if (p->part->opens_locked)
        p->lock++;
    dial(s, k, now);
}

static void born(Kernel *s, int k, Pod *p, double now)
{
    Part *part = p->part;
    double lifetime = part->lifetime, low = part->f[F_jitter_low], high = part->f[F_jitter_high];
    Connection *x = &s->k[k];
    x->born = x->released = now;
    x->stale = x->spent = x->ends = INF;
    if (lifetime == INF)
        return;
    if (low != high)
        lifetime *= 1.0 + low + (high - low) * uniform(&s->pool);
    if (part->f[F_lifetime_jitter] != 0.0)
        lifetime += part->f[F_lifetime_jitter] * uniform(&s->pool);
    x->ends = now + lifetime;
    if (part->f[F_checked_at_acquire] != 0.0)
        x->stale = now + lifetime;
    if (part->f[F_checked_at_release] != 0.0)
        x->spent = now + lifetime;
    if (part->f[F_checked_by_timer] != 0.0)
        x->timer = after(s, lifetime, LIFE, k, now);
}

static void opener_done(Kernel *s, Pod *p, double now)
{
    double pause = p->part->f[F_open_pause];
    if (pause != 0.0)
        after(s, pause, OPENER, -1 - p->number, now);
    else
        p->busy--;
}

static void open_next(Kernel *s, Pod *p, double now)
{
    while ((p->ordered || p->tasks.n) && (double)p->busy < p->part->f[F_openers]) {
        if (p->tasks.n && ring_at(&p->tasks, 0)->serial <= p->begun) {
            int k = ring_pop(&p->tasks).c;
            if (s->k[k].state == OPENING) {
                p->busy++;
                dial(s, k, now);
            } else if (!put(s, k, p, now))
                close_connection(s, k, p, now);
            continue;
        }
        p->ordered--;
        if (p->part->f[F_orders_lapse] != 0.0 && p->waiting <= p->idle.n
            && !(p->part->f[F_is_refilled] != 0.0 && p->state == 1 && p->idle.n < p->part->min_idle)) {
            p->open--;
            p->opening--;
            recover_if_free(p, now);
            continue;
        }
        p->busy++;
        p->begun++;
        begin_opening(p, now);
        dial(s, new_connection(s, p, -1), now);
    }
}

static void order(Kernel *s, Pod *p, int number, double now)
{
    p->open += number;
    p->opening += number;
    p->ordered += number;
    open_next(s, p, now);
}

static void opened(Kernel *s, int k, double now)
{
    Pod *p = pod_of(s, k);
    int c = s->k[k].client, is_orphan;
    if (now >= s->warmup)
        record(s, &s->tallies[p->tally].connect, now - s->k[k].asked);
    p->opening--;
    p->opened++;
    if (s->k[k].is_probe) {
        p->other++;
        forget(p, now);
        hang_up(s, k);
        free_connection(s, k);
        p->lock--;
        s->c[c].state = OUT;
        attempt(s, c, now);
        p->lock++;
        unlock(s, p, now);
        return;
    }
    born(s, k, p, now);
    if (c >= 0 && s->k[k].state == OPENING) {
        take(s, k, p, now);
        serve(s, c, k, now);
        unlock(s, p, now);
        return;
    }
    s->k[k].client = -1;
    is_orphan = s->k[k].state == ORPHAN;
    s->k[k].state = IN_USE;
    s->k[k].acquired = now;
    if (!is_orphan)
        opener_done(s, p, now);
    if (!put(s, k, p, now)) {
        forget(p, now);
        hang_up(s, k);
        free_connection(s, k);
    }
    if (p->part->opens_in_background || p->part->growth != GROWTH_ORDERED)
        open_for_waiters(s, p, now);
    open_next(s, p, now);
}

static void open_failed(Kernel *s, int k, double now, int kind)
{
    Pod *p = pod_of(s, k);
    Part *part = p->part;
    int c = s->k[k].client, is_own = c >= 0, is_orphan, outcome = kind <= TOO_MANY ? REFUSED : FAILED;
    if (!is_own && part->f[F_retry_first] >= 0.0) {
        double delay = part->f[F_retry_first] * pow(2.0, (double)s->k[k].tries);
        p->failed++;
        if (delay > part->f[F_retry_longest])
            delay = part->f[F_retry_longest];
        if (s->k[k].tries < 60)
            s->k[k].tries++;
        after(s, delay, OPENER, k, now);
        if (part->returned_by_opener) {
            p->busy--;
            open_next(s, p, now);
        }
        return;
    }
    p->opening--;
    p->failed++;
    is_orphan = s->k[k].state == ORPHAN;
    if (s->k[k].is_probe)
        p->is_probed = 0;
    free_connection(s, k);
    forget(p, now);
    if (!is_own && !is_orphan) {
        opener_done(s, p, now);
        if (p->waiting) {
            int waiter = leave_queue(s, p, now, -1);
            recover_if_free(p, now);
            fail_soon(s, waiter, outcome, kind);
        }
    }
    if (part->f[F_wakes_on_failure] != 0.0)
        open_for_waiters(s, p, now);
    if (is_own) {
        unlock(s, p, now);
        fail(s, c, outcome, kind, now);
    }
}

static void abandon(Kernel *s, int c, Pod *p, double now)
{
    int k;
    for (k = p->own_head; k >= 0; k = s->k[k].own_next)
        if (s->k[k].client == c && s->k[k].state == OPENING)
            break;
    if (k < 0)
        return;
    s->k[k].client = -1;
    if (p->part->f[F_keeps_abandoned] != 0.0) {
        s->k[k].state = ORPHAN;
        return;
    }
    s->k[k].state = ZOMBIE;
    p->opening--;
    p->failed++;
    forget(p, now);
    open_for_waiters(s, p, now);
}

static void open_for_waiters(Kernel *s, Pod *p, double now)
{
    Part *part = p->part;
    double wanted, have;
    if (p->waiting && part->replaced_by_caller) {
        while (p->waiting && p->open < part->max_open && !(part->barging && p->idle.n)) {
            int c = leave_queue(s, p, now, -1);
            if (!p->waiting)
                recover_if_free(p, now);
            open_for(s, c, p, now);
        }
        open_next(s, p, now);
        return;
    }
    if (part->growth == GROWTH_ORDERED) {
        wanted = p->waiting;
        if (part->opens_in_background)
            wanted = p->busy ? 0.0 : wanted < 1.0 ? wanted : 1.0;
    } else if (part->growth == GROWTH_ONE) {
        wanted = p->busy ? 0.0 : p->waiting < 1 ? p->waiting : 1.0;
        if (wanted == 0.0 && !p->busy && part->f[F_is_refilled] != 0.0 && p->open < part->min_idle)
            wanted = 1.0;
    } else {
        wanted = (double)(p->waiting - p->opening - p->idle.n);
        if (part->growth == GROWTH_INCREMENT && wanted > 0.0 && wanted < 3.0)
            wanted = 3.0;
        if (part->f[F_is_refilled] != 0.0 && p->state == 1) {
            have = part->f[F_floor] == FLOOR_OPEN ? p->open : (double)(p->idle.n + p->opening - p->waiting);
            if (part->min_idle - have > wanted)
                wanted = part->min_idle - have;
        }
    }
    if (part->max_open - p->open < wanted)
        wanted = part->max_open - p->open;
    if (wanted > 0.0)
        order(s, p, (int)wanted, now);
    else
        open_next(s, p, now);
}

static void opener_wakes(Kernel *s, int64_t number, double now)
{
    Pod *p;
    if (number >= 0) {
        if (s->k[number].state == ZOMBIE)
            free_connection(s, (int)number);
        else {
            p = pod_of(s, (int)number);
            if (p->part->returned_by_opener) {
                ring_push(s, &p->tasks, 0.0, (int)number, p->begun + p->ordered);
                open_next(s, p, now);
            } else
                dial(s, (int)number, now);
        }
        return;
    }
    p = &s->pods[-1 - number];
    p->busy--;
    if (p->state < 3) {
        open_next(s, p, now);
        open_for_waiters(s, p, now);
    }
}

static void fill(Kernel *s, Pod *p, double now)
{
    Part *part = p->part;
    int number = part->min_idle, at, k;
    double most = part->max_open < 1e9 ? part->max_open : 1e9;
    if (most < number)
        number = (int)most;
    if (part->f[F_fill] == FILL_BACKGROUND)
        order(s, p, number, now);
    else if (part->f[F_fill] == FILL_BEFORE)
        for (at = 0; at < number; at++) {
            k = new_connection(s, p, -1);
            claim_slot(s, k, now);
            if (s->k[k].slot != 1) {
                hang_up(s, k);
                free_connection(s, k);
                p->failed++;
                continue;
            }
            take_slot(p);
            begin_opening(p, now);
            p->opening--;
            p->opened++;
            born(s, k, p, now);
            s->k[k].state = IDLE;
            push(s, &p->idle, k);
        }
    p->low = (int)p->idle.n;
}

/* Queues */

static void exhaust(Pod *p, double now)
{
    if (p->since >= 0.0)
        return;
    p->since = now;
    p->alert = 1;
    p->recovered = -1.0;
    if (p->exhausted_at < 0.0)
        p->exhausted_at = now;
}

static void recover(Pod *p, double now)
{
    if (p->since >= 0.0) {
        p->exhausted_time += now - p->since;
        p->since = -1.0;
        p->recovered = now;
    }
}

static void recover_if_free(Pod *p, double now)
{
    if (!p->waiting && (p->idle.n || p->open < p->part->max_open))
        recover(p, now);
}

static void watch_idle(Kernel *s, Pod *p, double now)
{
    double shortest = p->part->shortest_life;
    if (p->part->idle_closing != CLOSING_GO || p->clean_at != INF || shortest == INF)
        return;
    if (shortest < s->shortest_cleaning)
        shortest = s->shortest_cleaning;
    p->clean_at = now + shortest;
    after(s, shortest, CLEAN, p->number, now);
}

INLINE void acquire(Kernel *s, int c, double now)
{
    Client *x = &s->c[c];
    Pod *p = &s->pods[x->pod];
    x->serial = ++s->serial;
    x->attempt = 0;
    x->queued = x->deadline = -1.0;
    if (p->lock) {
        x->state = LOCKED;
        ring_push(s, &p->locked, 0.0, c, -1);
        return;
    }
    attempt(s, c, now);
}

INLINE int is_unnoticed(const Kernel *s, int k, const Pod *p, double now)
{
    double after_idle = p->part->f[F_validated_after];
    if (s->k[k].dead != DEAD)
        return 0;
    return after_idle < 0.0 || now - s->k[k].released < after_idle;
}

INLINE int pick_idle(Kernel *s, int c, Pod *p)
{
    Part *part = p->part;
    Py_ssize_t at = 0, each;
    int k;
    if (part->by_thread) {
        int own = s->c[c].last;
        if (own >= 0 && s->k[own].number != s->c[c].last_number)
            own = -1;
        if (own >= 0 && s->k[own].state == IDLE && s->k[own].pod == p->number)
            at = find(&p->idle, own);
        else
            for (each = 1; each < p->idle.n; each++) {
                int a = p->idle.items[each], b = p->idle.items[at];
                if (s->k[a].born < s->k[b].born || (s->k[a].born == s->k[b].born && a < b))
                    at = each;
            }
    } else if (part->generations && p->old)
        at = --p->old;
    else if (part->is_lifo)
        at = p->idle.n - 1;
    k = pop_at(&p->idle, at);
    if (p->idle.n < p->low)
        p->low = (int)p->idle.n;
    return k;
}

static void start_codel(Kernel *s, Pod *p, double now)
{
    if (p->codel[3] < 0.0) {
        p->codel[3] = now;
        after(s, p->part->f[F_codel_interval], TICK, p->number, now);
    }
}

static void queue(Kernel *s, int c, Pod *p, double now)
{
    Client *x = &s->c[c];
    x->state = WAITING;
    x->since = now;
    if (x->queued < 0.0)
        x->queued = now;
    p->waiting++;
    s->waiting++;
    p->queued++;
    if (p->open >= p->part->max_open)
        exhaust(p, now);
    if (p->part->waiter_order == ORDER_RANDOM) {
        x->place = (int)p->random.n;
        push(s, &p->random, c);
    } else {
        x->ticket = ++s->seq;
        ring_push(s, &p->fifo, 0.0, c, x->ticket);
    }
    if (p->part->codel)
        start_codel(s, p, now);
    else
        await_patience(s, c, p, now);
}

static void await_patience(Kernel *s, int c, Pod *p, double now)
{
    Part *part = p->part;
    Client *x = &s->c[c];
    double deadline;
    if (part->patience < 0.0 || (x->deadline >= 0.0 && part->timeout != TIMEOUT_EACH))
        return;
    if (x->state == DIALING && part->timeout == TIMEOUT_QUEUE)
        return;
    if (x->deadline >= 0.0)
        x->serial = ++s->serial;
    deadline = now + part->patience;
    x->deadline = deadline;
    ring_push(s, &part->deadlines, deadline, c, x->serial);
    if (deadline < s->next_deadline)
        s->next_deadline = deadline;
}

static void grow(Kernel *s, Pod *p, double now)
{
    if (p->part->growth != GROWTH_ORDERED)
        open_for_waiters(s, p, now);
    else if (!p->busy) {
        take_slot(p);
        begin_opening(p, now);
        p->busy++;
        dial(s, new_connection(s, p, -1), now);
    }
}

/* The lock must be there before the opening begins, which may end at the same instant. */
static void probe(Kernel *s, int c, Pod *p, double now)
{
    int k = new_connection(s, p, c);
    p->is_probed = 1;
    s->c[c].state = DIALING;
    take_slot(p);
    begin_opening(p, now);
    await_patience(s, c, p, now);
    p->lock++;
    s->k[k].is_probe = 1;
    dial(s, k, now);
}

INLINE void attempt(Kernel *s, int c, double now)
{
    Pod *p = &s->pods[s->c[c].pod];
    Part *part = p->part;
    int bound = part->stale_attempts;
    if (!p->is_probed) {
        probe(s, c, p, now);
        return;
    }
    while (p->idle.n && (!bound || s->c[c].attempt < bound)) {
        int k = pick_idle(s, c, p);
        if (s->k[k].stale >= now || is_unnoticed(s, k, p, now)) {
            take(s, k, p, now);
            serve(s, c, k, now);
            return;
        }
        if (s->k[k].dead)
            p->error++;
        else
            p->lifetime++;
        if (part->f[F_is_reopened] != 0.0) {
            hang_up(s, k);
            free_connection(s, k);
            forget(p, now);
            open_for(s, c, p, now);
            return;
        }
        close_connection(s, k, p, now);
        s->c[c].attempt++;
    }
    if (p->open < part->max_open && !part->opens_in_background)
        open_for(s, c, p, now);
    else if (p->open >= part->max_open && part->waiter_order == ORDER_NONE) {
        exhaust(p, now);
        fail(s, c, TIMED_OUT, part->overdue, now);
    } else if (part->max_queue && p->waiting + p->ghosts >= part->max_queue) {
        exhaust(p, now);
        fail(s, c, TIMED_OUT, part->rejected, now);
    } else {
        queue(s, c, p, now);
        if (p->open < part->max_open)
            grow(s, p, now);
    }
}

static int leave_queue(Kernel *s, Pod *p, double now, int c)
{
    if (p->part->waiter_order == ORDER_RANDOM) {
        int place, last;
        if (c < 0)
            c = p->random.items[pick(&s->pool, p->random.n)];
        place = s->c[c].place;
        last = p->random.items[--p->random.n];
        if (last != c) {
            p->random.items[place] = last;
            s->c[last].place = place;
        }
    } else {
        if (c < 0 && p->part->waiter_order == ORDER_LIFO)
            for (;;) {
                Due last = *ring_at(&p->fifo, --p->fifo.n);
                c = last.c;
                if (s->c[c].ticket == last.serial)
                    break;
            }
        else if (c < 0)
            for (;;) {
                Due first = ring_pop(&p->fifo);
                c = first.c;
                if (s->c[c].ticket == first.serial)
                    break;
            }
        s->c[c].ticket = 0;
        while (p->fifo.n && s->c[ring_at(&p->fifo, 0)->c].ticket != ring_at(&p->fifo, 0)->serial)
            ring_pop(&p->fifo);
    }
    s->c[c].state = OUT;
    p->waiting--;
    s->waiting--;
    p->queued_time += now - s->c[c].since;
    return c;
}

static void lose_patience(Kernel *s, int c, double now)
{
    Pod *p = &s->pods[s->c[c].pod];
    Part *part = p->part;
    if (s->c[c].state == WAITING) {
        leave_queue(s, p, now, c);
        recover_if_free(p, now);
        if (part->f[F_timed_out_waiter] == GHOST)
            p->ghosts++;
        else if (part->f[F_timed_out_waiter] == OPENS && (p->idle.n || p->open < part->max_open)) {
            attempt(s, c, now);
            return;
        }
    } else
        abandon(s, c, p, now);
    fail(s, c, TIMED_OUT, part->overdue, now);
}

INLINE void release(Kernel *s, int k, double now, int broken)
{
    Pod *p = pod_of(s, k);
    Part *part = p->part;
    Connection *x;
    if (p->lock) {
        ring_push(s, &p->locked, 0.0, -1, k);
        return;
    }
    x = &s->k[k];
    x->released = now;
    untake(s, k, p, now);
    x->client = -1;
    p->ghosts = 0;
    if (part->max_uses && ++x->uses >= part->max_uses)
        x->spent = -1.0;
    if (broken || x->spent < now) {
        if (broken || x->dead) {
            p->error++;
            if (part->f[F_dead] == DEAD_ALL && x->dead) {
                Py_ssize_t at;
                for (at = 0; at < p->idle.n; at++)
                    if (s->k[p->idle.items[at]].dead)
                        s->k[p->idle.items[at]].dead = KNOWN_DEAD;
            }
        } else if (part->max_uses && x->spent < 0.0)
            p->other++;
        else
            p->lifetime++;
        x->is_replaced = part->f[F_replaces_spent] != 0.0;
        if (part->growth == GROWTH_ORDERED && !part->replaced_by_caller)
            open_for_waiters(s, p, now);
        close_connection(s, k, p, now);
    } else if (part->returned_by_opener && (double)p->busy >= part->f[F_openers]) {
        x->state = RETURNING;
        ring_push(s, &p->tasks, 0.0, k, p->begun + p->ordered);
    } else if (!put(s, k, p, now))
        close_connection(s, k, p, now);
}

static void hand_over(Kernel *s, int c, int k, Pod *p, double now)
{
    take(s, k, p, now);
    if (s->k[k].dead && !is_unnoticed(s, k, p, now)) {
        release(s, k, now, 1);
        s->c[c].attempt++;
        attempt(s, c, now);
    } else
        serve(s, c, k, now);
}

INLINE int put(Kernel *s, int k, Pod *p, double now)
{
    Part *part = p->part;
    if (p->waiting && part->codel && !drop_overdue(s, p, now))
        ;
    else if (p->waiting && !part->barging) {
        int c = leave_queue(s, p, now, -1);
        if (!p->waiting)
            recover(p, now);
        hand_over(s, c, k, p, now);
        return 1;
    }
    if ((double)p->idle.n >= part->keeps) {
        p->max_idle++;
        return 0;
    }
    s->k[k].state = IDLE;
    push(s, &p->idle, k);
    if (p->waiting) {
        after(s, s->wake_time, WAKE, p->number, now);
        watch_idle(s, p, now);
    } else if (p->alert) {
        recover(p, now);
        watch_idle(s, p, now);
        p->alert = 0;
    }
    if (part->idle_closing == CLOSING_TIMER && part->max_idle_time >= 0.0 && !s->k[k].rest) {
        int64_t seq = after(s, part->max_idle_time, REST, k, now);
        s->k[k].rest = seq;
    }
    return 1;
}

static void wake(Kernel *s, Pod *p, double now)
{
    int c;
    if (!p->waiting)
        return;
    c = leave_queue(s, p, now, -1);
    if (p->idle.n) {
        if (!p->waiting)
            recover(p, now);
        attempt(s, c, now);
        return;
    }
    p->queued--;
    queue(s, c, p, now);
}

static void close_connection(Kernel *s, int k, Pod *p, double now)
{
    int is_replaced = s->k[k].is_replaced;
    hang_up(s, k);
    free_connection(s, k);
    forget(p, now);
    if (is_replaced)
        order(s, p, 1, now);
    open_for_waiters(s, p, now);
}

static void unlock(Kernel *s, Pod *p, double now)
{
    if (!p->lock)
        return;
    p->lock--;
    while (p->locked.n && !p->lock) {
        Due first = ring_pop(&p->locked);
        if (first.c >= 0) {
            s->c[first.c].state = OUT;
            attempt(s, first.c, now);
        } else if (s->k[first.serial].state == IN_USE)
            release(s, (int)first.serial, now, s->k[first.serial].dead != ALIVE);
    }
}

/* Sweeps */

static void clean(Kernel *s, Pod *p, double now)
{
    Part *part = p->part;
    double idle_time = part->max_idle_time < 0.0 ? INF : part->max_idle_time;
    double lifetime = part->f[F_checked_by_cleaner] != 0.0 ? part->lifetime : INF;
    double due = now + (idle_time < lifetime ? idle_time : lifetime);
    Py_ssize_t at, kept, n_closing = 0;
    Ints closing = {0};
    p->clean_at = INF;
    p->alert = 1;
    if (p->open == 0)
        return;
    if (p->idle.n) {
        closing.items = malloc((size_t)p->idle.n * sizeof(int));
        if (!closing.items)
            longjmp(s->out_of_memory, 1);
    }
    if (idle_time < INF && p->idle.n) {
        for (at = kept = 0; at < p->idle.n; at++) {
            int k = p->idle.items[at];
            if (s->k[k].released + idle_time <= now)
                closing.items[n_closing++] = k;
            else
                p->idle.items[kept++] = k;
        }
        p->idle_time += n_closing;
        p->idle.n = kept;
        if (kept && s->k[p->idle.items[0]].released + idle_time < due)
            due = s->k[p->idle.items[0]].released + idle_time;
    }
    if (lifetime < INF && p->idle.n) {
        for (at = kept = 0; at < p->idle.n; at++) {
            int k = p->idle.items[at];
            if (s->k[k].born + lifetime <= now) {
                closing.items[n_closing++] = k;
                p->lifetime++;
            } else {
                p->idle.items[kept++] = k;
                if (s->k[k].born + lifetime < due)
                    due = s->k[k].born + lifetime;
            }
        }
        p->idle.n = kept;
    }
    if (now + s->shortest_cleaning > due)
        due = now + s->shortest_cleaning;
    p->clean_at = due;
    /* Chained through held_next, which an idle connection does not need: nothing is lost if memory runs out. */
    for (at = 0; at < n_closing; at++)
        s->k[closing.items[at]].held_next = at + 1 < n_closing ? closing.items[at + 1] : -1;
    at = n_closing ? closing.items[0] : -1;
    free(closing.items);
    at_time(s, due, CLEAN, p->number);
    while (at >= 0) {
        int k = (int)at;
        at = s->k[k].held_next;
        close_connection(s, k, p, now);
    }
}

static void begin_sweeps(Kernel *s, Pod *p, double now)
{
    Part *part = p->part;
    int is_sweep = part->idle_closing == CLOSING_SWEEP || part->idle_closing == CLOSING_MEDIAN;
    if (part->idle_closing == CLOSING_ONE) {
        if (part->max_idle_time >= 0.0)
            after(s, part->max_idle_time, SWEEP, p->number, now);
    } else if (is_sweep && part->f[F_sweep] < INF) {
        int is_last = part->f[F_idle_kept] == KEPT_SWEEP;
        int capped = is_last && part->f[F_max_idle] < part->max_open;
        int wanted = part->max_idle_time >= 0.0 || part->lifetime < INF || part->f[F_is_refilled] != 0.0;
        if (capped || (wanted && !is_last))
            after(s, part->f[F_sweep], SWEEP, p->number, now);
    }
}

static void take_idle(Kernel *s, int k, Pod *p)
{
    Py_ssize_t at = find(&p->idle, k);
    if (at < p->old)
        p->old--;
    pop_at(&p->idle, at);
    s->k[k].state = CLOSING;
}

static void close_idle(Kernel *s, int k, Pod *p, double now)
{
    take_idle(s, k, p);
    close_connection(s, k, p, now);
}

/* A sweep takes out all that it closes, chained through next_gone, before it closes the first. */
static void choose(Kernel *s, int k, Pod *p)
{
    take_idle(s, k, p);
    s->k[k].next_gone = -1;
    if (p->n_chosen++)
        s->k[p->last_chosen].next_gone = k;
    else
        p->first_chosen = k;
    p->last_chosen = k;
}

static void close_chosen(Kernel *s, Pod *p, double now)
{
    int k = p->n_chosen ? p->first_chosen : -1, next;
    p->n_chosen = 0;
    for (; k >= 0; k = next) {
        next = s->k[k].next_gone;
        close_connection(s, k, p, now);
    }
}

static int above_floor(const Pod *p)
{
    Part *part = p->part;
    if (part->f[F_floor] == FLOOR_NONE)
        return 1;
    return (part->f[F_floor] == FLOOR_IDLE ? (int)p->idle.n : p->open - p->n_chosen) > part->min_idle;
}

typedef struct { double released; int place, k; } Idle;

static int released_first(const void *a, const void *b)
{
    const Idle *x = a, *y = b;
    if (x->released != y->released)
        return x->released < y->released ? -1 : 1;
    return x->place < y->place ? -1 : 1;
}

static int released_last(const void *a, const void *b)
{
    const Idle *x = a, *y = b;
    if (x->released != y->released)
        return x->released > y->released ? -1 : 1;
    return x->place < y->place ? -1 : 1;
}

/* Chain what is idle, in the order in which it is looked at, through held_next; the first, or -1. */
static int chain_idle(Kernel *s, Pod *p, int (*compare)(const void *, const void *))
{
    Py_ssize_t n = p->idle.n, at;
    Idle *sorted;
    int first;
    if (!n)
        return -1;
    sorted = malloc((size_t)n * sizeof(Idle));
    if (!sorted)
        longjmp(s->out_of_memory, 1);
    for (at = 0; at < n; at++) {
        sorted[at].k = p->idle.items[at];
        sorted[at].place = (int)at;
        sorted[at].released = s->k[sorted[at].k].released;
    }
    if (compare)
        qsort(sorted, (size_t)n, sizeof(Idle), compare);
    for (at = 0; at < n; at++)
        s->k[sorted[at].k].held_next = at + 1 < n ? sorted[at + 1].k : -1;
    first = sorted[0].k;
    free(sorted);
    return first;
}

static void close_long_idle(Kernel *s, Pod *p, double now)
{
    double since = now - (p->part->max_idle_time < 0.0 ? 0.0 : p->part->max_idle_time);
    int k = chain_idle(s, p, p->part->f[F_closes_newest] != 0.0 ? released_last : released_first), next;
    for (; k >= 0; k = next) {
        next = s->k[k].held_next;
        if (s->k[k].released <= since && above_floor(p)) {
            p->idle_time++;
            choose(s, k, p);
        }
    }
}

static int int_first(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static void prune(Kernel *s, Pod *p)
{
    int number;
    p->samples[p->n_samples++] = (int)p->idle.n;
    if (p->n_samples < 30)
        return;
    qsort(p->samples, 30, sizeof(int), int_first);
    number = p->samples[15];
    p->n_samples = 0;
    for (; number > 0 && p->idle.n && above_floor(p); number--) {
        p->idle_time++;
        choose(s, p->idle.items[0], p);
    }
}

static void refill(Kernel *s, Pod *p, double now)
{
    Part *part = p->part;
    int have = part->f[F_floor] == FLOOR_OPEN ? p->open : (int)p->idle.n + p->opening;
    double missing = part->min_idle - have;
    if (part->max_open - p->open < missing)
        missing = part->max_open - p->open;
    if (missing > 0.0)
        order(s, p, (int)missing, now);
}

static void sweep(Kernel *s, Pod *p, double now)
{
    Part *part = p->part;
    if (part->idle_closing == CLOSING_ONE) {
        if (p->low > 0 && p->open > part->min_idle && p->idle.n) {
            p->idle_time++;
            choose(s, p->idle.items[0], p);
        }
        p->low = (int)p->idle.n;
        close_chosen(s, p, now);
        after(s, part->max_idle_time < 0.0 ? 0.0 : part->max_idle_time, SWEEP, p->number, now);
        return;
    }
    if (part->f[F_checked_by_cleaner] != 0.0 && part->lifetime < INF) {
        int k = chain_idle(s, p, NULL), next;
        for (; k >= 0; k = next) {
            next = s->k[k].held_next;
            if (s->k[k].ends <= now) {
                s->k[k].is_replaced = p->part->f[F_replaces_spent] != 0.0;
                p->lifetime++;
                choose(s, k, p);
            }
        }
    }
    if (part->idle_closing == CLOSING_MEDIAN)
        prune(s, p);
    else if (part->max_idle_time >= 0.0)
        close_long_idle(s, p, now);
    if (part->f[F_idle_kept] == KEPT_SWEEP)
        while ((double)p->idle.n > part->f[F_max_idle]) {
            p->max_idle++;
            choose(s, p->idle.items[0], p);
        }
    p->old = (int)p->idle.n;
    close_chosen(s, p, now);
    if (part->f[F_is_refilled] != 0.0 && p->state == 1)
        refill(s, p, now);
    after(s, part->f[F_sweep], SWEEP, p->number, now);
}

static void life_ends(Kernel *s, int k, int64_t seq, double now)
{
    Pod *p = pod_of(s, k);
    if (s->k[k].timer != seq)
        return;
    s->k[k].timer = 0;
    s->k[k].spent = -1.0;
    if (s->k[k].state == IDLE) {
        p->lifetime++;
        close_idle(s, k, p, now);
    }
}

static void rest_ends(Kernel *s, int k, int64_t seq, double now)
{
    Pod *p = pod_of(s, k);
    double idle_time = p->part->max_idle_time;
    int64_t next;
    if (s->k[k].rest != seq)
        return;
    s->k[k].rest = 0;
    if (s->k[k].state != IDLE || idle_time < 0.0)
        return;
    if (s->k[k].released + idle_time > now) {
        next = at_time(s, s->k[k].released + idle_time, REST, k);
        s->k[k].rest = next;
    } else if (above_floor(p)) {
        p->idle_time++;
        close_idle(s, k, p, now);
    } else {
        next = after(s, idle_time, REST, k, now);
        s->k[k].rest = next;
    }
}

static void cut(Kernel *s, int k, double now)
{
    Pod *p = pod_of(s, k);
    if (s->k[k].state == IN_USE)
        statement_failed(s, k, TERMINATED, now);
    else if (s->k[k].state == IDLE && p->part->f[F_dead] == DEAD_DROPPED) {
        p->error++;
        s->k[k].dead = KNOWN_DEAD;
        close_idle(s, k, p, now);
    }
}

static double first_since(const Kernel *s, const Pod *p)
{
    return s->c[ring_at(&p->fifo, 0)->c].since;
}

static void drop_older(Kernel *s, Pod *p, double age, double now)
{
    while (p->waiting && now - first_since(s, p) > age) {
        int c = leave_queue(s, p, now, -1);
        fail_soon(s, c, TIMED_OUT, p->part->overdue);
    }
}

static void poll_codel(Kernel *s, Pod *p, double now)
{
    double target = p->part->f[F_codel_target], interval = p->part->f[F_codel_interval], first;
    if (!p->part->codel || !p->waiting) {
        p->codel[3] = -1.0;
        return;
    }
    first = first_since(s, p);
    if (first <= p->codel[3] && now >= p->codel[1]) {
        p->codel[2] = p->codel[0] > target ? 1.0 : 0.0;
        p->codel[0] = now - first;
        p->codel[1] = now + interval;
        if (p->codel[2] != 0.0)
            drop_older(s, p, 2 * target, now);
    }
    p->codel[3] = first;
    after(s, interval, TICK, p->number, now);
}

static int drop_overdue(Kernel *s, Pod *p, double now)
{
    double target = p->part->f[F_codel_target], interval = p->part->f[F_codel_interval], waited;
    if (now >= p->codel[1]) {
        p->codel[2] = p->codel[0] > target ? 1.0 : 0.0;
        p->codel[0] = INF;
        p->codel[1] = now + interval;
    } else if (p->codel[2] != 0.0)
        drop_older(s, p, 2 * target, now);
    if (!p->waiting) {
        p->codel[0] = 0.0;
        return 0;
    }
    waited = now - first_since(s, p);
    if (waited < p->codel[0])
        p->codel[0] = waited;
    return 1;
}

/* Requests */

static void retire(Kernel *s, int c, Pod *p, double now)
{
    p->sources--;
    s->c[c].state = OUT;
    push(s, &s->free_clients, c);
    look_whether_over(s, p, now);
}

INLINE void begin(Kernel *s, int c, double due, double now)
{
    Client *x = &s->c[c];
    Pod *p = &s->pods[x->pod];
    x->due = due;
    x->counted = due >= s->warmup;
    s->tallies[p->tally].requests += x->counted;
    p->clients++;
    if (p->part->every) {
        p->requests++;
        x->leaks = p->requests % p->part->every == 0;
    }
    acquire(s, c, now);
}

static int takes_request(Worker *w, Pod *p)
{
    int left = w->left;
    if (left == -2) {
        p->budget -= 1.0;
        return p->budget >= 0.0;
    }
    if (left > 0)
        w->left--;
    return left != 0;
}

static void work(Kernel *s, int c, double now)
{
    Worker *w = &s->w[s->c[c].worker];
    Pod *p = &s->pods[s->c[c].pod];
    if (now >= w->until || !takes_request(w, p)) {
        retire(s, c, p, now);
        return;
    }
    if (w->think->mean > 0.0)
        after(s, draw(w->think, &s->thinks), BEGIN, c, now);
    else
        begin(s, c, now, now);
}

static void begin_after(Kernel *s, int c, double now)
{
    Pod *p = &s->pods[s->c[c].pod];
    if (p->state == 3)
        return;
    if (s->c[c].tries) {
        s->c[c].due = now;
        acquire(s, c, now);
    } else if (now >= p->ends_at)
        retire(s, c, p, now);
    else
        begin(s, c, now, now);
}

INLINE void note_wait(Kernel *s, int c, Pod *p, double now)
{
    Client *x = &s->c[c];
    Tally *tally = &s->tallies[p->tally];
    if (!x->counted)
        return;
    record(s, &tally->wait, now - x->due);
    if (x->queued >= 0.0) {
        tally->queued_count++;
        tally->queued_time += now - x->queued;
    }
}

INLINE void serve(Kernel *s, int c, int k, double now)
{
    Client *x = &s->c[c];
    Pod *p = &s->pods[x->pod];
    const Times *outside = &p->part->outside;
    double needed;
    x->state = USING;
    x->last = k;
    x->last_number = s->k[k].number;
    s->k[k].client = c;
    hold_connection(s, c, k);
    note_wait(s, c, p, now);
    s->n_acquired++;
    s->k[k].outside = 0.0;
    if (s->k[k].dead) {
        after(s, 0.0, HOLD_END, k, now);
        return;
    }
    needed = draw(x->hold, &s->holds);
    if (outside->mean > 0.0) {
        double spent = draw(outside, &s->holds);
        if (needed < spent)
            spent = needed;
        s->k[k].outside = spent;
        needed -= spent;
    }
    statement(s, k, needed * s->slow_factor, now);
}

INLINE void go_on(Kernel *s, int c, Pod *p, double now, double pause)
{
    if (s->c[c].worker < 0) {
        s->c[c].serial = 0;
        push(s, &p->part->free_arrivals, c);
        look_whether_over(s, p, now);
    } else if (pause > 0.0)
        after(s, pause, WORK, c, now);
    else
        ring_push(s, &s->ready, 0.0, c, 0);
}

INLINE void give_back(Kernel *s, int c, double now)
{
    Pod *p = &s->pods[s->c[c].pod];
    Tally *tally = &s->tallies[p->tally];
    int k = s->c[c].held_first, next, counted = s->c[c].counted;
    forget_held(&s->c[c]);
    for (; k >= 0; k = next) {
        next = s->k[k].held_next;
        if (counted) {
            record(s, &tally->use, now - s->k[k].acquired);
            if (now > p->ends_at)
                tally->late++;
        }
        release(s, k, now, s->k[k].dead != ALIVE);
    }
}

INLINE void end(Kernel *s, int c, double now, double pause)
{
    Pod *p = &s->pods[s->c[c].pod];
    s->c[c].state = OUT;
    p->clients--;
    s->c[c].tries = 0;
    give_back(s, c, now);
    go_on(s, c, p, now, pause);
}

static void fail(Kernel *s, int c, int outcome, int kind, double now)
{
    Pod *p = &s->pods[s->c[c].pod];
    Part *part = p->part;
    Tally *tally = &s->tallies[p->tally];
    int counted = s->c[c].counted, rejected;
    s->c[c].state = OUT;
    note_wait(s, c, p, now);
    count_error(s, p, counted, kind, now);
    if (counted) {
        if (outcome == TIMED_OUT)
            tally->timed_out++;
        else if (outcome == REFUSED)
            tally->refused++;
        else
            tally->failed++;
    }
    if (s->c[c].tries < part->retries && now < p->ends_at) {
        double delay;
        give_back(s, c, now);
        delay = part->f[F_retry_backoff] * pow(part->f[F_retry_growth], (double)s->c[c].tries);
        if (part->f[F_retry_jitter] != 0.0)
            delay *= 1.0 - part->f[F_retry_jitter] * uniform(&s->thinks);
        s->c[c].tries++;
        after(s, delay, BEGIN, c, now);
        return;
    }
    tally->broken += counted;
    rejected = outcome == TIMED_OUT && now == s->c[c].due;
    end(s, c, now, outcome != TIMED_OUT || rejected ? part->f[F_error_pause] : 0.0);
}

static void leak(Kernel *s, int c, Pod *p, double now)
{
    Part *part = p->part;
    double abandoned = part->f[F_abandoned_after];
    int k = s->c[c].held_first, next;
    if (s->c[c].counted) {
        s->tallies[p->tally].completed++;
        s->tallies[p->tally].leaked += s->c[c].held;
    }
    forget_held(&s->c[c]);
    for (; k >= 0; k = next) {
        next = s->k[k].held_next;
        s->k[k].client = LEAKED;
        if (part->f[F_fate] == FATE_RETURNED) {
            release(s, k, now, 0);
            continue;
        }
        p->leaked++;
        if (part->f[F_fate] == FATE_CLOSED)
            hang_up(s, k);
        else if (abandoned >= 0.0) {
            double delay = s->k[k].acquired + abandoned - now;
            after(s, delay > 0.0 ? delay : 0.0, HOLD_END, -1 - (int64_t)k, now);
        }
    }
    s->c[c].state = OUT;
    p->clients--;
    go_on(s, c, p, now, 0.0);
}

INLINE void hold_ended(Kernel *s, int k, double now)
{
    Pod *p;
    int c;
    if (s->k[k].state == ZOMBIE) {
        hang_up(s, k);
        free_connection(s, k);
        return;
    }
    if (s->k[k].dead) {
        statement_failed(s, k, TERMINATED, now);
        return;
    }
    c = s->k[k].client;
    p = &s->pods[s->c[c].pod];
    if (s->c[c].held < p->part->each) {
        s->c[c].due = now;
        acquire(s, c, now);
    } else if (p->part->every && s->c[c].leaks)
        leak(s, c, p, now);
    else {
        s->tallies[p->tally].completed += s->c[c].counted;
        end(s, c, now, 0.0);
    }
}

static void statement_failed(Kernel *s, int k, int kind, double now)
{
    int c = s->k[k].client;
    if (c < 0 || s->c[c].state != USING || s->c[c].held_last != k)
        return;
    s->tallies[s->pods[s->c[c].pod].tally].broken += s->c[c].counted;
    count_error(s, &s->pods[s->c[c].pod], s->c[c].counted, kind, now);
    end(s, c, now, 0.0);
}

static void reclaim(Kernel *s, int k, double now)
{
    Pod *p = pod_of(s, k);
    if (s->k[k].client != LEAKED || s->k[k].state != IN_USE)
        return;
    p->leaked--;
    p->reclaimed++;
    untake(s, k, p, now);
    close_connection(s, k, p, now);
}

/* Instances */

INLINE void find_next_arrival(Kernel *s)
{
    Py_ssize_t at;
    s->next_arrival = INF;
    for (at = 0; at < s->n_parts; at++)
        if (s->parts[at].arrival < s->next_arrival)
            s->next_arrival = s->parts[at].arrival;
}

static void plan_arrival(Kernel *s, Part *part, double now)
{
    double rate = part->rate * (double)part->active.n;
    part->arrival = rate != 0.0 ? now - log(1.0 - uniform(&s->arrivals)) / rate : INF;
    find_next_arrival(s);
}

static void stop_arrivals(Kernel *s, Pod *p, double now)
{
    Py_ssize_t at = find(&p->part->active, p->number);
    if (at < 0)
        return;
    pop_at(&p->part->active, at);
    p->sources--;
    plan_arrival(s, p->part, now);
}

INLINE void arrive(Kernel *s, double now)
{
    Part *part = s->parts;
    Pod *p;
    while (part->arrival != s->next_arrival)
        part++;
    p = &s->pods[part->active.items[part->active.n > 1 ? pick(&s->arrivals, part->active.n) : 0]];
    part->arrival = now - log(1.0 - uniform(&s->arrivals)) / (part->rate * (double)part->active.n);
    find_next_arrival(s);
    p->budget -= 1.0;
    if (p->budget <= 0.0)
        stop_arrivals(s, p, now);
    begin(s, new_arrival(s, p->number, part), now, now);
}

static void add_worker(Kernel *s, Pod *p, double until, int left, const Times *hold, const Times *think, double at,
                       double now)
{
    Worker *w;
    if (s->n_w == s->room_w)
        s->w = grown(s, s->w, &s->room_w, sizeof(Worker));
    w = &s->w[s->n_w];
    w->until = until < p->ends_at ? until : p->ends_at;
    w->left = left;
    w->think = think;
    p->sources++;
    after(s, at - now, WORK, new_client(s, p->number, (int)s->n_w++, hold), now);
}

static void begin_pod(Kernel *s, Pod *p, double now)
{
    Part *part = p->part;
    Py_ssize_t at, each;
    p->state = 1;
    fill(s, p, now);
    begin_sweeps(s, p, now);
    for (at = 0; at < (Py_ssize_t)part->f[F_workers]; at++)
        add_worker(s, p, INF, -2, &part->hold, &part->think, now, now);
    for (at = 0; at < part->n_bursts; at++) {
        const Burst *burst = &part->bursts[at];
        if (!(p->begins_at <= burst->at && burst->at < p->ends_at))
            continue;
        for (each = 0; each < burst->workers; each++)
            add_worker(s, p, burst->until, burst->requests ? burst->requests : -1, &burst->hold, &burst->think,
                       burst->at, now);
    }
    if (part->rate != 0.0) {
        p->sources++;
        push(s, &part->active, p->number);
        plan_arrival(s, part, now);
    }
}

static void end_load(Kernel *s, Pod *p, double now)
{
    if (p->state >= 2) {
        if (p->state == 2)
            end_pod(s, p, now);
        return;
    }
    p->state = 2;
    stop_arrivals(s, p, now);
    after(s, p->part->f[F_drain], POD_ENDS, p->number, now);
    look_whether_over(s, p, now);
}

INLINE void look_whether_over(Kernel *s, Pod *p, double now)
{
    int is_done = p->sources == 0 && p->part->f[F_ends_when_done] != 0.0;
    if (p->clients == 0 && (p->state == 2 || (p->state == 1 && is_done)))
        end_pod(s, p, now);
}

static void give_up(Kernel *s, Tally *tally, int c, double now)
{
    s->c[c].state = OUT;
    s->c[c].ticket = s->c[c].serial = 0;
    if (s->c[c].counted) {
        tally->unfinished++;
        record(s, &tally->unfinished_time, now - s->c[c].due);
        tally->queued_count += s->c[c].queued >= 0.0;
    }
}

static void close_all(Kernel *s, Pod *p)
{
    int k, next;
    for (k = p->own_head; k >= 0; k = next) {
        int state = s->k[k].state;
        next = s->k[k].own_next;
        if (state == IDLE || state == RETURNING || (state == IN_USE && s->k[k].client == LEAKED)) {
            hang_up(s, k);
            free_connection(s, k);
        } else if (state == OPENING || state == ORPHAN || state == IN_USE)
            s->k[k].state = ZOMBIE;
    }
    p->idle.n = p->random.n = p->fifo.n = p->tasks.n = 0;
    s->waiting -= p->waiting;
    p->open = p->opening = p->waiting = p->ordered = 0;
}

static void end_pod(Kernel *s, Pod *p, double now)
{
    Tally *tally = &s->tallies[p->tally];
    Py_ssize_t at;
    int k;
    if (p->state == 3)
        return;
    stop_arrivals(s, p, now);
    for (at = 0; at < p->fifo.n; at++) {
        Due *due = ring_at(&p->fifo, at);
        if (s->c[due->c].ticket == due->serial)
            give_up(s, tally, due->c, now);
    }
    for (at = 0; at < p->random.n; at++)
        give_up(s, tally, p->random.items[at], now);
    for (k = p->own_head; k >= 0; k = s->k[k].own_next)
        if (s->k[k].state == OPENING && s->k[k].client >= 0)
            give_up(s, tally, s->k[k].client, now);
    for (at = 0; at < p->locked.n; at++)
        if (ring_at(&p->locked, at)->c >= 0)
            give_up(s, tally, ring_at(&p->locked, at)->c, now);
    p->state = 3;
    p->told = now;
    s->ended[p->number] = stats(s, p, now);
    s->pods_left--;
    s->over = s->pods_left == 0;
    if (!s->over)
        close_all(s, p);
}

/* Kernel */

static void forget_deadlines(Kernel *s)
{
    Py_ssize_t at;
    s->next_deadline = INF;
    for (at = 0; at < s->n_parts; at++) {
        Ring *ring = &s->parts[at].deadlines;
        while (ring->n && s->c[ring_at(ring, 0)->c].serial != ring_at(ring, 0)->serial)
            ring_pop(ring);
        if (ring->n && ring_at(ring, 0)->at < s->next_deadline)
            s->next_deadline = ring_at(ring, 0)->at;
    }
}

static void expire(Kernel *s, double now)
{
    Py_ssize_t at;
    for (at = 0; at < s->n_parts; at++) {
        Ring *ring = &s->parts[at].deadlines;
        while (ring->n && ring_at(ring, 0)->at <= now) {
            Due due = ring_pop(ring);
            const Client *x = &s->c[due.c];
            if (x->serial == due.serial && (x->state == WAITING || x->state == DIALING)) {
                lose_patience(s, due.c, now);
                if (s->over)
                    return;
            }
        }
    }
    forget_deadlines(s);
}

static Point point(Kernel *s, double now)
{
    Point told = {now, 0, 0, 0, 0, 0, s->n_acquired, s->n_errors, s->slots};
    Py_ssize_t at;
    for (at = 0; at < s->n_pods; at++) {
        const Pod *p = &s->pods[at];
        told.open += p->open - p->ordered;
        told.idle += p->idle.n;
        told.opening += p->opening - p->ordered;
        told.waiting += p->waiting;
    }
    told.in_use = told.open - told.idle - told.opening;
    if (s->n_parts > 1)
        for (at = 0; at < s->n_parts; at++) {
            Part *part = &s->parts[at];
            int64_t opened_now = 0, used_now = 0;
            Py_ssize_t each;
            for (each = 0; each < s->n_pods; each++)
                if (s->pods[each].part == part) {
                    opened_now += s->pods[each].open - s->pods[each].ordered;
                    used_now += s->pods[each].open - s->pods[each].idle.n - s->pods[each].opening;
                }
            if (opened_now > part->peak_open)
                part->peak_open = opened_now;
            if (used_now > part->peak_in_use)
                part->peak_in_use = used_now;
        }
    return told;
}

static void stop(Kernel *s)
{
    Py_ssize_t at;
    for (at = 0; at < s->n_pods; at++)
        end_pod(s, &s->pods[at], s->now);
    s->over = 1;
}

static int can_go_on(const Kernel *s)
{
    Py_ssize_t at;
    if (s->jobs.n || s->ready.n || s->next_arrival != INF || s->next_deadline != INF)
        return 1;
    for (at = 0; at < s->timers.n; at++) {
        int kind = (int)(s->timers.items[at].code & 15);
        if (s->timers.items[at].at < INF && kind != SAMPLE && kind != CLEAN && kind != SWEEP && kind != WARM &&
            kind != TICK)
            return 1;
    }
    return 0;
}

static void sample(Kernel *s, double now)
{
    s->timeline[s->n_timeline++] = point(s, now);
    if (s->timeline[s->n_timeline - 1].waiting > s->most_waiting) {
        s->is_cut_off = 1;
        /* What it says of the queue is read before the pods end. */
        s->over = 1;
        return;
    }
    if (s->n_timeline >= s->most_rows) {
        Py_ssize_t at, kept = 0;
        for (at = 0; at < s->n_timeline; at += 2)
            s->timeline[kept++] = s->timeline[at];
        s->n_timeline = kept;
        s->interval *= 2;
    }
    if (s->duration_known == 0.0) {
        forget_deadlines(s);
        s->stuck = !can_go_on(s);
    }
    if (s->stuck) {
        Py_ssize_t at;
        for (at = 0; at < s->n_pods; at++)
            end_pod(s, &s->pods[at], now);
        return;
    }
    after(s, s->interval * (double)s->n_timeline - now, SAMPLE, 0, now);
}

static void tick(Kernel *s, int kind, Pod *p, double now)
{
    if (p->state == 3)
        return;
    if (kind == CLEAN)
        clean(s, p, now);
    else if (kind == SWEEP)
        sweep(s, p, now);
    else if (kind == WAKE)
        wake(s, p, now);
    else if (kind == TICK)
        poll_codel(s, p, now);
}

static void happen(Kernel *s, int kind, int64_t number, int64_t seq, double now)
{
    Py_ssize_t at;
    switch (kind) {
    case HOLD_END:
        if (number < 0)
            reclaim(s, (int)(-1 - number), now);
        else
            hold_ended(s, (int)number, now);
        break;
    case OPENED:
        dialed(s, (int)number, now);
        break;
    case WORK:
        work(s, (int)number, now);
        break;
    case BEGIN:
        begin_after(s, (int)number, now);
        break;
    case OPENER:
        opener_wakes(s, number, now);
        break;
    case LIFE:
        life_ends(s, (int)number, seq, now);
        break;
    case REST:
        rest_ends(s, (int)number, seq, now);
        break;
    case SAMPLE:
        sample(s, now);
        break;
    case WARM:
        for (at = 0; at < s->n_pods; at++)
            if (s->pods[at].state == 1 || s->pods[at].state == 2)
                s->warm[at] = stats(s, &s->pods[at], now);
        break;
    case EVENT:
        if (number & 1)
            end_event(s, &s->events[number >> 1], now);
        else
            serve_event(s, &s->events[number >> 1], now);
        break;
    case POD_BEGINS:
        begin_pod(s, &s->pods[number], now);
        break;
    case POD_ENDS:
        end_load(s, &s->pods[number], now);
        break;
    default:
        tick(s, kind, &s->pods[number], now);
    }
}

INLINE void step(Kernel *s)
{
    double job, timer, now;
    if (s->ready.n) {
        s->at_once++;
        Due due = ring_pop(&s->ready);
        if (due.serial)
            fail(s, due.c, (int)((due.serial - 1) & 3), (int)((due.serial - 1) >> 2), s->now);
        else
            work(s, due.c, s->now);
        return;
    }
    job = s->next_job;
    timer = top_of(&s->timers);
    now = job < timer ? job : timer;
    if (s->next_deadline < now)
        now = s->next_deadline;
    if (s->next_arrival < now)
        now = s->next_arrival;
    if (now == INF) {
        s->over = 1;
        return;
    }
    s->at_once++;
    if (now - s->stood_at >= s->progress) {
        s->stood_at = now;
        s->at_once = 0;
    }
    s->now = now;
    if (job == now) {
        int64_t k = take_job(s, now);
        if (k < 0)
            dial_ended(s, (int)(-1 - k), now);
        else if (s->k[k].outside == 0.0 && s->next_job > now && timer > now) {
            /* The timer that query_ended sets would be what happens next. */
            s->seq++;
            hold_ended(s, (int)k, now);
        } else
            query_ended(s, (int)k, now);
    } else if (timer == now) {
        Entry due = heap_pop(&s->timers);
        happen(s, (int)(due.code & 15), due.code >> 4, due.seq, now);
    } else if (s->next_deadline == now)
        expire(s, now);
    else
        arrive(s, now);
}

/* Runs so many events, or fewer when the run is over. 0: go on, 1: over. */
static int run_events(Kernel *s, int64_t number)
{
    while (number-- > 0) {
        step(s);
        if (s->over)
            return 1;
        if (s->at_once > s->standstill + 20 * (int64_t)s->n_c || s->waiting > 4 * s->most_waiting) {
            s->is_endless = 1;
            return 1;
        }
    }
    return 0;
}

/* -1: out of memory. Apart, since what is in local variables is lost on the way out. */
static int run_guarded(Kernel *s, int64_t number)
{
    return setjmp(s->out_of_memory) ? -1 : run_events(s, number);
}

/* From here on Python objects. */

static int get_double(PyObject *sequence, Py_ssize_t at, double *value)
{
    PyObject *item = PySequence_GetItem(sequence, at);
    if (!item)
        return -1;
    *value = PyFloat_AsDouble(item);
    Py_DECREF(item);
    return *value == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/* The numbers of a sequence of exactly ``n``. */
static int get_doubles(PyObject *sequence, double *values, Py_ssize_t n)
{
    Py_ssize_t length = PySequence_Size(sequence), at;
    if (length < 0)
        return -1;
    if (length != n) {
        PyErr_Format(PyExc_ValueError, "%zd numbers where %zd are expected", length, n);
        return -1;
    }
    for (at = 0; at < n; at++)
        if (get_double(sequence, at, &values[at]) < 0)
            return -1;
    return 0;
}

static Times times_of(const double *values)
{
    Times times = {(int)values[0], values[1], values[2], values[3]};
    return times;
}

static void *zeros(Py_ssize_t n, size_t size)
{
    void *items = calloc((size_t)(n > 0 ? n : 1), size);
    if (!items)
        PyErr_NoMemory();
    return items;
}

static int read_bursts(Part *part, PyObject *bursts)
{
    Py_ssize_t n = PySequence_Size(bursts), at;
    if (n < 0 || !(part->bursts = zeros(n, sizeof(Burst))))
        return -1;
    part->n_bursts = n;
    for (at = 0; at < n; at++) {
        double v[12];
        PyObject *burst = PySequence_GetItem(bursts, at);
        int failed = !burst || get_doubles(burst, v, 12) < 0;
        Py_XDECREF(burst);
        if (failed)
            return -1;
        part->bursts[at].at = v[0];
        part->bursts[at].until = v[1];
        part->bursts[at].workers = (int)v[2];
        part->bursts[at].requests = (int)v[3];
        part->bursts[at].hold = times_of(v + 4);
        part->bursts[at].think = times_of(v + 8);
    }
    return 0;
}

static int read_part(Part *part, Py_ssize_t number, PyObject *fields, PyObject *bursts)
{
    double *f = part->f, cleaned, idle;
    if (get_doubles(fields, f, N_FIELDS) < 0 || read_bursts(part, bursts) < 0)
        return -1;
    part->hold = times_of(f + F_hold_kind);
    part->outside = times_of(f + F_outside_kind);
    part->think = times_of(f + F_think_kind);
    part->max_open = f[F_max_open];
    part->keeps = f[F_keeps];
    part->lifetime = f[F_lifetime];
    part->patience = f[F_patience];
    part->max_idle_time = f[F_max_idle_time];
    part->rate = f[F_rate];
    part->waiter_order = (int)f[F_waiter_order];
    part->growth = (int)f[F_growth];
    part->idle_closing = (int)f[F_idle_closing];
    part->each = (int)f[F_each];
    part->every = (int)f[F_every];
    part->max_uses = (int)f[F_max_uses];
    part->stale_attempts = (int)f[F_stale_attempts];
    part->max_queue = (int)f[F_max_queue];
    part->min_idle = (int)f[F_min_idle];
    part->retries = (int)f[F_retries];
    part->codel = f[F_codel_target] >= 0.0;
    part->barging = f[F_barging] != 0.0;
    part->by_thread = f[F_by_thread] != 0.0;
    part->generations = f[F_generations] != 0.0;
    part->is_lifo = f[F_is_lifo] != 0.0;
    part->opens_in_background = f[F_opens_in_background] != 0.0;
    part->replaced_by_caller = f[F_replaced_by_caller] != 0.0;
    part->opens_locked = f[F_opens_locked] != 0.0;
    part->returned_by_opener = f[F_returned_by_opener] != 0.0;
    part->timeout = (int)f[F_timeout];
    part->overdue = OVERDUE + 2 * (int)number;
    part->rejected = REJECTED + 2 * (int)number;
    part->arrival = INF;
    cleaned = f[F_checked_by_cleaner] != 0.0 ? part->lifetime : INF;
    idle = part->max_idle_time < 0.0 ? INF : part->max_idle_time;
    part->shortest_life = cleaned < idle ? cleaned : idle;
    return 0;
}

static int read_parts(Kernel *s, PyObject *parts)
{
    Py_ssize_t n = PySequence_Size(parts), at;
    if (n < 1) {
        if (n == 0)
            PyErr_SetString(PyExc_ValueError, "no service");
        return -1;
    }
    if (!(s->parts = zeros(n, sizeof(Part))))
        return -1;
    s->n_parts = n;
    for (at = 0; at < n; at++) {
        PyObject *part = PySequence_GetItem(parts, at), *fields = NULL, *bursts = NULL;
        int failed = 1;
        if (part) {
            fields = PySequence_GetItem(part, 0);
            bursts = fields ? PySequence_GetItem(part, 1) : NULL;
            failed = !bursts || read_part(&s->parts[at], at, fields, bursts) < 0;
        }
        Py_XDECREF(bursts);
        Py_XDECREF(fields);
        Py_XDECREF(part);
        if (failed)
            return -1;
    }
    return 0;
}

static int read_pods(Kernel *s, PyObject *pods)
{
    Py_ssize_t n = PySequence_Size(pods), at;
    if (n < 1) {
        if (n == 0)
            PyErr_SetString(PyExc_ValueError, "no instance");
        return -1;
    }
    s->pods = zeros(n, sizeof(Pod));
    s->ended = zeros(n, sizeof(Stats));
    s->warm = zeros(n, sizeof(Stats));
    if (!s->pods || !s->ended || !s->warm)
        return -1;
    s->n_pods = n;
    s->pods_left = (int)n;
    for (at = 0; at < n; at++) {
        Pod *p = &s->pods[at];
        double v[4];
        PyObject *pod = PySequence_GetItem(pods, at);
        int failed = !pod || get_doubles(pod, v, 4) < 0;
        Py_XDECREF(pod);
        if (failed)
            return -1;
        if (v[0] < 0 || v[0] >= (double)s->n_parts || v[3] < 0 || v[3] >= (double)s->n_tallies) {
            PyErr_SetString(PyExc_ValueError, "an instance of no service or no tally");
            return -1;
        }
        p->number = (int)at;
        p->part = &s->parts[(Py_ssize_t)v[0]];
        p->begins_at = v[1];
        p->ends_at = v[2];
        p->tally = (int)v[3];
        p->budget = p->part->f[F_requests] != 0.0 ? p->part->f[F_requests] : INF;
        p->own_head = p->own_tail = -1;
        p->clean_at = INF;
        p->alert = 1;
        p->is_probed = p->part->f[F_probes_first] == 0.0;
        p->codel[3] = p->exhausted_at = p->since = p->recovered = -1.0;
    }
    return 0;
}

static int read_random(Random *random, PyObject *state)
{
    Py_ssize_t at;
    if (PySequence_Size(state) != 625) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "625 numbers are the state of a generator");
        return -1;
    }
    for (at = 0; at < 625; at++) {
        PyObject *item = PySequence_GetItem(state, at);
        unsigned long value;
        if (!item)
            return -1;
        value = PyLong_AsUnsignedLong(item);
        Py_DECREF(item);
        if (value == (unsigned long)-1 && PyErr_Occurred())
            return -1;
        if (at < 624)
            random->state[at] = (uint32_t)value;
        else
            random->index = value > 624 ? 624 : (int)value;
    }
    temper(random);
    return 0;
}

static int read_events(Kernel *s, PyObject *events)
{
    Py_ssize_t n = PySequence_Size(events), at;
    if (n < 0)
        return -1;
    s->events = zeros(n, sizeof(Event));
    s->slow = zeros(n, sizeof(double));
    if (!s->events || !s->slow)
        return -1;
    s->n_events = n;
    for (at = 0; at < n; at++) {
        double v[5];
        PyObject *event = PySequence_GetItem(events, at);
        int failed = !event || get_doubles(event, v, 5) < 0;
        Py_XDECREF(event);
        if (failed)
            return -1;
        s->events[at].kind = (int)v[0];
        s->events[at].at = v[1];
        s->events[at].duration = v[2];
        s->events[at].factor = v[3];
        s->events[at].down = v[4];
    }
    return 0;
}

/* The first timers, in the order in which the plain kernel sets them. */
static int set_first_timers(Kernel *s)
{
    Py_ssize_t at;
    if (setjmp(s->out_of_memory)) {
        PyErr_NoMemory();
        return -1;
    }
    for (at = 0; at < s->n_pods; at++) {
        after(s, s->pods[at].begins_at, POD_BEGINS, at, 0.0);
        if (s->pods[at].ends_at < INF)
            after(s, s->pods[at].ends_at, POD_ENDS, at, 0.0);
    }
    after(s, 0.0, SAMPLE, 0, 0.0);
    if (s->warmup > 0.0)
        after(s, s->warmup, WARM, 0, 0.0);
    for (at = 0; at < s->n_events; at++)
        if (s->events[at].kind >= 0) {
            after(s, s->events[at].at, EVENT, 2 * at, 0.0);
            if (s->events[at].duration != 0.0)
                after(s, s->events[at].at + s->events[at].duration, EVENT, 2 * at + 1, 0.0);
        }
    return 0;
}

static void free_all(Kernel *s)
{
    Py_ssize_t at;
    for (at = 0; s->parts && at < s->n_parts; at++) {
        free(s->parts[at].bursts);
        free(s->parts[at].active.items);
        free(s->parts[at].free_arrivals.items);
        free(s->parts[at].deadlines.items);
    }
    for (at = 0; s->pods && at < s->n_pods; at++) {
        free(s->pods[at].idle.items);
        free(s->pods[at].random.items);
        free(s->pods[at].fifo.items);
        free(s->pods[at].locked.items);
        free(s->pods[at].tasks.items);
    }
    for (at = 0; s->tallies && at < s->n_tallies; at++) {
        free(s->tallies[at].wait.counts);
        free(s->tallies[at].use.counts);
        free(s->tallies[at].connect.counts);
        free(s->tallies[at].unfinished_time.counts);
        free(s->tallies[at].errors);
    }
    free(s->parts);
    free(s->pods);
    free(s->ended);
    free(s->warm);
    free(s->tallies);
    free(s->events);
    free(s->slow);
    free(s->rates);
    free(s->k);
    free(s->c);
    free(s->w);
    free(s->free_connections.items);
    free(s->free_clients.items);
    free(s->ready.items);
    free(s->jobs.items);
    free(s->timers.items);
    free(s->timeline);
}

static void kernel_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc release_memory = (freefunc)PyType_GetSlot(type, Py_tp_free);
    free_all((Kernel *)self);
    release_memory(self);
    Py_DECREF(type);
}

/* Kernel(parts, pods, tallies, events, randoms, numbers) */
static PyObject *kernel_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *parts, *pods, *events, *randoms;
    Py_ssize_t tallies, at;
    double v[20];
    PyObject *numbers;
    Kernel *s;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Random *random[5];
    (void)keywords;
    if (!PyArg_ParseTuple(args, "OOnOOO", &parts, &pods, &tallies, &events, &randoms, &numbers))
        return NULL;
    s = (Kernel *)allocate(type, 0);
    if (!s)
        return NULL;
    random[0] = &s->arrivals;
    random[1] = &s->holds;
    random[2] = &s->thinks;
    random[3] = &s->pool;
    random[4] = &s->server;
    if (tallies < 1) {
        PyErr_SetString(PyExc_ValueError, "no tally");
        goto failed;
    }
    s->n_tallies = tallies;
    if (!(s->tallies = zeros(tallies, sizeof(Tally))))
        goto failed;
    if (read_parts(s, parts) < 0 || read_pods(s, pods) < 0 || read_events(s, events) < 0)
        goto failed;
    if (get_doubles(numbers, v, 20) < 0)
        goto failed;
    for (at = 0; at < 5; at++) {
        PyObject *state = PySequence_GetItem(randoms, at);
        int is_bad = !state || read_random(random[at], state) < 0;
        Py_XDECREF(state);
        if (is_bad)
            goto failed;
    }
    s->interval = v[0];
    s->warmup = v[1];
    s->duration_known = v[2];
    s->max_connections = (int64_t)v[3];
    s->usable = (int64_t)v[4];
    s->connect_cpu = v[5];
    s->is_shared = v[6] != 0.0;
    s->cores = v[7];
    s->alpha = v[8];
    s->beta = v[9];
    s->most_waiting = (int64_t)v[10];
    s->most_rows = (int64_t)v[11];
    s->standstill = (int64_t)v[12];
    s->shortest_cleaning = v[13];
    s->wake_time = v[14];
    s->progress = v[15];
    s->connect_time = times_of(v + 16);
    if (s->most_rows < 2 || s->most_rows > 1000000) {
        PyErr_SetString(PyExc_ValueError, "the timeline has 2 rows or more");
        goto failed;
    }
    if (!(s->timeline = zeros((Py_ssize_t)s->most_rows + 1, sizeof(Point))))
        goto failed;
    s->next_job = s->next_arrival = s->next_deadline = INF;
    s->rate = s->slow_factor = 1.0;
    s->down_until = -1.0;
    if (set_first_timers(s) < 0)
        goto failed;
    return (PyObject *)s;
failed:
    Py_DECREF((PyObject *)s);
    return NULL;
}

static int is_busy(Kernel *s)
{
    if (s->is_running)
        PyErr_SetString(PyExc_RuntimeError, "the kernel runs in another thread");
    return s->is_running;
}

static PyObject *kernel_run(PyObject *self, PyObject *args)
{
    Kernel *s = (Kernel *)self;
    long long number;
    int state;
    if (!PyArg_ParseTuple(args, "L", &number) || is_busy(s))
        return NULL;
    s->is_running = 1;
    Py_BEGIN_ALLOW_THREADS
    state = s->over || s->is_endless ? 1 : run_guarded(s, number);
    Py_END_ALLOW_THREADS
    s->is_running = 0;
    if (state < 0) {
        s->is_endless = 1;
        return PyErr_NoMemory();
    }
    return PyBool_FromLong(state);
}

static PyObject *kernel_stop(PyObject *self, PyObject *ignored)
{
    Kernel *s = (Kernel *)self;
    (void)ignored;
    if (is_busy(s))
        return NULL;
    if (setjmp(s->out_of_memory))
        return PyErr_NoMemory();
    stop(s);
    Py_RETURN_NONE;
}

static PyObject *make_histogram(const Histogram *h)
{
    PyObject *counts = PyList_New(h->n);
    Py_ssize_t at;
    if (!counts)
        return NULL;
    for (at = 0; at < h->n; at++) {
        PyObject *count = PyLong_FromLongLong(h->counts[at]);
        if (!count) {
            Py_DECREF(counts);
            return NULL;
        }
        PyList_SetItem(counts, at, count);
    }
    return Py_BuildValue("(NLdd)", counts, (long long)h->count, h->total, h->max);
}

/* A list of what ``tell`` makes of each; it takes the place in the kernel's array. */
static PyObject *make_list(Kernel *s, Py_ssize_t n, PyObject *(*tell)(Kernel *, Py_ssize_t))
{
    PyObject *list = PyList_New(n);
    Py_ssize_t at;
    if (!list)
        return NULL;
    for (at = 0; at < n; at++) {
        PyObject *item = tell(s, at);
        if (!item) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SetItem(list, at, item);
    }
    return list;
}

static PyObject *make_tally(Kernel *s, Py_ssize_t number)
{
    const Tally *t = &s->tallies[number];
    PyObject *wait, *use = NULL, *connect = NULL, *unfinished = NULL, *errors = NULL;
    Py_ssize_t at;
    wait = make_histogram(&t->wait);
    use = wait ? make_histogram(&t->use) : NULL;
    connect = use ? make_histogram(&t->connect) : NULL;
    unfinished = connect ? make_histogram(&t->unfinished_time) : NULL;
    errors = unfinished ? PyList_New(t->n_errors) : NULL;
    for (at = 0; errors && at < t->n_errors; at++) {
        const Seen *seen = &t->errors[at];
        PyObject *item = Py_BuildValue("(iLd)", seen->kind, (long long)seen->count, seen->first_at);
        if (!item) {
            Py_DECREF(errors);
            errors = NULL;
            break;
        }
        PyList_SetItem(errors, at, item);
    }
    if (!errors) {
        Py_XDECREF(wait);
        Py_XDECREF(use);
        Py_XDECREF(connect);
        Py_XDECREF(unfinished);
        return NULL;
    }
    return Py_BuildValue("(LLLLLLLdNNNNNLLL)", (long long)t->timed_out, (long long)t->refused, (long long)t->failed,
                         (long long)t->leaked, (long long)t->unfinished, (long long)t->queued_count,
                         (long long)t->late, t->queued_time, wait, use, connect, unfinished, errors,
                         (long long)t->requests, (long long)t->completed, (long long)t->broken);
}

static PyObject *make_stats(const Stats *t)
{
    if (!t->is_set)
        Py_RETURN_NONE;
    return Py_BuildValue("(LLLLLLdLLLLLLLLLLdddddd)", (long long)t->open, (long long)t->in_use, (long long)t->idle,
                         (long long)t->opening, (long long)t->waiting, (long long)t->queued, t->queued_time,
                         (long long)t->opened, (long long)t->failed, (long long)t->max_idle, (long long)t->idle_time,
                         (long long)t->lifetime, (long long)t->error, (long long)t->reclaimed, (long long)t->other,
                         (long long)t->peak_open, (long long)t->peak_in_use, t->open_time, t->in_use_time,
                         t->exhausted_at, t->since, t->recovered_at, t->exhausted_time);
}

/* (what it was when its load ended or None, at the end of the warm-up or None, when it ended) */
static PyObject *make_pod(Kernel *s, Py_ssize_t number)
{
    const Pod *p = &s->pods[number];
    Stats now = s->ended[number].is_set ? s->ended[number] : stats(s, p, s->now);
    PyObject *ended = make_stats(&now);
    PyObject *warm = ended ? make_stats(&s->warm[number]) : NULL;
    if (!warm) {
        Py_XDECREF(ended);
        return NULL;
    }
    return Py_BuildValue("(NNd)", ended, warm, s->ended[number].is_set ? p->told : s->now);
}

static PyObject *make_point(Kernel *s, Py_ssize_t number)
{
    Point p = number < s->n_timeline ? s->timeline[number] : point(s, s->now);
    return Py_BuildValue("(dLLLLLLLL)", p.at, (long long)p.open, (long long)p.in_use, (long long)p.idle,
                         (long long)p.opening, (long long)p.waiting, (long long)p.acquired, (long long)p.errors,
                         (long long)p.slots);
}

static PyObject *make_part(Kernel *s, Py_ssize_t number)
{
    return Py_BuildValue("(LL)", (long long)s->parts[number].peak_open, (long long)s->parts[number].peak_in_use);
}

/* (tallies, pods, timeline with the last instant, peaks of the services, figures of the whole) */
static PyObject *kernel_figures(PyObject *self, PyObject *ignored)
{
    Kernel *s = (Kernel *)self;
    PyObject *tallies, *pods = NULL, *timeline = NULL, *parts = NULL;
    (void)ignored;
    if (is_busy(s))
        return NULL;
    tallies = make_list(s, s->n_tallies, make_tally);
    pods = tallies ? make_list(s, s->n_pods, make_pod) : NULL;
    timeline = pods ? make_list(s, s->n_timeline + 1, make_point) : NULL;
    parts = timeline ? make_list(s, s->n_parts, make_part) : NULL;
    if (!parts) {
        Py_XDECREF(tallies);
        Py_XDECREF(pods);
        Py_XDECREF(timeline);
        return NULL;
    }
    if (s->is_shared)
        advance(s, s->now);
    return Py_BuildValue("(NNNN(dddLLi))", tallies, pods, timeline, parts, s->now, s->work_done, s->interval,
                         (long long)s->peak_slots, (long long)s->refused, s->stuck);
}

static PyObject *kernel_get(PyObject *self, void *what)
{
    Kernel *s = (Kernel *)self;
    switch (*(const char *)what) {
    case 'n':
        return PyFloat_FromDouble(s->now);
    case 'w':
        return PyLong_FromLongLong(s->waiting);
    case 'c':
        return PyBool_FromLong(s->is_cut_off);
    default:
        return PyBool_FromLong(s->is_endless);
    }
}

static PyMethodDef kernel_methods[] = {
    {"run", kernel_run, METH_VARARGS, "run(events): let so many events happen; whether the run is over."},
    {"stop", kernel_stop, METH_NOARGS, "stop(): end every instance now."},
    {"figures", kernel_figures, METH_NOARGS, "figures(): what the run has counted, as numbers."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef kernel_getters[] = {
    {"now", kernel_get, NULL, "The run's clock in seconds.", "now"},
    {"waiting", kernel_get, NULL, "Requests that wait.", "waiting"},
    {"is_cut_off", kernel_get, NULL, "Whether a sample met a queue that grows without end.", "cut off"},
    {"is_endless", kernel_get, NULL, "Whether only the plain kernel can say where to cut the run off.", "endless"},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot kernel_slots[] = {
    {Py_tp_new, kernel_new},
    {Py_tp_dealloc, kernel_dealloc},
    {Py_tp_methods, kernel_methods},
    {Py_tp_getset, kernel_getters},
    {Py_tp_doc, "One run of the model."},
    {0, NULL},
};

static PyType_Spec kernel_spec = {"poolctl.engines.model._kernel.Kernel", sizeof(Kernel), 0, Py_TPFLAGS_DEFAULT,
                                  kernel_slots};

static int execute(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &kernel_spec, NULL), *names;
    Py_ssize_t at;
    if (!type)
        return -1;
    if (PyModule_AddType(module, (PyTypeObject *)type) < 0) {
        Py_DECREF(type);
        return -1;
    }
    Py_DECREF(type);
    names = PyTuple_New(N_FIELDS);
    if (!names)
        return -1;
    for (at = 0; at < N_FIELDS; at++) {
        PyObject *name = PyUnicode_FromString(field_names[at]);
        if (!name) {
            Py_DECREF(names);
            return -1;
        }
        PyTuple_SetItem(names, at, name);
    }
    if (PyModule_AddObjectRef(module, "FIELDS", names) < 0) {
        Py_DECREF(names);
        return -1;
    }
    Py_DECREF(names);
    return PyModule_AddIntConstant(module, "LAYOUT", LAYOUT);
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, execute}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_kernel", "The compiled kernel of the model.", 0, NULL, module_slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__kernel(void)
{
    return PyModuleDef_Init(&module);
}
