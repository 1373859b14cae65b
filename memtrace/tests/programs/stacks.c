// Stacks that walks find hard: leaks in coroutines, below code made at run time, and on another stack.
//
// Says "ready", makes ROUNDS leaks for each line of its stdin, and says "done".
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define ROUNDS 64
#define STACK_BYTES 65536

static ucontext_t scheduler, coroutines[ROUNDS];

__attribute__((noinline)) void keep(size_t bytes) {
    void *volatile block = malloc(bytes);
    (void)block;
}

// makecontext(3): the return address of `body` is the beginning of `__start_context`.
__attribute__((noinline)) void leak_in_coroutine(int number) {
    keep(200);
    swapcontext(&coroutines[number], &scheduler);
}

static void body(int number) {
    for (;;) leak_in_coroutine(number);
}

static void make_coroutines(void) {
    for (int number = 0; number < ROUNDS; number++) {
        ucontext_t *context = &coroutines[number];
        getcontext(context);
        context->uc_stack.ss_sp = mmap(0, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        context->uc_stack.ss_size = STACK_BYTES;
        context->uc_link = 0;
        makecontext(context, (void (*)(void))body, 1, number);
    }
}

// As libco and its kin: the return address of the first function was put there by hand, and is the beginning of another.
__attribute__((noinline)) void never_returned_to(void) { keep(1); }

__attribute__((noinline)) void leak_by_hand(void) { keep(300); }

extern void on_stack(void *stack_pointer);
static void *volatile return_to;
static void first_by_hand(void) {
    leak_by_hand();
    __asm__ volatile("mov %0, %%rsp\n\tret" ::"r"(return_to));
    __builtin_unreachable();
}

// Call frame information describes none of these; all save what the C ABI wants saved.
__asm__(
    ".text\n"
    // on_stack(rdi): goes on at the address that lies there, on that stack; comes back by return_to.
    ".globl on_stack\n.type on_stack,@function\n"
    "on_stack:\n\tpush %rbp\n\tpush %rbx\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush %r15\n"
    "\tlea back(%rip), %rax\n\tpush %rax\n\tmov %rsp, return_to(%rip)\n\tmov %rdi, %rsp\n\tret\n"
    "back:\n\tpop %r15\n\tpop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbx\n\tpop %rbp\n\tret\n"
    ".size on_stack,.-on_stack\n"
    // call_on(rdi, rsi): calls rdi on the stack rsi, as runtime.asmcgocall of Go does.
    ".globl call_on\n.type call_on,@function\n"
    "call_on:\n\tpush %rbx\n\tpush %rbp\n\tmov %rsp, %rbx\n\tmov $1, %ebp\n\tmov %rsi, %rsp\n\tcall *%rdi\n"
    "\tmov %rbx, %rsp\n\tpop %rbp\n\tpop %rbx\n\tret\n"
    ".size call_on,.-call_on\n"
    // call_framed(rdi, rsi): the same, with a frame pointer.
    ".globl call_framed\n.type call_framed,@function\n"
    "call_framed:\n\tpush %rbp\n\tmov %rsp, %rbp\n\tmov %rsi, %rsp\n\tcall *%rdi\n\tleave\n\tret\n"
    ".size call_framed,.-call_framed\n"
    ".section .note.GNU-stack,\"\",@progbits\n\t.text\n");

extern void call_on(void (*function)(void), void *stack_pointer);
extern void call_framed(void (*function)(void), void *stack_pointer);

__attribute__((noinline)) void leak_on_another_stack(void) { keep(400); }
__attribute__((noinline)) void leak_with_frame_pointer(void) { keep(500); }

// Calls a function, with a frame pointer: push rbp; mov rbp,rsp; mov rax,FUNCTION; call rax; pop rbp; ret.
static size_t put_trampoline(uint8_t *code, void *function) {
    const uint8_t before[] = {0x55, 0x48, 0x89, 0xe5, 0x48, 0xb8}, after[] = {0xff, 0xd0, 0x5d, 0xc3};
    memcpy(code, before, sizeof before);
    memcpy(code + sizeof before, &function, sizeof function);
    memcpy(code + sizeof before + sizeof function, after, sizeof after);
    return sizeof before + sizeof function + sizeof after;
}

__attribute__((noinline)) void leak_below_jit(void) { keep(100); }

// From one to four frames of code that was made at run time, at another address each time.
__attribute__((noinline)) void call_jit(int round) {
    static uint8_t *code;
    static size_t used;
    const size_t room = 1 << 20;
    if (!code) {
        int protection = PROT_READ | PROT_WRITE | PROT_EXEC;
        code = mmap(0, room, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (code == MAP_FAILED) exit(2);
    }
    void *next = leak_below_jit;
    for (int depth = 0; depth <= round % 4; depth++) {
        uint8_t *here = code + used;
        used += put_trampoline(here, next);
        next = here;
    }
    ((void (*)(void))next)();
    // So that this is no jump.
    __asm__ volatile("" ::: "memory");
}

int main(void) {
    make_coroutines();
    // Further in than the thread's own stack: a frame pointer into that one leads outwards.
    static uint64_t other[STACK_BYTES / 8] __attribute__((aligned(16)));
    uint8_t *top = (uint8_t *)mmap(0, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + STACK_BYTES;
    call_jit(0);
    puts("ready");
    fflush(stdout);
    for (char line[16]; fgets(line, sizeof line, stdin);) {
        for (int round = 0; round < ROUNDS; round++) {
            swapcontext(&scheduler, &coroutines[round]);
            void **by_hand = (void **)top - 8;
            by_hand[0] = first_by_hand;
            by_hand[1] = never_returned_to;
            on_stack(by_hand);
            call_on(leak_on_another_stack, &other[STACK_BYTES / 8 - 8]);
            call_framed(leak_with_frame_pointer, &other[STACK_BYTES / 8 - 8]);
            call_jit(round);
        }
        puts("done");
        fflush(stdout);
    }
}
