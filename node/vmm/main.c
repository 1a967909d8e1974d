/* pangaea-vmm: one virtual machine. See config.c for the command line. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "node/vmm/control.h"
#include "node/vmm/gdb.h"
#include "node/vmm/sandbox.h"

enum { EXIT_GUEST_FAILED = 1, EXIT_USAGE = 2, EXIT_CANNOT_START = 3, DUMP_BYTES = 48 << 10 };

struct program {
	struct base_loop *loop;
	struct base_watch signals;
	struct vmm_vm *vm;
	struct vmm_control *control; /* NULL without --run-dir */
	struct vmm_gdb *gdb;	     /* NULL without --gdb */
};

static void on_changed(void *arg, enum vmm_state state, const char *reason)
{
	struct program *p = arg;

	if (p->control)
		vmm_control_changed(p->control, state, reason);
	if (state == VMM_STOPPED || state == VMM_FAILED) {
		log_info("%s: %s", state == VMM_STOPPED ? "stopped" : "failed", reason);
		base_loop_stop(p->loop, state == VMM_STOPPED ? 0 : EXIT_GUEST_FAILED);
	}
}

static void on_places(void *arg)
{
	struct program *p = arg;

	if (p->control)
		vmm_control_places(p->control);
}

static void on_debug(void *arg, struct vmm_vcpu *v)
{
	struct program *p = arg;

	if (p->gdb)
		vmm_gdb_stopped(p->gdb, v);
}

static const struct vmm_vm_ops vm_ops = {
	.changed = on_changed,
	.places = on_places,
	.debug = on_debug,
};

/* ---- what the debugger may do ---- */

static void gdb_pause(void *arg)
{
	struct program *p = arg;

	if (vmm_vm_pause(p->vm) < 0)
		log_debug("gdb: nothing to pause");
}

static void gdb_resume(void *arg)
{
	struct program *p = arg;

	if (vmm_vm_resume(p->vm) < 0)
		log_debug("gdb: nothing to resume");
}

static const struct vmm_gdb_ops gdb_ops = {
	.pause = gdb_pause,
	.resume = gdb_resume,
};

/* ---- signals ---- */

static void dump_registers(struct vmm_vm *vm)
{
	BASE_AUTO_FREE char *text = malloc(DUMP_BYTES);

	if (!text)
		return;
	vmm_vm_dump(vm, text, DUMP_BYTES);
	log_info("registers\n%s", text);
}

/* What came in is counted by the descriptor of the watch: dumps in the high half, ends in the low. */
static int signals_fd = -1;
static const uint64_t DUMP_WANTED = UINT64_C(1) << 32;

static void take_signal(int number)
{
	uint64_t what = number == SIGQUIT ? DUMP_WANTED : 1;
	int saved = errno;

	/* It cannot be full. */
	(void)!write(signals_fd, &what, sizeof(what));
	errno = saved;
}

/* SIGQUIT: the registers to the log. The others end the guest. */
static void on_signal(struct base_watch *w, uint32_t events)
{
	struct program *p = base_container_of(w, struct program, signals);
	uint64_t what;

	if (read(w->fd, &what, sizeof(what)) != sizeof(what))
		return;
	if (what >= DUMP_WANTED)
		dump_registers(p->vm);
	if (what % DUMP_WANTED)
		vmm_vm_kill(p->vm, "killed by a signal");
}

/* Before any thread is made, so that all inherit the mask. */
static int watch_signals(struct program *p)
{
	static const int numbers[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};
	struct sigaction action = {.sa_handler = take_signal, .sa_flags = SA_RESTART};
	sigset_t set;

	signals_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (signals_fd < 0)
		return -errno;
	p->signals = (struct base_watch){.fd = signals_fd, .events = EPOLLIN, .ready = on_signal};
	sigemptyset(&set);
	for (size_t i = 0; i < BASE_ARRAY_LEN(numbers); i++)
		sigaddset(&set, numbers[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	for (size_t i = 0; i < BASE_ARRAY_LEN(numbers); i++)
		if (sigaction(numbers[i], &action, NULL) < 0)
			return -errno;
	signal(SIGPIPE, SIG_IGN);
	base_loop_let_in(p->loop, &set);
	return base_loop_add(p->loop, &p->signals);
}

/* Everything that is reachable from outside, then the sandbox. */
static int open_doors(struct program *p, const struct vmm_config *config, char *why)
{
	struct vmm_sandbox sandbox = {.user = "pangaea",
				      .network = config->slices.count > 0,
				      .keep_user = vmm_vm_keeps_user(p->vm)};
	int err = 0;

	if (config->run_dir)
		err = vmm_control_new(p->loop, p->vm, config->run_dir, why, &p->control);
	if (!err && config->gdb_port) {
		err = vmm_gdb_new(p->loop, (uint16_t)config->gdb_port, vmm_vm_vcpus(p->vm),
				  &gdb_ops, p, &p->gdb);
		if (err)
			snprintf(why, VMM_WHY_MAX, "--gdb %u: %s", config->gdb_port,
				 strerror(-err));
	}
	if (!err)
		err = watch_signals(p);
	if (!err && config->sandbox)
		err = vmm_sandbox_enter(&sandbox, why, VMM_WHY_MAX);
	return err;
}

static int start(struct program *p, const struct vmm_config *config, char *why)
{
	int err = vmm_vm_new(config, p->loop, &vm_ops, p, why, &p->vm);

	if (!err)
		err = open_doors(p, config, why);
	if (!err)
		err = vmm_vm_start(p->vm, !config->paused && !config->incoming);
	return err;
}

static int run(struct program *p, const struct vmm_config *config)
{
	char why[VMM_WHY_MAX] = "";
	int err = start(p, config, why);

	if (err) {
		fprintf(stderr, "pangaea-vmm: %s\n", why[0] ? why : strerror(-err));
		return EXIT_CANNOT_START;
	}
	err = base_loop_run(p->loop);
	/* Threads wait for pages that will not come, and must not go on with what is there. */
	if (vmm_vm_is_lost(p->vm))
		_exit(err < 0 ? EXIT_CANNOT_START : err);
	return err < 0 ? EXIT_CANNOT_START : err;
}

#ifdef __SANITIZE_ADDRESS__
/* The search for leaks at the end traces our threads, which the sandbox forbids. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}
#endif

int main(int argc, char **argv)
{
	struct program p = {.signals.fd = -1};
	struct vmm_config config;
	char why[VMM_WHY_MAX];
	int code;

	base_log_init("pangaea-vmm");
	if (vmm_config_parse(&config, argc, argv, why) < 0) {
		fprintf(stderr, "pangaea-vmm: %s (see --help)\n", why);
		return EXIT_USAGE;
	}
	if (config.help || config.version) {
		fputs(config.help ? vmm_config_usage : "pangaea-vmm " PANGAEA_VERSION "\n", stdout);
		return 0;
	}
	if (base_loop_new(&p.loop) < 0)
		return EXIT_CANNOT_START;
	code = run(&p, &config);
	vmm_control_free(p.control);
	vmm_gdb_free(p.gdb);
	vmm_vm_free(p.vm);
	base_loop_free(p.loop);
	if (p.signals.fd >= 0)
		close(p.signals.fd);
	return code;
}
