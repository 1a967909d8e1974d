/* Cleanup attributes for locals, and the markers that our prototypes use. */
#ifndef BASE_CLEANUP_H
#define BASE_CLEANUP_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define BASE_MUST_CHECK	    __attribute__((warn_unused_result))
#define BASE_PRINTF(fmt, a) __attribute__((format(printf, fmt, a)))
#define BASE_CLEANUP(fn)    __attribute__((cleanup(fn)))

static inline void base_cleanup_free(void *p)
{
	free(*(void **)p);
}

static inline void base_cleanup_fd(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void base_cleanup_file(FILE **f)
{
	if (*f)
		fclose(*f);
}

/* Declare as `BASE_AUTO_FD int fd = -1;`; hand over by copying and then setting -1 or NULL. */
#define BASE_AUTO_FREE	  BASE_CLEANUP(base_cleanup_free)
#define BASE_AUTO_FD	  BASE_CLEANUP(base_cleanup_fd)
#define BASE_AUTO_FILE	  BASE_CLEANUP(base_cleanup_file)

#define BASE_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define BASE_MIN(a, b)	  ((a) < (b) ? (a) : (b))
#define BASE_MAX(a, b)	  ((a) > (b) ? (a) : (b))

#endif
