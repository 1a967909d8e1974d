#!/bin/bash
# labels: agent kvm
# timeout: 120
# The console as a terminal, across two agents: raw mode, the escape key, a resize, and the terminal
# as it was afterwards, also when the command is ended by a signal.
. "$(dirname "$0")/agent_lib.bash"
needs_guest dirty

make_cluster a b
start_agent a
start_agent b
wait_event "b is reachable" --node a
expect 0 running "$pangaea" vm run work -k "$guests/dirty" -m 64M --cmdline "mib=16 rate=20" --node b --agent a

cat >"$dir/terminal.py" <<'P'
import fcntl, os, pty, select, signal, struct, sys, termios, time

def winsize(fd, rows, cols):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

def read_until(fd, text, seconds=20):
    got, end = b"", time.monotonic() + seconds
    while text not in got:
        if not select.select([fd], [], [], max(0, end - time.monotonic()))[0]:
            sys.exit("no %r in %r" % (text, got))
        try:
            got += os.read(fd, 4096)
        except OSError:
            sys.exit("closed before %r: %r" % (text, got))
    return got

def session(end, code):
    master, slave = pty.openpty()
    winsize(master, 24, 80)
    before = termios.tcgetattr(slave)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for fd in 0, 1, 2:
            os.dup2(slave, fd)
        os.execv(sys.argv[1], sys.argv[1:])
    read_until(master, b"connected to work; Ctrl-] leaves")
    read_until(master, b"dirty: pass")
    raw = termios.tcgetattr(slave)
    assert not raw[3] & (termios.ECHO | termios.ICANON | termios.ISIG), "the terminal is not raw"
    winsize(master, 50, 132)
    os.write(master, b"typed ^C \x03 and more")
    read_until(master, b"dirty: pass")
    end(master, pid)
    _, status = os.waitpid(pid, 0)
    assert status == code, "status %#x" % status
    assert termios.tcgetattr(slave) == before, "the terminal is not as it was"
    os.close(master), os.close(slave)

session(lambda fd, pid: os.write(fd, b"\x1d"), 0)
session(lambda fd, pid: os.kill(pid, signal.SIGTERM), signal.SIGTERM)
print("the terminal is raw while attached and as before afterwards")
P
expect 0 "as before afterwards" python3 "$dir/terminal.py" "$pangaea" vm console work --agent a

# A VM that ends under a console ends the session; input from a file is no reason to leave.
echo hello >"$dir/input"
timeout 30 "$pangaea" vm console work --agent a <"$dir/input" >"$dir/output" 2>&1 &
reader=$!
timeout 20 grep -q -m1 "dirty: pass" <(tail -n +1 -f "$dir/output" --pid=$reader) || fail "no output"
expect 0 killed "$pangaea" vm kill work --agent b
wait $reader && ok "the session ends with the VM" || fail "the session's exit code is $?"
stop_agent a
stop_agent b
exit $bad
