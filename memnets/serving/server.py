"""The page and its API on a socket: of this machine alone unless another host is asked for. Standard library only.

A page elsewhere can't use it: `Host` must be this machine's name or an address (against DNS rebinding), `Origin` the
page's own, calls are POSTs of JSON, and there are no CORS headers.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from memnets.serving.answer import Refused
from memnets.serving.api import Api
from memnets.serving.memory_reader import MemoryReader

FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
DIGITS = 20
"""Of a Content-Length: more bytes than 64 bits count is none."""

DRAINED = 8 << 20
"""Bytes of a refused body that are read and thrown away, so that the sender gets to see the refusal."""


class Handler(BaseHTTPRequestHandler):
    """Answers one connection.

    Args:
        api: what is served.
        host: name that was asked to be served under.
    """

    server_version = "memnets"
    sys_version = ""
    timeout = 30

    def __init__(self, *connection: Any, api: Api, host: str) -> None:
        self.api, self.host = api, host
        super().__init__(*connection)

    def do_GET(self) -> None:
        """Send the page or one of its parts."""
        try:
            self._refuse_strangers()
            if (path := urlsplit(self.path).path) not in FILES:
                raise Refused("no such page: see /", 404)
            name, kind = FILES[path]
            self._send(200, Path(__file__).with_name(name).read_bytes(), kind)
        except Refused as error:
            self._send_json(error.status, {"error": str(error)})

    def do_POST(self) -> None:
        """Answer a call of the API."""
        try:
            self._refuse_strangers()
            status, reply = 200, self.api.call(urlsplit(self.path).path, self._body())
        except Refused as error:
            status, reply = error.status, {"error": str(error)}
        except Exception as error:  # a defect: said in the terminal and to the page, and the server goes on
            self.log_error("%s: %r", self.path, error)
            status, reply = 500, {"error": f"the server failed ({type(error).__name__}): see its terminal"}
        self._send_json(status, reply)

    def _refuse_strangers(self) -> None:
        host = self.headers.get("Host", "")
        if not _ours(host, self.host):
            raise Refused(
                f"Host {host[:100]!r} isn't this server's name: open it as http://localhost or its address", 403
            )
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{host}":
            raise Refused(f"pages of {origin[:100]} may not use this server", 403)

    def _body(self) -> bytes:
        most, length = self.api.reader.limits.body, self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.close_connection = True
            raise Refused("the request must say its Content-Length", 411)
        if len(length) > DIGITS:
            self.close_connection = True
            raise Refused(f"the Content-Length has {len(length):,} digits: expected a number of bytes")
        if int(length) > most:
            self.close_connection = True
            self._drain(min(int(length), DRAINED))
            raise Refused(f"the request has {int(length):,} bytes: at most {most:,}; write less at once", 413)
        body = self.rfile.read(int(length))
        if self.headers.get_content_type() != "application/json":
            raise Refused("the request must have Content-Type: application/json", 415)
        return body

    def _drain(self, size: int) -> None:
        while size > 0 and (got := self.rfile.read(min(size, 1 << 16))):
            size -= len(got)

    def _send_json(self, status: int, reply: dict[str, Any]) -> None:
        self._send(status, json.dumps(reply).encode(), "application/json")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Say nothing: what people ask is nobody else's."""


class Server6(ThreadingHTTPServer):
    """On an address of IPv6."""

    address_family = socket.AF_INET6


def make_server(reader: MemoryReader, host: str = "127.0.0.1", port: int = 8000) -> ThreadingHTTPServer:
    """Return a server that listens; `serve_forever` serves. Port 0 takes a free one.

    Raises:
        OSError: the address can't be used.
    """
    handler = partial(Handler, api=Api(reader), host=host)
    return (Server6 if ":" in host else ThreadingHTTPServer)((host, port), handler)


def serve(reader: MemoryReader, host: str, port: int) -> None:
    """Serve until interrupted.

    Raises:
        OSError: the address can't be used.
    """
    with make_server(reader, host, port) as server:
        if not is_loopback(host):
            warning = "who can reach this machine can read, write and erase this memory: there is no password"
            print(f"warning: {host} is not of this machine alone; {warning}", file=sys.stderr, flush=True)
        name = f"[{host}]" if ":" in host else host
        print(f"{len(reader)} entries; open http://{name}:{server.server_port} and stop with Ctrl-C", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def is_loopback(host: str) -> bool:
    """Whether a host is of this machine alone."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _ours(header: str, host: str) -> bool:
    """Whether a `Host` header is an address, localhost or the name that is served: no name that others point here."""
    try:
        name = urlsplit(f"//{header}").hostname or "?"
    except ValueError:
        return False
    return name in ("localhost", host.lower()) or _address(name) is not None
