/* A list of operations, as a model's step for new positions is one: a single call, in which threads meet between the
   stages of the list and nowhere else. */
#include <sched.h>
#include <stdatomic.h>

#include "tasks.h"

#define PATIENCE 4096 /* turns of waiting before the processor is offered to others */

extern int omp_get_thread_num(void), omp_get_num_threads(void);

/* What the threads share: the next task of the stage, and a gate at its end. */
typedef struct {
    _Alignas(64) _Atomic int64_t task;
    _Alignas(64) _Atomic int32_t waiting;
    _Alignas(64) _Atomic int32_t passed;
    _Atomic int32_t failed;
} Shared;

typedef struct {
    const Op *ops;
    const int64_t *starts, *ends;
    Shared *shared;
    int me, threads;
    /* the rows that this thread prepared last, and of what */
    const void *of;
    int64_t m, k, group;
    int32_t stage, kind, type;
    Rows rows;
} Thread;

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void meet(Thread *t) {
    Shared *s = t->shared;
    int32_t passed = atomic_load_explicit(&s->passed, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&s->waiting, 1, memory_order_acq_rel) + 1 == t->threads) {
        atomic_store_explicit(&s->waiting, 0, memory_order_relaxed);
        atomic_store_explicit(&s->task, 0, memory_order_relaxed);
        atomic_store_explicit(&s->passed, passed + 1, memory_order_release);
        return;
    }
    for (int turns = 0; atomic_load_explicit(&s->passed, memory_order_acquire) == passed; turns++)
        if (turns < PATIENCE) relax();
        else sched_yield();
}

/* LINEAR: size M N K group, type of the scales; in x [M][K], weight, scale, zero, bias; out y [M][N]. */
static void product(Thread *t, const Op *op, int64_t task) {
    const Weight w = weight_of(op);
    int64_t m = op->size[0], parts = parts_of(&w, m);
    int known = t->of == op->in[0] && t->stage == op->stage && t->m == m && t->k == w.k && t->group == w.group &&
                t->kind == op->kind && t->type == op->type;
    if (parts && !known) {
        if (!make_room(&w, m, &t->rows)) {
            atomic_store_explicit(&t->shared->failed, 1, memory_order_relaxed);
            t->of = 0; /* whose memory is gone */
            return;
        }
        for (int64_t part = 0; part < parts; part++) prepare(&w, op->in[0], op->type, m, part, &t->rows);
        t->of = op->in[0];
        t->stage = op->stage;
        t->m = m;
        t->k = w.k;
        t->group = w.group;
        t->kind = op->kind;
        t->type = op->type;
    }
    int64_t share = share_of(&w, m);
    multiply(&w, op->in[0], &t->rows, op->type, m, task * share, share, op->out[0]);
}

static void compute(Thread *t, const Op *op, int64_t task) {
    if (op->code == LINEAR) product(t, op, task);
    else chosen->step(op, t->starts, t->ends, task);
}

/* The operations from `first` to `last`, exclusive: one after another by one thread, or task by task by all. */
static void stage(Thread *t, int64_t first, int64_t last) {
    if (t->ops[first].alone || t->threads == 1) {
        for (int64_t i = first; i < last && t->me == 0; i++)
            for (int64_t task = 0; task < tasks_of(t->ops + i, t->ends); task++) compute(t, t->ops + i, task);
        return;
    }
    int64_t before = 0, i = first, tasks = tasks_of(t->ops + i, t->ends), span = span_of(t->ops + i, tasks, t->threads);
    for (;;) {
        int64_t taken = atomic_fetch_add_explicit(&t->shared->task, 1, memory_order_relaxed) - before;
        for (int64_t turns; taken >= (turns = (tasks + span - 1) / span); taken -= turns) {
            before += turns;
            if (++i == last) return;
            tasks = tasks_of(t->ops + i, t->ends);
            span = span_of(t->ops + i, tasks, t->threads);
        }
        int64_t end = (taken + 1) * span < tasks ? (taken + 1) * span : tasks;
        for (int64_t task = taken * span; task < end; task++) compute(t, t->ops + i, task);
    }
}

static void all_stages(Thread *t, int64_t count) {
    for (int64_t first = 0, last; first < count; first = last) {
        for (last = first + 1; last < count && t->ops[last].stage == t->ops[first].stage;) last++;
        stage(t, first, last);
        if (t->threads > 1) meet(t);
    }
}

/* Compute the list for rows whose new positions are starts[b] to ends[b], exclusive. 0 where it went well, 1 without
   memory. */
EXPORT int llm_quant_run(const Op *ops, int64_t count, const int64_t *starts, const int64_t *ends, int32_t threads) {
    Shared shared = {0};
    if (threads <= 1) {
        Thread one = {.ops = ops, .starts = starts, .ends = ends, .shared = &shared, .threads = 1};
        all_stages(&one, count);
    } else {
#pragma omp parallel num_threads(threads)
        {
            Thread one = {.ops = ops, .starts = starts, .ends = ends, .shared = &shared};
            one.me = omp_get_thread_num();
            one.threads = omp_get_num_threads();
            all_stages(&one, count);
        }
    }
    return shared.failed;
}

/* How many fp32 numbers an ATTEND needs as its second output. */
EXPORT int64_t llm_quant_attend_scratch(const Op *op) {
    int64_t heads = op->size[0] * op->size[3], queries = op->size[1] * op->size[2] / op->size[3];
    int64_t most = (op->size[6] + CHUNK - 1) / CHUNK, deep = (op->size[5] + 15) & ~(int64_t)15;
    return ((heads + 15) & ~(int64_t)15) + (most > 1 ? heads * most * queries * (deep + 2) : 0);
}
