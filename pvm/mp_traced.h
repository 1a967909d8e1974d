/* How the public calls of mp_traced.c, mp_traced_vm.c and group/traced.c are made. */
#ifndef PVM_MP_TRACED_H
#define PVM_MP_TRACED_H

#include "pvm/mp_api.h"
#include "pvm/mp_tev.h"

/* One item of an event. */
#define INT		 MP_TEV_INT
#define ADDRESS		 MP_TEV_ADDRESS
#define STRING		 MP_TEV_STRING
#define INTS		 MP_TEV_INTS
#define STRINGS		 MP_TEV_STRINGS

#define TRACED_LIST(...) __VA_ARGS__

/* `in` and `out` are lists of items in parentheses; in `out` rc is the result. */
#define TRACED_AS(name, inner, KIND, enrol, params, args, in, out)                                 \
	int name params                                                                            \
	{                                                                                          \
		bool traced = mp_tev_enter(enrol);                                                 \
		int rc;                                                                            \
                                                                                                   \
		if (traced)                                                                        \
			MP_TEV(TEV_##KIND | TEV_EVENT_ENTRY, TRACED_LIST in);                      \
		rc = inner args;                                                                   \
		if (traced) {                                                                      \
			MP_TEV(TEV_##KIND | TEV_EVENT_EXIT, TRACED_LIST out);                      \
			mp_tev_leave();                                                            \
		}                                                                                  \
		return rc;                                                                         \
	}

#define TRACED(name, KIND, params, args, in, out)                                                  \
	TRACED_AS(pvm_##name, mp_api_##name, KIND, true, params, args, in, out)
/* A call that needs no daemon does not enrol for the sake of its events. */
#define TRACED_LOCAL(name, KIND, params, args, in, out)                                            \
	TRACED_AS(pvm_##name, mp_api_##name, KIND, false, params, args, in, out)

#endif
