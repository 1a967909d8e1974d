#!/usr/bin/env python3
"""span_proxy.py TARGET-PORT: forwards TCP to it and misbehaves on demand.

Prints its own port. Lines on standard input, each answered by "ok" when it is done:
  cut    breaks all connections; new ones are let through
  block  breaks all connections and every new one, until open
  open
  flip   changes a byte of what goes to the target next
"""
import selectors
import socket
import sys


class Proxy:
    def __init__(self, target):
        self.target = target
        self.blocked = self.flip = False
        self.other = {}
        self.sel = selectors.DefaultSelector()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.sel.register(self.listener, selectors.EVENT_READ, self.accept)
        self.sel.register(sys.stdin, selectors.EVENT_READ, self.order)
        print(self.listener.getsockname()[1], flush=True)

    def accept(self, _):
        a, _ = self.listener.accept()
        if self.blocked:
            a.close()
            return
        try:
            b = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            a.close()
            return
        for s, o in ((a, b), (b, a)):
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.other[s] = o
            self.sel.register(s, selectors.EVENT_READ, self.forward)
        self.to_target = b

    def drop(self, s):
        for x in (s, self.other.get(s)):
            if x in self.other:
                del self.other[x]
                self.sel.unregister(x)
                x.close()

    def forward(self, s):
        if s not in self.other:
            return
        try:
            data = bytearray(s.recv(1 << 16))
            if self.flip and len(data) >= 16 and self.other[s] is self.to_target:
                data[2] ^= 0x40
                self.flip = False
            if data:
                self.other[s].sendall(data)
        except OSError:
            data = b""
        if not data:
            self.drop(s)

    def order(self, _):
        word = sys.stdin.readline().strip()
        if not word:
            sys.exit(0)
        if word in ("cut", "block"):
            for s in list(self.other):
                self.drop(s)
        self.blocked = word == "block" or (self.blocked and word != "open")
        self.flip = word == "flip"
        print("ok", flush=True)

    def run(self):
        while True:
            for key, _ in self.sel.select():
                key.data(key.fileobj)


Proxy(int(sys.argv[1])).run()
