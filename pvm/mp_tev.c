/* Names of trace events and of their data, in the order of pvmtev.h. Tracers read these tables. */
#include "pvm/include/pvmtev.h"

#include <assert.h>

#define EVENT(x)                                                                                   \
	{                                                                                          \
		.name = #x                                                                         \
	}
#define DATUM(x)                                                                                   \
	{                                                                                          \
		.did = #x, .desc = #x                                                              \
	}

extern struct Pvmtevinfo pvmtevinfo[];
extern struct Pvmtevdid pvmtevdidlist[];

/* Field names of the structures are char *, as old programs have them; nobody writes there. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wwrite-strings"
#ifdef __clang__
#pragma GCC diagnostic ignored "-Wincompatible-pointer-types-discards-qualifiers"
#else
#pragma GCC diagnostic ignored "-Wdiscarded-qualifiers"
#endif

struct Pvmtevinfo pvmtevinfo[TEV_MAX + 1] = {
	EVENT(addhosts),     EVENT(barrier),	 EVENT(bcast),	    EVENT(bufinfo),
	EVENT(config),	     EVENT(delete),	 EVENT(delhosts),   EVENT(exit),
	EVENT(freebuf),	     EVENT(getfds),	 EVENT(getinst),    EVENT(getopt),
	EVENT(getrbuf),	     EVENT(getsbuf),	 EVENT(gettid),	    EVENT(gsize),
	EVENT(halt),	     EVENT(initsend),	 EVENT(insert),	    EVENT(joingroup),
	EVENT(kill),	     EVENT(lookup),	 EVENT(lvgroup),    EVENT(mcast),
	EVENT(mkbuf),	     EVENT(mstat),	 EVENT(mytid),	    EVENT(notify),
	EVENT(nrecv),	     EVENT(parent),	 EVENT(perror),	    EVENT(pkbyte),
	EVENT(pkcplx),	     EVENT(pkdcplx),	 EVENT(pkdouble),   EVENT(pkfloat),
	EVENT(pkint),	     EVENT(pkuint),	 EVENT(pklong),	    EVENT(pkulong),
	EVENT(pkshort),	     EVENT(pkushort),	 EVENT(pkstr),	    EVENT(probe),
	EVENT(pstat),	     EVENT(recv),	 EVENT(recvf),	    EVENT(send),
	EVENT(sendsig),	     EVENT(setopt),	 EVENT(setrbuf),    EVENT(setsbuf),
	EVENT(spawn),	     EVENT(start_pvmd),	 EVENT(tasks),	    EVENT(tickle),
	EVENT(tidtohost),    EVENT(trecv),	 EVENT(upkbyte),    EVENT(upkcplx),
	EVENT(upkdcplx),     EVENT(upkdouble),	 EVENT(upkfloat),   EVENT(upkint),
	EVENT(upkuint),	     EVENT(upklong),	 EVENT(upkulong),   EVENT(upkshort),
	EVENT(upkushort),    EVENT(upkstr),	 EVENT(version),    EVENT(reg_hoster),
	EVENT(reg_rm),	     EVENT(reg_tasker),	 EVENT(reg_tracer), EVENT(newtask),
	EVENT(endtask),	     EVENT(spntask),	 EVENT(archcode),   EVENT(catchout),
	EVENT(getmwid),	     EVENT(gettmask),	 EVENT(hostsync),   EVENT(packf),
	EVENT(precv),	     EVENT(psend),	 EVENT(reduce),	    EVENT(setmwid),
	EVENT(settmask),     EVENT(unpackf),	 EVENT(gather),	    EVENT(scatter),
	EVENT(putinfo),	     EVENT(getinfo),	 EVENT(delinfo),    EVENT(getmboxinfo),
	EVENT(newcontext),   EVENT(freecontext), EVENT(setcontext), EVENT(getcontext),
	EVENT(siblings),     EVENT(getminfo),	 EVENT(setminfo),   EVENT(addmhf),
	EVENT(delmhf),	     EVENT(mhf_invoke),	 EVENT(timing),	    EVENT(profiling),
	EVENT(user_defined),
};

struct Pvmtevdid pvmtevdidlist[TEV_DID_MAX + 1] = {
	DATUM(AN),  DATUM(AC),	DATUM(AS),  DATUM(BF),	DATUM(CC),  DATUM(CN),	DATUM(CI),
	DATUM(CF),  DATUM(CD),	DATUM(CR),  DATUM(CL),	DATUM(CDA), DATUM(CDT), DATUM(CDX),
	DATUM(CDC), DATUM(CGI), DATUM(CRF), DATUM(CXC), DATUM(CXF), DATUM(CXN), DATUM(CXS),
	DATUM(ERI), DATUM(ERR), DATUM(FDS), DATUM(FP),	DATUM(GN),  DATUM(GI),	DATUM(GT),
	DATUM(GS),  DATUM(GBC), DATUM(HN),  DATUM(HNL), DATUM(HNA), DATUM(HPT), DATUM(HA),
	DATUM(HSP), DATUM(HIS), DATUM(HCS), DATUM(HCU), DATUM(HDS), DATUM(HDU), DATUM(HS),
	DATUM(INB), DATUM(IMC), DATUM(IST), DATUM(MC),	DATUM(MCX), DATUM(MB),	DATUM(MNB),
	DATUM(SRC), DATUM(DST), DATUM(MDL), DATUM(MTS), DATUM(MTU), DATUM(MRF), DATUM(MRB),
	DATUM(MSB), DATUM(ME),	DATUM(MHI), DATUM(AST), DATUM(AMC), DATUM(AML), DATUM(NE),
	DATUM(NMC), DATUM(NCT), DATUM(NTL), DATUM(NH),	DATUM(NA),  DATUM(OPT), DATUM(OPV),
	DATUM(OS),  DATUM(PDA), DATUM(PDT), DATUM(PC),	DATUM(PSD), DATUM(PSG), DATUM(PF),
	DATUM(PRF), DATUM(RST), DATUM(RMC), DATUM(RCX), DATUM(SN),  DATUM(SE),	DATUM(SF),
	DATUM(SW),  DATUM(SC),	DATUM(STL), DATUM(SIB), DATUM(TID), DATUM(PT),	DATUM(MT),
	DATUM(TF),  DATUM(TN),	DATUM(PID), DATUM(TT),	DATUM(TW),  DATUM(TIS), DATUM(TNT),
	DATUM(TST), DATUM(TUS), DATUM(TUU), DATUM(TSS), DATUM(TSU), DATUM(TES), DATUM(TA),
	DATUM(TR),  DATUM(TS),	DATUM(TU),  DATUM(TGS), DATUM(TGU), DATUM(TMW), DATUM(TM),
	DATUM(TRC), DATUM(TRT), DATUM(TRX), DATUM(TRO), DATUM(TRM), DATUM(TRB), DATUM(TRL),
	DATUM(VER), DATUM(VCT), DATUM(VID), DATUM(WID),
};

#pragma GCC diagnostic pop
