/* How the kernel is to treat a thread. */
#ifndef BASE_SCHED_H
#define BASE_SCHED_H

/*
 * The calling thread never works for long, and others wait for what it does: when it wakes it should run at
 * once. Best effort. From Linux 6.12 on a short slice lets it preempt whoever computes, at the same nice
 * value, so that a yield gives way. Before, a better nice value is what helps, where the process may take
 * one; then yields hardly give way. Whoever started us under a real-time policy has decided.
 */
void base_sched_wake_soon(void);

#endif
