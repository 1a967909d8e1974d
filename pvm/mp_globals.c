#include "pvm/mp_globals.h"

#include "pvm/include/pvm3.h"

int pvmmytid = -1;
int pvmmyptid = -1;
int pvmmyupid = -1;
int pvmmyctx;
int pvmmydsig;
int pvm_useruid = -1;
int pvmautoerr = 1;
int pvmdebmask;
int pvmrouteopt = PvmAllowDirect;
int pvmfrgsiz = 4080;
int pvmudpmtu = 4080;
int pvmnsibs = -1;
int *pvmsibtids;
int pvmtoplvl = 1;
int pvmshowtaskid = 1;
int pvmnoreset;
int pvmnoresetindex = -1;
int pvmschedtid;
int pvmrescode;
char *pvmmytaskname;
