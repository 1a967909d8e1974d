"""Which of the timetables that tablix2 wrote is without conflict: nobody and no room twice at a time."""
import sys
import xml.etree.ElementTree as tree

LESSONS = 15


def lessons(path):
    return [{r.get("type"): r.get("name") for r in e.iter("resource")} for e in tree.parse(path).iter("event")]


def unique(rows, kind):
    return len({(r[kind], r["time"]) for r in rows}) == LESSONS


for path in sys.argv[1:]:
    rows = lessons(path)
    if len(rows) == LESSONS and all(unique(rows, k) for k in ("teacher", "class", "room")):
        print(f"{LESSONS} lessons without conflict")
        sys.exit(0)
sys.exit(f"no timetable without conflict among {len(sys.argv) - 1}")
