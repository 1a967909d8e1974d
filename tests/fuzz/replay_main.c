/*
 * Replays a fuzz target without libFuzzer: every file of the corpus folder, then seeded mutations
 * of them (and of the empty input). So each build, sanitized ones included, runs the fuzz targets
 * as plain tests. Usage: fuzz_x CORPUS_DIR [MUTATIONS [SEED]]; a failing input is reproduced by its
 * seed, which is printed.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_MAX = 1 << 16, FILES_MAX = 4096 };

struct input {
	uint8_t *data;
	size_t len;
};

static struct input inputs[FILES_MAX];
static size_t input_count;

static void add_file(const char *path)
{
	FILE *f = fopen(path, "rb");
	uint8_t *buf;

	if (!f)
		return;
	buf = malloc(INPUT_MAX);
	if (buf && input_count < FILES_MAX) {
		inputs[input_count].len = fread(buf, 1, INPUT_MAX, f);
		inputs[input_count++].data = buf;
	} else {
		free(buf);
	}
	fclose(f);
}

static void add_folder(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	char path[4096];

	if (!d)
		return;
	while ((e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		add_file(path);
	}
	closedir(d);
}

/* The exact size is malloc'ed so that AddressSanitizer sees a read past the end. */
static void run_one(const uint8_t *data, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);

	if (!copy)
		abort();
	if (len)
		memcpy(copy, data, len);
	LLVMFuzzerTestOneInput(copy, len);
	free(copy);
}

static void mutate(struct base_rng *rng, uint8_t *buf, size_t *len)
{
	unsigned edits = 1 + base_rng_below(rng, 8);

	while (edits--) {
		size_t at = *len ? base_rng_below(rng, *len) : 0;

		switch (base_rng_below(rng, 5)) {
		case 0:
			if (*len)
				buf[at] ^= 1u << base_rng_below(rng, 8);
			break;
		case 1:
			if (*len)
				buf[at] = base_rng_next(rng);
			break;
		case 2: *len = at; break;
		case 3:
			for (unsigned i = base_rng_below(rng, 64); i && *len < INPUT_MAX; i--)
				buf[(*len)++] = base_rng_next(rng);
			break;
		default:
			if (*len >= 4)
				memset(buf + base_rng_below(rng, *len - 3),
				       base_rng_below(rng, 2) ? 0xff : 0, 4);
		}
	}
}

int main(int argc, char **argv)
{
	unsigned long mutations = argc > 2 ? strtoul(argv[2], NULL, 0) : 2000;
	unsigned long seed = argc > 3 ? strtoul(argv[3], NULL, 0) : 1;
	static uint8_t buf[INPUT_MAX];
	struct base_rng rng;

	if (argc < 2) {
		fprintf(stderr, "usage: %s CORPUS_DIR [MUTATIONS [SEED]]\n", argv[0]);
		return 2;
	}
	add_folder(argv[1]);
	for (size_t i = 0; i < input_count; i++)
		run_one(inputs[i].data, inputs[i].len);
	run_one(NULL, 0);
	for (unsigned long i = 0; i < mutations; i++) {
		size_t len = 0;

		base_rng_seed(&rng, seed + i);
		if (input_count) {
			struct input *in = &inputs[base_rng_below(&rng, input_count)];

			len = in->len;
			memcpy(buf, in->data, len);
		}
		mutate(&rng, buf, &len);
		run_one(buf, len);
	}
	printf("%zu corpus files, %lu mutations from seed %lu\n", input_count, mutations, seed);
	for (size_t i = 0; i < input_count; i++)
		free(inputs[i].data);
	return 0;
}
