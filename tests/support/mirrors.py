"""A server of downloads on this machine."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def serving(folder: Path, handler: type[BaseHTTPRequestHandler] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Serve the files in `folder`, or what `handler` answers; yields the address and the list of requested paths."""

    class Quiet(handler or SimpleHTTPRequestHandler):
        def log_message(self, *args):
            served.append(self.path)

    served: list[str] = []
    handler = partial(Quiet, directory=str(folder)) if handler is None else Quiet
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
