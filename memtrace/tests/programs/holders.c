// A program that knows who holds its blocks. Each way has sizes of its own, so that a report can be compared block by block.
//
// It prints its truth as JSON, then "ready", and ends when its standard input does. Meanwhile its second thread sleeps.
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { SESSIONS = 20000, BUCKETS = 4096, LIST = 5000, TREE = 3000, SLOTS = 600, LOCAL = 700, STACK = 40, LOST = 50 };

struct session {
    struct session *next;
    char *name;
    char rest[184];
};
struct table {
    struct session **buckets;
    size_t count;
};
struct link {
    struct link *next, *before;
    char rest[264];
};
struct tree {
    struct tree *left, *right;
    char rest[328];
};

struct table *g_sessions;
struct link *g_list;
static struct tree *g_tree;
void *g_slots[SLOTS];
__thread char *t_cache;
static int epoll;
static size_t local_bytes, held_bytes, waiting_bytes, lost_bytes;
extern char __executable_start;
static pthread_barrier_t filled;

static void *keep(size_t size) {
    char *block = malloc(size);
    if (!block)
        exit(1);
    memset(block, 1, size);
    return block;
}

static void fill_table(int sessions) {
    g_sessions = keep(sizeof *g_sessions);
    g_sessions->count = sessions;
    g_sessions->buckets = calloc(BUCKETS, sizeof(struct session *));
    for (int i = 0; i < sessions; i++) {
        struct session *session = keep(sizeof *session);
        session->name = keep(56);
        session->next = g_sessions->buckets[i % BUCKETS];
        g_sessions->buckets[i % BUCKETS] = session;
    }
}

static void fill_list(void) {
    for (int i = 0; i < LIST; i++) {
        struct link *link = keep(sizeof *link);
        link->next = g_list;
        link->before = NULL;
        if (g_list)
            g_list->before = link;
        g_list = link;
    }
}

static struct tree *grow(int count) {
    if (count == 0)
        return NULL;
    struct tree *tree = keep(sizeof *tree);
    tree->left = grow((count - 1) / 2);
    tree->right = grow(count - 1 - (count - 1) / 2);
    return tree;
}

// Its thread-local variable and its stack hold blocks that nothing else does.
static void *worker(void *argument) {
    pthread_setname_np(pthread_self(), "worker");
    t_cache = keep(LOCAL);
    local_bytes = malloc_usable_size(t_cache);
    char *volatile on_stack[STACK];
    for (int i = 0; i < STACK; i++)
        on_stack[i] = keep(424);
    held_bytes = malloc_usable_size(on_stack[0]);
    pthread_barrier_wait(&filled);
    // Its end is the process's.
    for (;;)
        pause();
    return argument == on_stack ? NULL : argument;
}

// The kernel alone has the pointer.
static __attribute__((noinline)) void wait_for(int descriptor) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = keep(488)};
    waiting_bytes = malloc_usable_size(event.data.ptr);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event))
        exit(1);
    event.data.ptr = NULL;
    __asm__ volatile("" ::"r"(&event) : "memory");
}

// Nothing points there any more.
static __attribute__((noinline)) void lose(void) {
    for (int i = 0; i < LOST; i++) {
        void *volatile lost = keep(616);
        lost_bytes = malloc_usable_size(lost);
        lost = NULL;
        (void)lost;
    }
}

// Clears the words that calls have left on the stack.
static __attribute__((noinline)) void forget(void) {
    volatile char stack[16384];
    for (size_t i = 0; i < sizeof stack; i++)
        stack[i] = 0;
}

static int answer(void) {
    char line[64];
    while (fgets(line, sizeof line, stdin))
        puts("ready");
    return 0;
}

// With an argument, so many sessions are all that it has.
int main(int count, char **arguments) {
    static char out[BUFSIZ], in[BUFSIZ];
    setvbuf(stdout, out, _IOLBF, sizeof out);
    setvbuf(stdin, in, _IOFBF, sizeof in);
    epoll = epoll_create1(0);
    pthread_barrier_init(&filled, NULL, 2);
    if (count > 1) {
        fill_table(atoi(arguments[1]));
        puts("{}");
        return answer();
    }
    fill_table(SESSIONS);
    fill_list();
    g_tree = grow(TREE);
    for (int i = 0; i < SLOTS; i++)
        g_slots[i] = keep(552);
    pthread_t thread;
    if (pthread_create(&thread, NULL, worker, NULL))
        return 1;
    pthread_barrier_wait(&filled);
    int ends[2];
    if (epoll < 0 || pipe(ends))
        return 1;
    wait_for(ends[0]);
    lose();
    forget();
    printf("{\"table\": %zu, \"buckets\": %zu, \"session\": %zu, \"name\": %zu, \"link\": %zu, \"tree\": %zu, \"slot\": %zu, "
           "\"local\": %zu, \"held\": %zu, \"waiting\": %zu, \"lost\": %zu, \"epoll\": %d, \"sessions_at\": %td, "
           "\"list_at\": %td, \"tree_at\": %td, \"slots_at\": %td}\n",
           malloc_usable_size(g_sessions), malloc_usable_size(g_sessions->buckets),
           malloc_usable_size(g_sessions->buckets[0]), malloc_usable_size(g_sessions->buckets[0]->name),
           malloc_usable_size(g_list), malloc_usable_size(g_tree), malloc_usable_size(g_slots[0]), local_bytes, held_bytes, waiting_bytes, lost_bytes, epoll,
           (char *)&g_sessions - &__executable_start, (char *)&g_list - &__executable_start,
           (char *)&g_tree - &__executable_start, (char *)g_slots - &__executable_start);
    forget();
    return answer();
}
