/* The peers of the DSM's benchmark: plain sockets and plain userfaultfd, with polling ends. */
#ifndef BENCH_DSM_RAW_H
#define BENCH_DSM_RAW_H

#include "tests/bench/bench.h"

/* Round trips over loopback TCP between two processes that poll their sockets. */
void raw_ping_pong(size_t request_bytes, size_t reply_bytes, unsigned count,
		   struct bench_samples *out);
/* A minor fault on a memory file, resolved by a thread that polls the userfaultfd. */
void raw_local_fault(unsigned count, struct bench_samples *out);
/* Bytes per second of one TCP connection over loopback, blocking, 128 KiB a call. */
double raw_stream_rate(size_t bytes);

#endif
