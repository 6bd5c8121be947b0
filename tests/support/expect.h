/* What a test program in C expects: the first thing that is not so ends it, and is named. */
#ifndef TESTS_SUPPORT_EXPECT_H
#define TESTS_SUPPORT_EXPECT_H

#include <stdio.h>
#include <stdlib.h>

#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);                                 \
            fflush(stdout); /* A child's leak check ends it before exit() would. */                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#endif
