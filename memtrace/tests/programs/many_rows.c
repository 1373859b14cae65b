// A library with more unwind rows than the table has room for at first: each of these functions has two. The function that
// allocates comes after them.
#include <stdlib.h>

__asm__(".text\n"
        ".rept 200000\n"
        ".cfi_startproc\n"
        "push %rbx\n"
        ".cfi_def_cfa_offset 16\n"
        "pop %rbx\n"
        ".cfi_def_cfa_offset 8\n"
        "ret\n"
        ".cfi_endproc\n"
        ".endr\n");

__attribute__((section(".text.late"))) void late(void) {
    void *volatile block = malloc(1000);
    (void)block;
}
