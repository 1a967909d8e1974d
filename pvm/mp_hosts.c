/* Calls about hosts and the machine as a whole. */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "pvm/include/pvm3.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_rm.h"
#include "pvm/mp_rt.h"

struct hosts {
	struct pvmhostinfo *list;
	int count;
};

static char *take_text(struct base_rbuf *b)
{
	size_t len = 0;
	const char *p = base_rbuf_blob(b, 4096, &len);

	return p ? strndup(p, len) : NULL;
}

static void free_hosts(struct hosts *h)
{
	for (int i = 0; i < h->count; i++) {
		free(h->list[i].hi_name);
		free(h->list[i].hi_arch);
	}
	free(h->list);
	*h = (struct hosts){NULL, 0};
}

static int take_hosts(struct hosts *out, struct base_wbuf *body)
{
	struct base_rbuf b;
	uint32_t n;

	base_rbuf_init(&b, body->data, body->len);
	n = base_rbuf_u32(&b);
	if (b.error || n > base_rbuf_left(&b) / 20)
		return PvmDSysErr;
	out->list = calloc((size_t)n + 1, sizeof(*out->list));
	if (!out->list)
		return PvmNoMem;
	for (uint32_t i = 0; i < n; i++) {
		struct pvmhostinfo *h = &out->list[i];

		h->hi_tid = (int32_t)base_rbuf_u32(&b);
		h->hi_name = take_text(&b);
		h->hi_arch = take_text(&b);
		h->hi_speed = (int32_t)base_rbuf_u32(&b);
		h->hi_dsig = (int32_t)base_rbuf_u32(&b);
		out->count++;
		if (!h->hi_name || !h->hi_arch)
			return PvmNoMem;
	}
	return 0;
}

static bool same_hosts(const struct hosts *a, const struct hosts *b)
{
	bool same = a->count == b->count;

	for (int i = 0; same && i < a->count; i++) {
		const struct pvmhostinfo *x = &a->list[i], *y = &b->list[i];

		same = x->hi_tid == y->hi_tid && x->hi_speed == y->hi_speed &&
		       x->hi_dsig == y->hi_dsig && !strcmp(x->hi_name, y->hi_name) &&
		       !strcmp(x->hi_arch, y->hi_arch);
	}
	return same;
}

/* While nothing has changed the list stays where it is: old programs keep pointers into it. */
static int get_hosts(struct hosts *out)
{
	struct hosts now = {NULL, 0};
	struct base_wbuf body;
	int rc = pvmbeatask();

	if (rc)
		return rc;
	base_wbuf_init(&body, MP_FRAME_MAX);
	rc = mp_rm_config(&body);
	if (rc == MP_RM_NONE)
		rc = mp_rt_call(MP_OP_CONFIG, NULL, &body, NULL);
	if (rc >= 0)
		rc = take_hosts(&now, &body);
	base_wbuf_fini(&body);
	if (rc < 0 || same_hosts(out, &now)) {
		free_hosts(&now);
		return rc;
	}
	free_hosts(out);
	*out = now;
	return rc;
}

int mp_api_config(int *nhost, int *narch, struct pvmhostinfo **list)
{
	static struct hosts shown; /* the caller's until the next call */
	int rc = get_hosts(&shown), arches = 0;

	if (rc < 0)
		return lpvmerr("pvm_config", rc);
	for (int i = 0; i < shown.count; i++) {
		bool seen = false;

		for (int k = 0; k < i; k++)
			seen = seen || shown.list[k].hi_dsig == shown.list[i].hi_dsig;
		arches += !seen;
	}
	if (nhost)
		*nhost = shown.count;
	if (narch)
		*narch = arches;
	if (list)
		*list = shown.list;
	return PvmOk;
}

int mp_api_archcode(char *arch)
{
	struct hosts h = {NULL, 0};
	int rc;

	if (!arch)
		return lpvmerr("pvm_archcode", PvmBadParam);
	rc = get_hosts(&h);
	if (rc < 0)
		return lpvmerr("pvm_archcode", rc);
	rc = PvmNotFound;
	for (int i = 0; i < h.count && rc == PvmNotFound; i++)
		if (!strcmp(h.list[i].hi_arch, arch))
			rc = h.list[i].hi_dsig;
	free_hosts(&h);
	return rc;
}

int mp_api_mstat(char *host)
{
	struct base_wbuf args;
	int rc = pvmbeatask();

	if (!rc && (!host || !*host))
		rc = PvmBadParam;
	if (rc)
		return lpvmerr("pvm_mstat", rc);
	base_wbuf_init(&args, MP_FRAME_MAX);
	base_wbuf_str(&args, host);
	rc = mp_rt_call(MP_OP_MSTAT, &args, NULL, NULL);
	base_wbuf_fini(&args);
	return rc == PvmSysErr ? lpvmerr("pvm_mstat", rc) : rc;
}

/* addhosts and delhosts: names out, one result each back; how many are good. */
static int names_call(const char *name, uint16_t op, char **names, int count, int *results)
{
	struct base_wbuf args, body;
	struct base_rbuf b;
	int rc = pvmbeatask(), good = 0;

	if (!rc && (count < 1 || !names))
		rc = PvmBadParam;
	if (rc)
		return lpvmerr(name, rc);
	base_wbuf_init(&args, MP_FRAME_MAX);
	base_wbuf_init(&body, MP_FRAME_MAX);
	base_wbuf_u32(&args, (uint32_t)count);
	for (int i = 0; i < count; i++)
		base_wbuf_str(&args, names[i] ? names[i] : "");
	rc = op == MP_OP_ADDHOSTS ? mp_rm_addhosts(names, count, &body)
				  : mp_rm_delhosts(names, count, &body);
	if (rc == MP_RM_NONE)
		rc = mp_rt_call(op, &args, &body, NULL);
	base_rbuf_init(&b, body.data, body.len);
	if (rc >= 0 && base_rbuf_u32(&b) != (uint32_t)count)
		rc = PvmDSysErr;
	for (int i = 0; rc >= 0 && i < count; i++) {
		int v = (int32_t)base_rbuf_u32(&b);

		good += v >= 0;
		if (results)
			results[i] = v;
	}
	base_wbuf_fini(&args);
	base_wbuf_fini(&body);
	return rc < 0 ? lpvmerr(name, rc) : good;
}

int mp_api_addhosts(char **names, int count, int *results)
{
	return names_call("pvm_addhosts", MP_OP_ADDHOSTS, names, count, results);
}

int mp_api_delhosts(char **names, int count, int *results)
{
	return names_call("pvm_delhosts", MP_OP_DELHOSTS, names, count, results);
}

int mp_api_halt(void)
{
	int rc = pvmbeatask();

	if (rc)
		return lpvmerr("pvm_halt", rc);
	/* No answer: the daemon ends, and with it this task. */
	mp_rt_call(MP_OP_HALT, NULL, NULL, NULL);
	return PvmOk;
}

int pvm_hostsync(int host, struct timeval *clock, struct timeval *delta)
{
	struct base_wbuf args, body;
	struct base_rbuf b;
	struct timeval before, after, mine;
	int64_t remote, local;
	int rc = pvmbeatask();

	if (!rc && !(host & MP_TID_HOST))
		rc = PvmBadParam;
	if (rc)
		return lpvmerr("pvm_hostsync", rc);
	base_wbuf_init(&args, 64);
	base_wbuf_init(&body, 64);
	base_wbuf_u32(&args, (uint32_t)host);
	gettimeofday(&before, NULL);
	rc = mp_rt_call(MP_OP_HOSTSYNC, &args, &body, NULL);
	gettimeofday(&after, NULL);
	base_rbuf_init(&b, body.data, body.len);
	remote = (int64_t)base_rbuf_u64(&b) * 1000000;
	remote += (int64_t)base_rbuf_u64(&b);
	base_wbuf_fini(&args);
	base_wbuf_fini(&body);
	if (rc < 0)
		return lpvmerr("pvm_hostsync", rc);
	if (clock)
		*clock = (struct timeval){remote / 1000000, remote % 1000000};
	timeradd(&before, &after, &mine);
	local = ((int64_t)mine.tv_sec * 1000000 + mine.tv_usec) / 2;
	if (delta) {
		int64_t d = local - remote, s = d / 1000000;

		if (d % 1000000 < 0)
			s--;
		*delta = (struct timeval){s, d - s * 1000000};
	}
	return PvmOk;
}

int mp_api_tickle(int narg, int *args, int *nresp, int *resp)
{
	struct base_wbuf a, body;
	struct base_rbuf b;
	int rc = pvmbeatask(), n;

	if (!rc && (narg < 1 || narg > 10 || !args))
		rc = PvmBadParam;
	if (rc)
		return lpvmerr("pvm_tickle", rc);
	base_wbuf_init(&a, 256);
	base_wbuf_init(&body, 256);
	base_wbuf_u32(&a, (uint32_t)narg);
	for (int i = 0; i < narg; i++)
		base_wbuf_u32(&a, (uint32_t)args[i]);
	rc = mp_rt_call(MP_OP_TICKLE, &a, &body, NULL);
	base_rbuf_init(&b, body.data, body.len);
	n = (int)BASE_MIN(base_rbuf_u32(&b), 10u);
	for (int i = 0; i < n && resp; i++)
		resp[i] = (int32_t)base_rbuf_u32(&b);
	if (nresp)
		*nresp = n;
	base_wbuf_fini(&a);
	base_wbuf_fini(&body);
	return rc < 0 ? lpvmerr("pvm_tickle", rc) : PvmOk;
}

/* Starting the daemon */

static bool program_at(const char *dir, size_t dir_len, const char *tail, char *out, size_t cap)
{
	int n = snprintf(out, cap, "%.*s/%s", (int)dir_len, dir, tail);

	return n > 0 && (size_t)n < cap && !access(out, X_OK);
}

/* $PVM_DPATH, else beside this library (as built or as installed), else by $PATH. */
static void daemon_path(char *out, size_t cap)
{
	static const char *const tails[] = {"pvmd3", "../../../../bin/pvmd3", "../../../bin/pvmd3",
					    "../../bin/pvmd3", "../bin/pvmd3"};
	const char *env = getenv("PVM_DPATH");
	Dl_info info;
	char *slash;

	if (env && *env) {
		snprintf(out, cap, "%s", env);
		return;
	}
	if (dladdr((void *)daemon_path, &info) && info.dli_fname) {
		char real[4096];

		if (realpath(info.dli_fname, real) && (slash = strrchr(real, '/')))
			for (size_t i = 0; i < BASE_ARRAY_LEN(tails); i++)
				if (program_at(real, (size_t)(slash - real), tails[i], out, cap))
					return;
	}
	snprintf(out, cap, "pvmd3");
}

static void start_child(const char *path, char **argv, int out)
{
	int null = open("/dev/null", O_RDWR);
	sigset_t none;

	/* Twice, so that the daemon is nobody's child. */
	if (fork() != 0)
		_exit(0);
	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (null >= 0)
		dup2(null, 0);
	dup2(out, 1);
	execvp(path, argv);
	_exit(127);
}

static int start_daemon(int argc, char **argv)
{
	char path[4096], line[256];
	char **av = calloc((size_t)argc + 2, sizeof(*av));
	int out[2], status;
	size_t got = 0;
	ssize_t n;
	pid_t pid;

	if (!av)
		return PvmNoMem;
	daemon_path(path, sizeof(path));
	av[0] = path;
	memcpy(av + 1, argv, (size_t)argc * sizeof(*av));
	if (pipe2(out, O_CLOEXEC)) {
		free(av);
		return PvmSysErr;
	}
	pid = fork();
	if (pid == 0)
		start_child(path, av, out[1]);
	close(out[1]);
	free(av);
	if (pid > 0)
		waitpid(pid, &status, 0);
	while (got < sizeof(line) - 1 &&
	       (n = read(out[0], line + got, sizeof(line) - 1 - got)) > 0) {
		got += (size_t)n;
		if (memchr(line, '\n', got))
			break;
	}
	close(out[0]);
	line[got] = 0;
	if (!strchr(line, '\n'))
		return PvmCantStart;
	*strchr(line, '\n') = 0;
	setenv("PVMSOCK", line, 1);
	return 0;
}

int mp_api_start_pvmd(int argc, char **argv, int block)
{
	int autoerr = pvmautoerr, rc;

	if (argc < 0 || (argc && !argv))
		return lpvmerr("pvm_start_pvmd", PvmBadParam);
	pvmautoerr = 0;
	rc = pvmbeatask();
	pvmautoerr = autoerr;
	if (!rc)
		return lpvmerr("pvm_start_pvmd", PvmDupHost);
	rc = start_daemon(argc, argv);
	if (!rc)
		rc = pvmbeatask();
	if (!rc && block)
		rc = mp_rt_call(MP_OP_STARTED, NULL, NULL, NULL);
	return rc < 0 ? lpvmerr("pvm_start_pvmd", rc) : PvmOk;
}
