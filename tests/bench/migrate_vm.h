/*
 * What the migration benchmark moves: the guest tests/guests/writer under a virtual machine monitor,
 * twice (source and destination), watched from outside by the dots that it prints.
 */
#ifndef BENCH_MIGRATE_VM_H
#define BENCH_MIGRATE_VM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

enum { MOVE_TIMEOUT_MS = 20000, MOVE_CHANNELS = 4, MOVE_TEXT = 4096 };

struct move_job {
	unsigned memory_mib, fill_mib, rate_mb;
	bool unthrottled; /* writes as fast as it goes */
	bool encrypt, postcopy;
	unsigned channels;	  /* ours: 0 for the default; QEMU: of multifd, 0 none */
	unsigned max_downtime_ms; /* 0: the default of the program */
};

/* -1: not measured. */
struct move_result {
	double total_ms, downtime_ms, bytes;
	char why[256];
};

/* One process and what its guest prints. */
struct move_side {
	pid_t pid;
	int out;
	double last_us, first_us; /* of its dots; 0: none yet */
	unsigned long dots;
	char text[MOVE_TEXT]; /* what is not dots */
	size_t len;
};

/* Both sides, and the thread that notes when their dots come. */
struct move_pair {
	struct move_side side[2]; /* source, destination */
	pthread_t watcher;
	bool watching;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	atomic_bool quit;
	char dir[64]; /* for sockets */
};

/* 0 or -errno. */
int move_pair_init(struct move_pair *p);
/* Ends both processes and removes the folder. */
void move_pair_fini(struct move_pair *p);
int move_side_start(struct move_pair *p, int which, const char *const argv[]);
/* After the sides were started. */
int move_watch(struct move_pair *p);
/* Waits until the side has printed `text`, or (NULL) `dots` more dots. -ETIMEDOUT. */
int move_wait(struct move_pair *p, int which, const char *text, unsigned long dots);
/* From the source's last dot to the destination's first. */
double move_gap_ms(struct move_pair *p);
/* A connected pair over loopback TCP. */
int move_tcp_pair(int fds[2]);
void move_guest_args(const struct move_job *job, char *out, size_t cap);

/* Each moves one guest once. `build`: the build folder. 0 or -errno with a reason. */
int move_ours(const char *build, const struct move_job *job, struct move_result *r);
int move_qemu(const char *qemu, const char *build, const struct move_job *job,
	      struct move_result *r);
/* Sends so many bytes through one TCP connection in writes of 1 MiB, to another process; its ms. */
int move_raw(size_t bytes, struct move_result *r);

#endif
