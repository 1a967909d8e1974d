/* The OpenMPI side of tests/bench/pvm, built at run time with mpicc: case, iterations. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double ping(int me, int n, int bytes, char *buf)
{
	double t0 = 0;

	for (int i = -n / 10 - 4; i < n; i++) {
		if (i == 0)
			t0 = MPI_Wtime();
		if (me == 0) {
			MPI_Send(buf, bytes, MPI_BYTE, 1, 7, MPI_COMM_WORLD);
			MPI_Recv(buf, bytes, MPI_BYTE, 1, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		} else if (me == 1) {
			MPI_Recv(buf, bytes, MPI_BYTE, 0, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
			MPI_Send(buf, bytes, MPI_BYTE, 0, 7, MPI_COMM_WORLD);
		}
	}
	return (MPI_Wtime() - t0) * 1e6 / n;
}

static double stream(int me, int n, char *buf)
{
	double t0 = MPI_Wtime();

	for (int i = 0; i < n; i++)
		if (me == 0)
			MPI_Send(buf, 8, MPI_BYTE, 1, 7, MPI_COMM_WORLD);
		else
			MPI_Recv(buf, 8, MPI_BYTE, 0, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	if (me == 0)
		MPI_Recv(buf, 8, MPI_BYTE, 1, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	else
		MPI_Send(buf, 8, MPI_BYTE, 0, 7, MPI_COMM_WORLD);
	return n / (MPI_Wtime() - t0);
}

static double collective(const char *what, int n)
{
	double in[64] = {0}, out[64], t0 = 0;

	for (int i = -n / 10 - 4; i < n; i++) {
		if (i == 0)
			t0 = MPI_Wtime();
		if (!strcmp(what, "reduce"))
			MPI_Reduce(in, out, 64, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
		else if (!strcmp(what, "bcast"))
			MPI_Bcast(in, 64, MPI_DOUBLE, 0, MPI_COMM_WORLD);
		MPI_Barrier(MPI_COMM_WORLD);
	}
	return (MPI_Wtime() - t0) * 1e6 / n;
}

int main(int argc, char **argv)
{
	int me, n = argc > 2 ? (int)strtol(argv[2], NULL, 10) : 0;
	const char *what = argc > 1 ? argv[1] : "";
	char *buf = calloc(16, 1 << 20);
	double v;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &me);
	if (!strcmp(what, "rtt8"))
		v = ping(me, n, 8, buf);
	else if (!strcmp(what, "bw1m") || !strcmp(what, "psend1m"))
		v = 2.0 * (1 << 20) / (ping(me, n, 1 << 20, buf) / 1e6);
	else if (!strcmp(what, "psend16m"))
		v = 32.0 * (1 << 20) / (ping(me, n, 16 << 20, buf) / 1e6);
	else if (!strcmp(what, "rate8"))
		v = stream(me, n, buf);
	else
		v = collective(what, n);
	if (me == 0)
		printf("%.9g\n", v);
	MPI_Finalize();
	return 0;
}
