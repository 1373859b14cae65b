// A program that is linked statically, with libc or, with NO_LIBC, without any allocator at all.
#ifdef NO_LIBC
void _start(void) {
    for (;;)
#ifdef __x86_64__
        __asm__ volatile("syscall" : : "a"(34) : "rcx", "r11", "memory"); // pause
#else
        __asm__ volatile("int $0x80" : : "a"(29) : "memory"); // pause
#endif
}
#else
#include <stdlib.h>
#include <unistd.h>
static void *(*volatile call_malloc)(size_t) = malloc;
int main(void) {
    if (write(1, "running\n", 8) != 8)
        return 1;
    for (;;) {
        void *volatile kept = call_malloc(100);
        (void)kept;
        usleep(1000);
    }
}
#endif
