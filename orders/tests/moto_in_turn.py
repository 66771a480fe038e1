"""moto's server on a free port of 127.0.0.1, one request at a time.

moto undoes a refused DynamoDB transaction by restoring a copy of the whole table, and so loses what
others wrote meanwhile. The real service does not; serving one request after the other avoids the
difference. Bodies are read before a request's turn, so that a slow client blocks no other.
"""

import io
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

turn = threading.Lock()
moto = DomainDispatcherApplication(create_backend_app)


def one_at_a_time(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    with turn:
        return moto(environ, start_response)


run_simple("127.0.0.1", 0, one_at_a_time, threaded=True)
