#include "node/vmm/config.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "node/vmm/config_slice.h"
#include "node/vmm/mem.h"

const char vmm_config_usage[] =
	"usage: pangaea-vmm --name NAME --kernel FILE --vcpus N --memory SIZE [OPTION...]\n"
	"\n"
	"Runs one virtual machine on /dev/kvm.\n"
	"\n"
	"  --name NAME            letters, digits, '-', '_', '.'; at most 63\n"
	"  --kernel FILE          bzImage or ELF vmlinux\n"
	"  --initrd FILE\n"
	"  --cmdline STRING       kernel command line (console=ttyS0)\n"
	"  --vcpus N              1 to 64\n"
	"  --memory SIZE          64M upwards; suffix K, M, G or T\n"
	"  --disk FILE[,ro][,format=raw|qcow2]\n"
	"  --nic tap=IF|fd=N|port=SOCKET[,mac=XX:XX:XX:XX:XX:XX]\n"
	"  --run-dir DIR          where control.sock and console.sock are made\n"
	"  --console stdio|none   the serial console on the terminal (Ctrl-A X ends)\n"
	"  --gdb PORT             a gdb server on 127.0.0.1\n"
	"  --restore FILE         goes on from a saved machine instead of booting\n"
	"  --incoming             waits for its machine to migrate here\n"
	"  --populate SIZE        with --incoming: makes so much memory available beforehand\n"
	"  --paused               waits for 'resume' on the control socket (or gdb)\n"
	"  --no-balloon           a machine that was a guest over several hosts has none\n"
	"  --no-sandbox           for debugging pangaea-vmm itself\n"
	"\n"
	"One slice of a guest that spans hosts (all but the first two for every slice alike):\n"
	"  --slice K              0 leads: only it takes --kernel, --initrd, --disk, --nic\n"
	"  --listen-fd N          a listening TCP socket; without it the own --peer is bound\n"
	"  --part VCPUS:SIZE      once per slice, in order; instead of --vcpus and --memory\n"
	"  --peer ADDRESS:PORT    once per slice, in order, the own one too\n"
	"  --group HEX            16 digits, the same for all slices of this guest\n"
	"  --key-file FILE | --key-fd N   32 secret bytes, the same for all slices\n"
	"  --encrypt              all that goes between the slices\n"
	"  --transport tcp|verbs\n"
	"  --joins HOMES:PLACES   the guest runs already: the slice of each part's memory and of\n"
	"                         each vCPU, such as 0,0:0,0,0; a slice that has left: --peer -\n"
	"                         (slice 0 may begin alone, with that for all others)\n"
	"\n"
	"  --help, --version\n"
	"\n"
	"Example:\n"
	"  pangaea-vmm --name web --kernel /boot/vmlinuz --initrd initrd.img \\\n"
	"      --cmdline 'console=ttyS0' --vcpus 2 --memory 512M --console stdio\n";

enum {
	OPT_NAME = 1000,
	OPT_KERNEL,
	OPT_INITRD,
	OPT_CMDLINE,
	OPT_VCPUS,
	OPT_MEMORY,
	OPT_DISK,
	OPT_NIC,
	OPT_RUN_DIR,
	OPT_CONSOLE,
	OPT_GDB,
	OPT_RESTORE,
	OPT_PAUSED,
	OPT_INCOMING,
	OPT_POPULATE,
	OPT_NO_BALLOON,
	OPT_NO_SANDBOX,
	OPT_SLICE,
	OPT_PART,
	OPT_PEER,
	OPT_LISTEN_FD,
	OPT_GROUP,
	OPT_KEY_FD,
	OPT_KEY_FILE,
	OPT_ENCRYPT,
	OPT_TRANSPORT,
	OPT_JOINS,
	OPT_HELP,
	OPT_VERSION,
};

static const struct option options[] = {
	{"name", required_argument, NULL, OPT_NAME},
	{"kernel", required_argument, NULL, OPT_KERNEL},
	{"initrd", required_argument, NULL, OPT_INITRD},
	{"cmdline", required_argument, NULL, OPT_CMDLINE},
	{"vcpus", required_argument, NULL, OPT_VCPUS},
	{"memory", required_argument, NULL, OPT_MEMORY},
	{"disk", required_argument, NULL, OPT_DISK},
	{"nic", required_argument, NULL, OPT_NIC},
	{"run-dir", required_argument, NULL, OPT_RUN_DIR},
	{"console", required_argument, NULL, OPT_CONSOLE},
	{"gdb", required_argument, NULL, OPT_GDB},
	{"restore", required_argument, NULL, OPT_RESTORE},
	{"paused", no_argument, NULL, OPT_PAUSED},
	{"incoming", no_argument, NULL, OPT_INCOMING},
	{"populate", required_argument, NULL, OPT_POPULATE},
	{"no-balloon", no_argument, NULL, OPT_NO_BALLOON},
	{"no-sandbox", no_argument, NULL, OPT_NO_SANDBOX},
	{"slice", required_argument, NULL, OPT_SLICE},
	{"part", required_argument, NULL, OPT_PART},
	{"peer", required_argument, NULL, OPT_PEER},
	{"listen-fd", required_argument, NULL, OPT_LISTEN_FD},
	{"group", required_argument, NULL, OPT_GROUP},
	{"key-fd", required_argument, NULL, OPT_KEY_FD},
	{"key-file", required_argument, NULL, OPT_KEY_FILE},
	{"encrypt", no_argument, NULL, OPT_ENCRYPT},
	{"transport", required_argument, NULL, OPT_TRANSPORT},
	{"joins", required_argument, NULL, OPT_JOINS},
	{"help", no_argument, NULL, OPT_HELP},
	{"version", no_argument, NULL, OPT_VERSION},
	{0},
};

static int refuse(char *why, const char *fmt, ...) BASE_PRINTF(2, 3);

static int refuse(char *why, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, VMM_WHY_MAX, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

static bool parse_number(const char *text, uint64_t max, uint64_t *out)
{
	char *end;
	unsigned long long n;

	if (!isdigit((unsigned char)text[0]))
		return false;
	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno || *end || n > max)
		return false;
	*out = n;
	return true;
}

int vmm_config_size(const char *text, uint64_t *bytes)
{
	static const char suffixes[] = "KMGT";
	unsigned long long n;
	unsigned shift = 0;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno)
		return -ERANGE;
	if (*end) {
		const char *s = strchr(suffixes, toupper((unsigned char)*end));

		if (!s || end[1])
			return -EINVAL;
		shift = 10 * (unsigned)(s - suffixes + 1);
	}
	if (n > UINT64_MAX >> shift)
		return -ERANGE;
	*bytes = (uint64_t)n << shift;
	return 0;
}

static int parse_name(struct vmm_config *c, const char *text, char *why)
{
	size_t len = strlen(text);

	if (len == 0 || len >= sizeof(c->name) || text[0] == '.' || text[0] == '-' ||
	    strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") !=
		    len)
		return refuse(why, "--name '%.70s': 1 to 63 letters, digits, '-', '_', '.'", text);
	memcpy(c->name, text, len + 1);
	return 0;
}

static int parse_vcpus(struct vmm_config *c, const char *text, char *why)
{
	uint64_t n;

	if (!parse_number(text, VMM_VCPU_MAX, &n) || n == 0)
		return refuse(why, "--vcpus '%.40s': a number from 1 to %d", text, VMM_VCPU_MAX);
	c->vcpus = (unsigned)n;
	return 0;
}

static int parse_memory(struct vmm_config *c, const char *text, char *why)
{
	uint64_t n;

	if (vmm_config_size(text, &n) < 0)
		return refuse(why, "--memory '%.40s': a size such as 512M or 2G", text);
	if (n < UINT64_C(64) << 20 || n > UINT64_C(1) << 45 || n % VMM_PAGE_SIZE)
		return refuse(why, "--memory '%.40s': 64M to 32T, a multiple of 4K", text);
	c->memory_bytes = n;
	return 0;
}

static int parse_populate(struct vmm_config *c, const char *text, char *why)
{
	if (vmm_config_size(text, &c->populate_bytes) < 0)
		return refuse(why, "--populate '%.40s': a size such as 512M or 2G", text);
	return 0;
}

/* The next comma-separated item of *p into item[cap]; false at the end or when it is too long. */
static bool next_item(const char **p, char *item, size_t cap)
{
	size_t len = strcspn(*p, ",");

	if (len == 0 || len >= cap)
		return false;
	memcpy(item, *p, len);
	item[len] = 0;
	*p += len;
	if (**p == ',')
		(*p)++;
	return true;
}

static int parse_disk(struct vmm_config *c, const char *text, char *why)
{
	struct vmm_disk_config d = {.format = VMM_DISK_RAW};
	const char *p = text;
	char item[32];

	if (c->disk_count == VMM_DISK_MAX)
		return refuse(why, "--disk: at most %d", VMM_DISK_MAX);
	if (!next_item(&p, d.path, sizeof(d.path)))
		return refuse(why, "--disk '%.60s': a file name is missing or too long", text);
	while (*p) {
		if (!next_item(&p, item, sizeof(item)))
			return refuse(why, "--disk '%.60s': bad option at '%.20s'", text, p);
		if (strcmp(item, "ro") == 0)
			d.read_only = true;
		else if (strcmp(item, "format=raw") == 0)
			d.format = VMM_DISK_RAW;
		else if (strcmp(item, "format=qcow2") == 0)
			d.format = VMM_DISK_QCOW2;
		else
			return refuse(why, "--disk: '%s' is none of ro, format=raw, format=qcow2",
				      item);
	}
	c->disk[c->disk_count++] = d;
	return 0;
}

static bool parse_mac(const char *text, uint8_t mac[6])
{
	for (int i = 0; i < 6; i++, text += 3) {
		char end = i < 5 ? ':' : 0;

		if (!isxdigit((unsigned char)text[0]) || !isxdigit((unsigned char)text[1]) ||
		    text[2] != end)
			return false;
		mac[i] = (uint8_t)strtoul((const char[3]){text[0], text[1], 0}, NULL, 16);
	}
	return !(mac[0] & 1);
}

/* Locally administered and the same at each start: from the name of the VM and the NIC's number. */
static void default_mac(const struct vmm_config *c, unsigned index, uint8_t mac[6])
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (const char *p = c->name; *p; p++)
		h = (h ^ (uint8_t)*p) * UINT64_C(0x100000001b3);
	h = (h ^ index) * UINT64_C(0x100000001b3);
	mac[0] = 0x52;
	mac[1] = 0x54;
	for (int i = 2; i < 6; i++)
		mac[i] = (uint8_t)(h >> (8 * i));
}

static int nic_target(struct vmm_nic_config *n, const char *item, char *why)
{
	uint64_t fd;

	if (strncmp(item, "tap=", 4) == 0 && item[4] && strlen(item + 4) < 16) {
		n->kind = VMM_NIC_TAP;
		snprintf(n->target, sizeof(n->target), "%s", item + 4);
	} else if (strncmp(item, "port=", 5) == 0 && item[5]) {
		n->kind = VMM_NIC_PORT;
		snprintf(n->target, sizeof(n->target), "%s", item + 5);
	} else if (strncmp(item, "fd=", 3) == 0 && parse_number(item + 3, 1 << 20, &fd)) {
		n->kind = VMM_NIC_FD;
		n->fd = (int)fd;
	} else {
		return refuse(why, "--nic '%.60s': tap=IF, fd=N or port=SOCKET", item);
	}
	return 0;
}

static int parse_nic(struct vmm_config *c, const char *text, char *why)
{
	struct vmm_nic_config n = {.fd = -1};
	const char *p = text;
	char item[VMM_PATH_MAX];
	int err;

	if (c->nic_count == VMM_NIC_MAX)
		return refuse(why, "--nic: at most %d", VMM_NIC_MAX);
	if (!next_item(&p, item, sizeof(item)))
		return refuse(why, "--nic '%.60s': tap=IF, fd=N or port=SOCKET", text);
	err = nic_target(&n, item, why);
	if (err)
		return err;
	while (*p) {
		if (!next_item(&p, item, sizeof(item)) || strncmp(item, "mac=", 4) != 0 ||
		    !parse_mac(item + 4, n.mac))
			return refuse(why, "--nic '%.60s': only mac=XX:XX:XX:XX:XX:XX (unicast)",
				      text);
	}
	c->nic[c->nic_count++] = n;
	return 0;
}

static int parse_console(struct vmm_config *c, const char *text, char *why)
{
	if (strcmp(text, "stdio") == 0)
		c->console = VMM_CONSOLE_STDIO;
	else if (strcmp(text, "none") == 0)
		c->console = VMM_CONSOLE_NONE;
	else
		return refuse(why, "--console '%.40s': stdio or none", text);
	return 0;
}

static int parse_gdb(struct vmm_config *c, const char *text, char *why)
{
	uint64_t n;

	if (!parse_number(text, 65535, &n) || n == 0)
		return refuse(why, "--gdb '%.40s': a port from 1 to 65535", text);
	c->gdb_port = (unsigned)n;
	return 0;
}

static int parse_option(struct vmm_config *c, int opt, const char *arg, char *why)
{
	switch (opt) {
	case OPT_NAME: return parse_name(c, arg, why);
	case OPT_KERNEL: c->kernel = arg; return 0;
	case OPT_INITRD: c->initrd = arg; return 0;
	case OPT_CMDLINE: c->cmdline = arg; return 0;
	case OPT_VCPUS: return parse_vcpus(c, arg, why);
	case OPT_MEMORY: return parse_memory(c, arg, why);
	case OPT_DISK: return parse_disk(c, arg, why);
	case OPT_NIC: return parse_nic(c, arg, why);
	case OPT_RUN_DIR: c->run_dir = arg; return 0;
	case OPT_CONSOLE: return parse_console(c, arg, why);
	case OPT_GDB: return parse_gdb(c, arg, why);
	case OPT_RESTORE: c->restore = arg; return 0;
	case OPT_PAUSED: c->paused = true; return 0;
	case OPT_INCOMING: c->incoming = true; return 0;
	case OPT_POPULATE: return parse_populate(c, arg, why);
	case OPT_NO_BALLOON: c->no_balloon = true; return 0;
	case OPT_NO_SANDBOX: c->sandbox = false; return 0;
	case OPT_SLICE: return vmm_slice_set_self(c, arg, why);
	case OPT_PART: return vmm_slice_add_part(c, arg, why);
	case OPT_PEER: return vmm_slice_add_peer(c, arg, why);
	case OPT_LISTEN_FD: return vmm_slice_set_listen_fd(c, arg, why);
	case OPT_GROUP: return vmm_slice_set_group(c, arg, why);
	case OPT_KEY_FD: return vmm_slice_set_key(c, arg, true, why);
	case OPT_KEY_FILE: return vmm_slice_set_key(c, arg, false, why);
	case OPT_ENCRYPT: c->slices.encrypt = true; return 0;
	case OPT_JOINS: return vmm_slice_set_joins(c, arg, why);
	case OPT_TRANSPORT: return vmm_slice_set_transport(c, arg, why);
	case OPT_HELP: c->help = true; return 0;
	case OPT_VERSION: c->version = true; return 0;
	default: return refuse(why, "unknown option, or its value is missing");
	}
}

static int check_complete(struct vmm_config *c, char *why)
{
	static const uint8_t no_mac[6];
	int err;

	if (!c->name[0])
		return refuse(why, "--name is missing");
	err = vmm_slice_check(c, why);
	if (err)
		return err;
	if (c->incoming && (c->restore || !c->run_dir))
		return refuse(why, "--incoming goes with --run-dir and without --restore");
	if (c->populate_bytes && !c->incoming)
		return refuse(why, "--populate goes with --incoming");
	if (!c->kernel && !c->restore && !c->incoming && !vmm_config_follows(c))
		return refuse(why, "--kernel (or --restore) is missing");
	if (c->vcpus == 0)
		return refuse(why, "--vcpus is missing");
	if (c->memory_bytes == 0)
		return refuse(why, "--memory is missing");
	for (unsigned i = 0; i < c->nic_count; i++)
		if (memcmp(c->nic[i].mac, no_mac, 6) == 0)
			default_mac(c, i, c->nic[i].mac);
	return 0;
}

int vmm_config_parse(struct vmm_config *c, int argc, char **argv, char *why)
{
	int opt, err;

	*c = (struct vmm_config){
		.cmdline = "console=ttyS0", .console = VMM_CONSOLE_NONE, .sandbox = true};
	vmm_slice_init(c);
	why[0] = 0;
	opterr = 0;
	optind = 0; /* glibc: start anew */
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == '?')
			return refuse(why, "%.80s: unknown option, or its value is missing",
				      argv[optind - 1]);
		err = parse_option(c, opt, optarg, why);
		if (err)
			return err;
	}
	if (c->help || c->version)
		return 0;
	if (optind < argc)
		return refuse(why, "'%.60s' is not an option", argv[optind]);
	return check_complete(c, why);
}
