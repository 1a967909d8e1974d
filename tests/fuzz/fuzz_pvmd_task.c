/* libs: pg_pvmd */
/*
 * What a task may send to its daemon: two tasks enrol by the socket, then each record of the input
 * {which of them and frame type, op, length, payload} is a frame of one of them. The daemon lives in
 * this process; it starts no programs and signals nobody.
 */
#include <errno.h>
#include <poll.h>
#include <pvm3.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "pvm/pvmd/mpd.h"

enum { TASKS = 2, TURNS = 64, RECORD = 5 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct mpd pd;

/* Instead of libc's: a hostile frame shall not do harm here. */
int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *fa,
		const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
	return ENOENT;
}

int posix_spawnp(pid_t *pid, const char *path, const posix_spawn_file_actions_t *fa,
		 const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
	return ENOENT;
}

int kill(pid_t pid, int sig)
{
	return 0;
}

static char dir[] = "/tmp/fuzz_pvmd.XXXXXX";

static void tidy(void)
{
	char path[128];

	snprintf(path, sizeof(path), "rm -rf %s", dir);
	if (system(path))
		return;
}

static void setup(void)
{
	sigset_t none;

	if (!mkdtemp(dir) || setenv("PVM_TMP", dir, 1) || setenv("HOME", dir, 1))
		abort();
	atexit(tidy);
	snprintf(pd.config.name, sizeof(pd.config.name), "fuzzed");
	snprintf(pd.config.ip, sizeof(pd.config.ip), "127.0.0.1");
	pd.config.host_timeout_ms = MPD_HOST_TIMEOUT_MS;
	if (mpd_crypt_setup() || mpd_life_setup(&pd))
		abort();
	/* Its signals are those of the fuzzer. */
	base_loop_remove(&pd.signals);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static void turn(void)
{
	for (int i = 0; i < TURNS; i++)
		if (base_loop_step(pd.loop, 0))
			abort();
}

static void send_frame(int fd, int type, uint16_t op, const uint8_t *p, size_t len)
{
	bool op_first = type != MP_F_MSG;
	struct mp_frame f = {.type = (uint8_t)type, .req = 1, .len = len + (op_first ? 2 : 0)};
	uint8_t head[MP_FRAME_HDR + 2];

	mp_frame_put(head, &f);
	memcpy(head + MP_FRAME_HDR, &op, 2);
	/* One that does not fit is cut: that is hostile, too. */
	if (send(fd, head, MP_FRAME_HDR + (op_first ? 2 : 0), MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ||
	    send(fd, p, len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
}

static int enrol(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	static const uint8_t args[16] = {MPD_VERSION};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", pd.socket);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)))
		abort();
	send_frame(fd, MP_F_REQ, MP_OP_ENROL, args, 12);
	return fd;
}

static void drain(int fd)
{
	uint8_t buf[65536];

	while (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		continue;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool ready;
	int fd[TASKS];

	if (!ready)
		setup();
	ready = true;
	for (int i = 0; i < TASKS; i++)
		fd[i] = enrol();
	turn();
	if (pd.task_count != TASKS)
		abort();
	while (size >= RECORD) {
		int task = data[0] & 1, type = data[0] >> 1 & 7;
		uint16_t op = (uint16_t)(data[1] | data[2] << 8);
		size_t len = (size_t)data[3] | (size_t)data[4] << 8;

		data += RECORD;
		size -= RECORD;
		len = BASE_MIN(len, size);
		send_frame(fd[task], type, op, data, len);
		turn();
		for (int i = 0; i < TASKS; i++)
			drain(fd[i]);
		data += len;
		size -= len;
	}
	for (int i = 0; i < TASKS; i++)
		close(fd[i]);
	turn();
	/* All is forgotten again, or the next input would tell other things than alone. */
	if (pd.task_count)
		abort();
	pd.halting = false;
	return 0;
}
