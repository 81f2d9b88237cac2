/* The compiled hot path of the guard: what every acquire and release passes, once more, for speed.
 *
 * hot_path.py says what each function does, and runs where this file was not built. Both write the same fields of the
 * same records, so the rest of the guard does not know which of the two ran; its tests run with either. What is rare (an
 * unknown pool, line or thread, a task, a nested acquire, a late release) is left to the Python that has the rule.
 *
 * Other threads and callbacks of the garbage collector run only where a Python object is called or its last reference
 * goes. Between a question and the write that rests on it there is neither.
 *
 * No record takes part in garbage collection: Ledger unlinks each hold that ends, which leaves no cycle.
 */
#define _GNU_SOURCE /* RTLD_DEFAULT */
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>
#include <structmember.h>
#include <stdint.h>
#include <time.h>
#ifndef _WIN32
#include <dlfcn.h>
#endif

#define LAYOUT 4
/* Changed with any field or argument: a file left over from another version is not used. */

/* Of a pool or of a site. */
typedef struct {
    PyObject_HEAD
    Py_ssize_t released, out, peak;
    double use_time, wait_time, longest;
    char inherited;
} Tally;

typedef struct { PyObject_HEAD PyObject *top; unsigned long thread; } Link;

typedef struct {
    PyObject_HEAD
    PyObject *pool, *site, *actor, *owner, *below, *key, *asked_at, *acquired_at, *ending, *statement, *via;
    char is_out;
} Hold;

/* Tables without chains: an entry that another one pushed out is found the slow way again. Code objects in them are
 * kept, so that no other one is at their address. */
#define SLOTS 256
typedef struct { void *address; PyObject *key; } Key;
typedef struct { void *address; PyObject *pool; } Pool;
typedef struct { PyObject *code; int is_users; } Code;
typedef struct { PyObject *code, *caller; long at, caller_at; PyObject *site; } Place;
typedef struct { uintptr_t number; PyObject *actor; } Actor;

typedef struct {
    PyObject_HEAD
    PyObject *ledger, *latest, *pools, *owner, *on_exhausted, *running_loop, *current_tasks, *current_task;
    PyObject *current_greenlet;
    PyObject *is_user_file, *capture_site;
    double threshold;
    Key keys[SLOTS];
    Pool known_pools[SLOTS];
    Code codes[SLOTS];
    Place places[SLOTS];
    Actor actors[SLOTS];
} HotPath;

static PyTypeObject *tally_type, *link_type, *hold_type;
static PyObject *empty_text, *empty_tuple, *monotonic, *co_filename, *f_back, *f_lasti;

static void free_object(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static void free_link(PyObject *self) {
    Py_CLEAR(((Link *)self)->top);
    free_object(self);
}

static void free_hold(PyObject *self) {
    Hold *hold = (Hold *)self;
    PyObject *below = hold->below;
    hold->below = NULL;
    /* A thread may leave a long chain: it is freed link by link, not each within the one before. */
    while (below != NULL && Py_REFCNT(below) == 1 && Py_IS_TYPE(below, hold_type)) {
        PyObject *next = ((Hold *)below)->below;
        ((Hold *)below)->below = NULL;
        Py_DECREF(below);
        below = next;
    }
    Py_XDECREF(below);
    for (PyObject **one = &hold->pool; one <= &hold->via; one++) Py_CLEAR(*one);
    free_object(self);
}

static int is_set(PyObject *object) { return object != NULL && object != Py_None; }

/* Call a method for its effect. `second` may be NULL. -1 with an exception. */
static int call(void *object, const char *method, void *first, void *second) {
    PyObject *result = PyObject_CallMethod(object, method, second != NULL ? "OO" : "O", first, second);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

static double read_clock(void) {
#ifdef __linux__
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now); /* what time.monotonic() reads */
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
#else
    PyObject *now = PyObject_CallNoArgs(monotonic);
    double seconds = now != NULL ? PyFloat_AsDouble(now) : -1.0;
    Py_XDECREF(now);
    return seconds;
#endif
}

static unsigned slot_of(uintptr_t number) { return (unsigned)((number >> 4) ^ (number >> 12)) % SLOTS; }

/* Return id(object), borrowed. Dictionaries by id find the very int that they keep fastest. */
static PyObject *key_of(HotPath *self, PyObject *object) {
    Key *slot = &self->keys[slot_of((uintptr_t)object)];
    if (slot->address != object) {
        PyObject *key = PyLong_FromVoidPtr(object);
        if (key == NULL) return NULL;
        Py_XDECREF(slot->key);
        *slot = (Key){object, key};
    }
    return slot->key;
}

/* Python's own functions for both, public since 3.11 but not of the stable ABI: looked for when this is loaded, and a
 * third of the time of an attribute. NULL where they are not found. */
static PyObject *(*get_back)(PyObject *);
static int (*get_lasti)(PyObject *);

/* A new reference; NULL (without an exception) or None if there is no frame above. */
static PyObject *frame_above(PyObject *frame) {
    return get_back != NULL ? get_back(frame) : PyObject_GetAttr(frame, f_back);
}

static long read_offset(PyObject *frame) {
    if (get_lasti != NULL) return get_lasti(frame);
    PyObject *offset = PyObject_GetAttr(frame, f_lasti);
    long at = offset != NULL ? PyLong_AsLong(offset) : -1;
    Py_XDECREF(offset);
    return at;
}

/* Return 1 if `code` is the user's, 0 if a library's, -1 with an exception. */
static int is_users(HotPath *self, PyObject *code) {
    Code *slot = &self->codes[slot_of((uintptr_t)code)];
    if (slot->code != code) {
        PyObject *file = PyObject_GetAttr(code, co_filename), *before = slot->code;
        PyObject *answer = file != NULL ? PyObject_CallFunctionObjArgs(self->is_user_file, file, NULL) : NULL;
        Py_XDECREF(file);
        if (answer == NULL) return -1;
        *slot = (Code){Py_NewRef(code), answer == Py_True};
        Py_DECREF(answer);
        Py_XDECREF(before);
    }
    return slot->is_users;
}

/* Return the first frame of the user's at or above `frame` and its code, new references; NULL if there is none. */
static PyObject *find_user_frame(HotPath *self, PyObject *frame, PyObject **code) {
    Py_INCREF(frame);
    while (is_set(frame)) {
        *code = (PyObject *)PyFrame_GetCode((PyFrameObject *)frame);
        int found = is_users(self, *code);
        if (found == 1) return frame;
        PyObject *above = found == 0 ? frame_above(frame) : NULL;
        Py_DECREF(*code);
        Py_DECREF(frame);
        frame = above;
    }
    Py_XDECREF(frame);
    return NULL;
}

/* As call_sites.capture_site. A new reference. */
static PyObject *find_site(HotPath *self, PyObject *start) {
    PyObject *code, *caller = NULL, *frame = find_user_frame(self, start, &code), *site = NULL;
    if (frame == NULL) return PyErr_Occurred() ? NULL : PyObject_CallFunctionObjArgs(self->capture_site, start, NULL);
    PyObject *above = frame_above(frame);
    long at = read_offset(frame), caller_at = 0;
    if (is_set(above)) {
        caller = (PyObject *)PyFrame_GetCode((PyFrameObject *)above);
        caller_at = read_offset(above);
    }
    uintptr_t mixed = ((uintptr_t)code ^ ((uintptr_t)caller << 1)) + (uintptr_t)at * 16 + (uintptr_t)caller_at * 512;
    Place *place = &self->places[slot_of(mixed)];
    if (place->code == code && place->caller == caller && place->at == at && place->caller_at == caller_at) {
        site = Py_NewRef(place->site);
    } else if (!PyErr_Occurred() && (site = PyObject_CallFunctionObjArgs(self->capture_site, start, NULL)) != NULL) {
        Place before = *place;
        *place = (Place){Py_NewRef(code), Py_XNewRef(caller), at, caller_at, Py_NewRef(site)};
        Py_XDECREF(before.code);
        Py_XDECREF(before.caller);
        Py_XDECREF(before.site);
    }
    Py_XDECREF(above);
    Py_XDECREF(caller);
    Py_DECREF(code);
    Py_DECREF(frame);
    return site;
}

/* As Recorder.current_actor. A new reference. */
static PyObject *find_actor(HotPath *self) {
    if (is_set(self->current_greenlet)) return PyObject_CallMethod((PyObject *)self, "current_actor", NULL);
    uintptr_t number = PyThread_get_thread_ident();
    if (is_set(self->running_loop) && !(is_set(self->current_tasks) && PyDict_Size(self->current_tasks) == 0)) {
        PyObject *loop = PyObject_CallNoArgs(self->running_loop), *task = loop;
        if (is_set(loop)) {
            task = PyObject_CallFunctionObjArgs(self->current_task, loop, NULL);
            Py_DECREF(loop);
        }
        if (task == NULL) return NULL;
        if (task != Py_None) number = (uintptr_t)task;
        Py_DECREF(task);
    }
    Actor *slot = &self->actors[slot_of(number)];
    if (slot->number == number && slot->actor != NULL) return Py_NewRef(slot->actor);
    PyObject *actor = PyObject_CallMethod((PyObject *)self, "current_actor", NULL), *before = slot->actor;
    if (actor == NULL) return NULL;
    *slot = (Actor){number, Py_NewRef(actor)};
    Py_XDECREF(before);
    return actor;
}

static PyObject *forget_actor(PyObject *self, PyObject *key) {
    uintptr_t number = (uintptr_t)PyLong_AsVoidPtr(key);
    Actor *slot = &((HotPath *)self)->actors[slot_of(number)];
    if (slot->number == number) Py_CLEAR(slot->actor);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static PyObject *forget_actors(PyObject *self, PyObject *Py_UNUSED(none)) {
    for (int i = 0; i < SLOTS; i++) Py_CLEAR(((HotPath *)self)->actors[i].actor);
    Py_RETURN_NONE;
}

/* Set a field whose object, if it has one already, goes with it. Steals `value`. */
static void set(PyObject **field, PyObject *value) {
    PyObject *before = *field;
    *field = value;
    Py_XDECREF(before);
}

/* As set(), for what the field mostly has already. Borrows `value`. */
static void renew(PyObject **field, PyObject *value) {
    if (*field != value) set(field, Py_XNewRef(value));
}

/* Return the last hold of `connection` where nobody else knows it any more, so that it can be the next one, too: a new
 * reference, and no exception. NULL for no connection. */
static Hold *reuse(HotPath *self, PyObject *connection) {
    PyObject *key = connection != NULL ? key_of(self, connection) : NULL;
    PyObject *last = key != NULL ? PyDict_GetItemWithError(self->latest, key) : NULL;
    if (last == NULL) PyErr_Clear();
    return last != NULL && Py_REFCNT(last) == 1 && !((Hold *)last)->is_out ? (Hold *)Py_NewRef(last) : NULL;
}

/* As ask(), for a connection that is here already, or NULL. */
static PyObject *begin(HotPath *self, PyObject *pool, PyObject *frame, PyObject *connection) {
    if (((Tally *)pool)->inherited && call(self, "note_inherited", pool, frame) < 0) return NULL;
    PyObject *site = find_site(self, frame), *actor = site != NULL ? find_actor(self) : NULL;
    PyObject *now = actor != NULL ? PyFloat_FromDouble(read_clock()) : NULL;
    Hold *hold = now != NULL ? reuse(self, connection) : NULL;
    if (now != NULL && hold == NULL) hold = (Hold *)PyType_GenericAlloc(hold_type, 0);
    if (hold == NULL) {
        Py_XDECREF(site);
        Py_XDECREF(actor);
        Py_XDECREF(now);
        return NULL;
    }
    renew(&hold->pool, pool);
    set(&hold->site, site);
    set(&hold->actor, actor);
    renew(&hold->owner, self->owner);
    set(&hold->asked_at, now);
    set(&hold->acquired_at, NULL);
    renew(&hold->ending, empty_tuple);
    renew(&hold->statement, empty_text);
    renew(&hold->via, empty_text);
    hold->below = ((Link *)actor)->top;
    ((Link *)actor)->top = Py_NewRef((PyObject *)hold);
    if ((is_set(hold->below) && call(self->ledger, "note_nesting", hold, now) < 0)
        || (is_set(self->on_exhausted) && call(self, "note_exhausted", pool, hold) < 0))
        Py_CLEAR(hold);
    return (PyObject *)hold;
}

static PyObject *ask(PyObject *me, PyObject *const *args, Py_ssize_t count) {
    if (count != 2 || !PyObject_TypeCheck(args[0], tally_type)) return PyErr_Format(PyExc_TypeError, "ask(pool, frame)");
    return begin((HotPath *)me, args[0], args[1], NULL);
}

static PyObject *begin_for(HotPath *self, PyObject *target, PyObject *know_pool, PyObject *frame, PyObject *connection) {
    Pool *slot = &self->known_pools[slot_of((uintptr_t)target)];
    PyObject *pool = slot->address == target ? Py_XNewRef(slot->pool) : NULL;
    if (pool == NULL) {
        pool = PyObject_CallFunctionObjArgs(know_pool, target, NULL);
        if (!is_set(pool)) return pool;
        slot->address = target;
        set(&slot->pool, Py_NewRef(pool));
    }
    PyObject *hold = begin(self, pool, frame, connection);
    Py_DECREF(pool);
    return hold;
}

static PyObject *forget_pool(PyObject *self, PyObject *key) {
    void *address = PyLong_AsVoidPtr(key);
    Pool *slot = &((HotPath *)self)->known_pools[slot_of((uintptr_t)address)];
    if (slot->address == address) Py_CLEAR(slot->pool);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static PyObject *ask_for(PyObject *me, PyObject *const *args, Py_ssize_t count) {
    if (count != 3) return PyErr_Format(PyExc_TypeError, "ask_for(target, know_pool, frame)");
    return begin_for((HotPath *)me, args[0], args[1], args[2], NULL);
}

/* Put `hold` into the table under the key of `connection`. -1 with an exception. */
static int enter(HotPath *self, Hold *hold, PyObject *connection) {
    PyObject *key = Py_XNewRef(key_of(self, connection));
    PyObject *before = key != NULL ? PyDict_GetItemWithError(self->latest, key) : NULL;
    int is_wrong = key == NULL || PyErr_Occurred() != NULL;
    if (!is_wrong && before == NULL) is_wrong = call(self, "know", connection, NULL) < 0;
    else if (!is_wrong && ((Hold *)before)->is_out) is_wrong = call(self->ledger, "drop", before, NULL) < 0;
    if (is_wrong || PyDict_SetItem(self->latest, key, (PyObject *)hold) < 0) {
        Py_XDECREF(key);
        return -1;
    }
    set(&hold->key, key);
    return 0;
}

/* Steals the reference `now`, which may be NULL. -1 with an exception. */
static int give(HotPath *self, Hold *hold, PyObject *connection, PyObject *now) {
    Tally *pool = (Tally *)hold->pool;
    /* A hold with a key is the connection's last one, used again: it is in the table already. */
    if (now == NULL || (hold->key == NULL && enter(self, hold, connection) < 0)) {
        Py_XDECREF(now);
        return -1;
    }
    set(&hold->acquired_at, now);
    hold->is_out = 1;
    if (++pool->out > pool->peak) pool->peak = pool->out;
    return 0;
}

static PyObject *grant(PyObject *me, PyObject *const *args, Py_ssize_t count) {
    if (count != 2 || !Py_IS_TYPE(args[0], hold_type) || is_set(((Hold *)args[0])->acquired_at))
        return PyErr_Format(PyExc_TypeError, "grant(hold that waits, connection)");
    int done = give((HotPath *)me, (Hold *)args[0], args[1], PyFloat_FromDouble(read_clock()));
    return done == 0 ? Py_NewRef(Py_None) : NULL;
}

static PyObject *take(PyObject *me, PyObject *const *args, Py_ssize_t count) {
    if (count != 4) return PyErr_Format(PyExc_TypeError, "take(target, connection, know_pool, frame)");
    PyObject *hold = begin_for((HotPath *)me, args[0], args[2], args[3], args[1]);
    if (!is_set(hold)) return hold;
    int done = give((HotPath *)me, (Hold *)hold, args[1], Py_NewRef(((Hold *)hold)->asked_at));
    Py_DECREF(hold);
    return done == 0 ? Py_NewRef(Py_None) : NULL;
}

static void count_release(Tally *tally, double used, double waited) {
    tally->released++;
    tally->use_time += used;
    tally->wait_time += waited;
}

static PyObject *release_key(PyObject *me, PyObject *key) {
    HotPath *self = (HotPath *)me;
    Hold *hold = (Hold *)PyDict_GetItemWithError(self->latest, key);
    if (hold == NULL && PyErr_Occurred()) return NULL;
    if (hold == NULL || !hold->is_out) Py_RETURN_NONE;
    hold->is_out = 0;
    Py_INCREF((PyObject *)hold);
    double now = read_clock();
    Link *actor = (Link *)hold->actor;
    ((Tally *)hold->pool)->out--;
    /* Nearly always the newest of its actor: then nothing has to be searched. */
    if (actor->top == (PyObject *)hold) {
        actor->top = hold->below;
        hold->below = NULL;
        Py_DECREF(hold);
    } else if (call(self->ledger, "unlink", hold, NULL) < 0) {
        goto failed;
    }
    if (is_set(hold->acquired_at)) {
        double acquired_at = PyFloat_AsDouble(hold->acquired_at), used = now - acquired_at;
        double waited = acquired_at - PyFloat_AsDouble(hold->asked_at);
        count_release((Tally *)hold->pool, used, waited);
        Tally *site = (Tally *)hold->site;
        count_release(site, used, waited);
        if (used > site->longest) site->longest = used;
        if (used > self->threshold && self->threshold > 0.0) {
            PyObject *seconds = PyFloat_FromDouble(used);
            int done = seconds != NULL ? call(self->ledger, "note_late", hold, seconds) : -1;
            Py_XDECREF(seconds);
            if (done < 0) goto failed;
        }
    }
    if (actor->thread != PyThread_get_thread_ident() && call(self, "note_elsewhere", hold, NULL) < 0) goto failed;
    return (PyObject *)hold;
failed:
    Py_DECREF(hold);
    return NULL;
}

static PyObject *release(PyObject *me, PyObject *connection) {
    PyObject *key = Py_XNewRef(key_of((HotPath *)me, connection)), *hold = key != NULL ? release_key(me, key) : NULL;
    Py_XDECREF(key);
    return hold;
}

#define OBJECT(type, field) {#field, T_OBJECT, offsetof(type, field), 0, NULL}
#define NUMBER(type, kind, field) {#field, kind, offsetof(type, field), 0, NULL}
static PyMemberDef tally_members[] = {
    NUMBER(Tally, T_PYSSIZET, released), NUMBER(Tally, T_PYSSIZET, out), NUMBER(Tally, T_PYSSIZET, peak),
    NUMBER(Tally, T_DOUBLE, use_time), NUMBER(Tally, T_DOUBLE, wait_time), NUMBER(Tally, T_DOUBLE, longest),
    NUMBER(Tally, T_BOOL, inherited), {NULL}};
static PyMemberDef link_members[] = {OBJECT(Link, top), NUMBER(Link, T_ULONG, thread), {NULL}};
static PyMemberDef hold_members[] = {
    OBJECT(Hold, pool), OBJECT(Hold, site), OBJECT(Hold, actor), OBJECT(Hold, owner), OBJECT(Hold, below),
    OBJECT(Hold, key), OBJECT(Hold, asked_at), OBJECT(Hold, acquired_at), OBJECT(Hold, ending),
    OBJECT(Hold, statement), OBJECT(Hold, via), NUMBER(Hold, T_BOOL, is_out), {NULL}};
static PyMemberDef path_members[] = {
    OBJECT(HotPath, ledger), OBJECT(HotPath, latest), OBJECT(HotPath, pools), OBJECT(HotPath, owner),
    OBJECT(HotPath, on_exhausted), OBJECT(HotPath, running_loop), OBJECT(HotPath, current_tasks),
    OBJECT(HotPath, current_task), OBJECT(HotPath, current_greenlet),
    OBJECT(HotPath, is_user_file), OBJECT(HotPath, capture_site),
    NUMBER(HotPath, T_DOUBLE, threshold), {NULL}};
static PyMethodDef path_methods[] = {
    {"ask", (PyCFunction)(void (*)(void))ask, METH_FASTCALL, NULL},
    {"ask_for", (PyCFunction)(void (*)(void))ask_for, METH_FASTCALL, NULL},
    {"grant", (PyCFunction)(void (*)(void))grant, METH_FASTCALL, NULL},
    {"take", (PyCFunction)(void (*)(void))take, METH_FASTCALL, NULL},
    {"release", release, METH_O, NULL},
    {"release_key", release_key, METH_O, NULL},
    {"forget_pool", forget_pool, METH_O, NULL},
    {"forget_actor", forget_actor, METH_O, NULL},
    {"forget_actors", forget_actors, METH_NOARGS, NULL},
    {NULL}};

static PyTypeObject *add_type(PyObject *module, const char *name, size_t size, PyMemberDef *members, destructor free,
                              PyMethodDef *methods) {
    PyType_Slot slots[] = {{Py_tp_members, members}, {Py_tp_dealloc, (void *)free}, {Py_tp_methods, methods}, {0, NULL}};
    PyType_Spec spec = {name, (int)size, 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};
    PyTypeObject *type = (PyTypeObject *)PyType_FromSpec(&spec);
    if (type != NULL) PyModule_AddType(module, type);
    return type;
}

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_hot_path", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__hot_path(void) {
    static PyMethodDef none[] = {{NULL}};
    PyObject *module = PyModule_Create(&definition), *time = PyImport_ImportModule("time");
    if (module == NULL || time == NULL) return NULL;
    monotonic = PyObject_GetAttrString(time, "monotonic");
    Py_DECREF(time);
#ifndef _WIN32
    *(void **)&get_back = dlsym(RTLD_DEFAULT, "PyFrame_GetBack");
    *(void **)&get_lasti = dlsym(RTLD_DEFAULT, "PyFrame_GetLasti");
#endif
    empty_text = PyUnicode_InternFromString("");
    empty_tuple = PyTuple_New(0);
    co_filename = PyUnicode_InternFromString("co_filename");
    f_back = PyUnicode_InternFromString("f_back");
    f_lasti = PyUnicode_InternFromString("f_lasti");
    tally_type = add_type(module, "poolctl.guard._hot_path.Tally", sizeof(Tally), tally_members, free_object, none);
    link_type = add_type(module, "poolctl.guard._hot_path.Link", sizeof(Link), link_members, free_link, none);
    hold_type = add_type(module, "poolctl.guard._hot_path.Hold", sizeof(Hold), hold_members, free_hold, none);
    /* There is one for each process, which lives as long: it is never freed. */
    add_type(module, "poolctl.guard._hot_path.HotPath", sizeof(HotPath), path_members, free_object, path_methods);
    if (PyErr_Occurred() || PyModule_AddIntConstant(module, "LAYOUT", LAYOUT) < 0) return NULL;
    return module;
}
