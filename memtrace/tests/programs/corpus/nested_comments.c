// A parser by recursive descent frees its nodes, but not the comments in them. They are made at many depths of the
// stack.
// leak: parse_comment
// half: measured
#include "pace.h"

struct node {
    struct node *child, *sibling;
    char *comment;
    char text[100];
};

NOINLINE static char *parse_comment(int depth) {
    char *comment = malloc(400);
    snprintf(comment, 400, "a comment at depth %d", depth);
    return comment;
}

NOINLINE static struct node *parse(int depth) {
    struct node *node = calloc(1, sizeof *node);
    snprintf(node->text, sizeof node->text, "node %d", depth);
    if (below(3) == 0) node->comment = parse_comment(depth);
    if (depth > 0) node->child = parse(depth - 1);
    if (depth > 0 && below(20) == 0) node->sibling = parse(depth - 1);
    return node;
}

NOINLINE static void release(struct node *node) {
    if (!node) return;
    release(node->child);
    release(node->sibling);
    free(node);
}

int main(void) {
    for (;;) {
        struct node *tree = parse(12);
        rest(50);
        release(tree);
        rest(50);
    }
}
