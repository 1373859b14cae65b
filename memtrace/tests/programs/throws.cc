// A program whose `operator new` throws, again and again, and is caught at once and further out; it knows
// what it allocated, by site. Its new-handler frees a reserve, throws, or gives up.
//
// HANDLER_CHOICES: 0 without a new-handler, 3 with one that throws or jumps, 4 with one that may also take
// itself away.
//
// usage: throws ROUNDS; prints "ready", begins when a line comes, prints its truth and stays.
#include <new>

#include <atomic>
#include <pthread.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "counts.h"

namespace {

enum { THREADS = 8, KEPT = 64 };
enum site { NEW, ARRAY, ALIGNED, NOTHROW, NESTED, AFTER, HANDLER, SITE_COUNT };
const char *const names[] = {"site_new",    "site_array", "site_aligned", "site_nothrow",
                             "site_nested", "site_after", "site_handler"};

struct thread {
    pthread_t handle;
    jmp_buf jump;
    uint64_t random;
    struct {
        void *address;
        size_t size;
        site from;
    } kept[KEPT];
    counts sites[SITE_COUNT];
} threads[THREADS];

thread_local thread *self;
uint64_t rounds;
pthread_barrier_t begin, end;
// An exception thrown by one that does not return is derived from it, or `nothrow` forms end the program.
struct gives_up : std::bad_alloc {};

uint64_t next_random() {
    self->random ^= self->random << 13;
    self->random ^= self->random >> 7;
    self->random ^= self->random << 17;
    return self->random;
}

void keep(void *address, size_t size, site from) {
    auto &slot = self->kept[next_random() % KEPT];
    self->sites[from].alloc_bytes += size;
    self->sites[from].alloc_objects++;
    if (slot.address) {
        self->sites[slot.from].freed_bytes += slot.size;
        self->sites[slot.from].freed_objects++;
        if (slot.from == ALIGNED)
            operator delete(slot.address, std::align_val_t(64));
        else
            operator delete(slot.address);
    }
    slot = {address, size, from};
}

#define SITE __attribute__((noinline))

extern "C" {
SITE void *site_new(size_t size) { return operator new(size); }
SITE void *site_array(size_t size) { return operator new[](size); }
SITE void *site_aligned(size_t size) { return operator new(size, std::align_val_t(64)); }
SITE void *site_nothrow(size_t size) { return operator new(size, std::nothrow); }
SITE void *site_after(size_t size) { return operator new(size); }
SITE void *site_handler(size_t size) { return malloc(size); }

// Leaves frames of ever other sizes between the throw and the catch.
SITE void *site_nested(size_t size, int depth) {
    char room[64];
    asm volatile("" : : "r"(room) : "memory");
    return depth > 0 ? site_nested(size, depth - 1) : operator new(size);
}
}

// Called within `operator new` when there is no memory. Memory that it allocates by itself is its own.
void handler() {
    void *own = site_handler(40);
    free(own);
    switch (next_random() % (HANDLER_CHOICES + !HANDLER_CHOICES)) {
    case 0:
        throw gives_up();
    case 1:
        throw std::bad_alloc();
    case 2:
        longjmp(self->jump, 1);
    default:
        std::set_new_handler(nullptr); // for all threads, but each sets it again
    }
}

const size_t TOO_MUCH = SIZE_MAX / 2;

void fail() {
    if (setjmp(self->jump))
        return;
    try {
        switch (next_random() % 5) {
        case 0:
            site_new(TOO_MUCH);
            break;
        case 1:
            site_array(TOO_MUCH);
            break;
        case 2:
            site_aligned(TOO_MUCH);
            break;
        case 3:
            site_nested(TOO_MUCH, next_random() % 32);
            break;
        case 4:
            if (!site_nothrow(TOO_MUCH))
                throw std::bad_alloc();
        }
        _exit(3);
    } catch (const gives_up &) {
    } catch (const std::bad_alloc &) {
        size_t size = next_random() % 1000;
        keep(site_after(size), size, AFTER); // while the exception is still there
    }
}

void *work(void *argument) {
    self = static_cast<thread *>(argument);
    pthread_barrier_wait(&begin);
    for (uint64_t round = 0; round < rounds; round++) {
        size_t size = next_random() % 1000;
        switch (next_random() % 8) {
        case 0:
            keep(site_new(size), size, NEW);
            break;
        case 1:
            keep(site_array(size), size, ARRAY);
            break;
        case 2:
            keep(site_aligned(size), size, ALIGNED);
            break;
        case 3:
            keep(site_nothrow(size), size, NOTHROW);
            break;
        case 4:
            keep(site_nested(size, next_random() % 32), size, NESTED);
            break;
        default:
            if (HANDLER_CHOICES)
                std::set_new_handler(handler);
            // The same call site twice: its next call stands where the one that threw stood.
            fail();
            fail();
        }
    }
    pthread_barrier_wait(&end);
    for (;;)
        pause();
}

} // namespace

int main(int, char **argv) {
    rounds = strtoull(argv[1], nullptr, 10);
    pthread_barrier_init(&begin, nullptr, THREADS + 1);
    pthread_barrier_init(&end, nullptr, THREADS + 1);
    for (int i = 0; i < THREADS; i++) {
        threads[i].random = 0x9e3779b97f4a7c15u * (i + 1) + getpid();
        if (pthread_create(&threads[i].handle, nullptr, work, &threads[i]))
            return 2;
    }
    // A thread's first exception allocates what its unwinder keeps: before the counting.
    try {
        throw gives_up();
    } catch (const gives_up &) {
    }
    char line[16];
    if (write(1, "ready\n", 6) != 6 || read(0, line, sizeof line) <= 0)
        return 2;
    pthread_barrier_wait(&begin);
    pthread_barrier_wait(&end);
    static char text[8192];
    size_t used = 0;
    for (int site = 0; site < HANDLER; site++) {
        counts sum = {};
        for (auto &of : threads)
            add_counts(&sum, &of.sites[site]);
        text[used++] = site ? ',' : '{';
        used += print_counts(text + used, sizeof text - used, names[site], &sum);
    }
    used += snprintf(text + used, sizeof text - used, "}\n");
    if (write(1, text, used) != (ssize_t)used)
        return 2;
    while (read(0, line, sizeof line) > 0)
        ;
    _exit(0);
}
