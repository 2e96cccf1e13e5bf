"""Requests to one server: connections that stay open, time limits, TLS, backoff, and errors that say what to mend.

What is tried again: whatever was never sent (nobody listens, 429), and of the rest only what changes nothing on the
server. Knows TFaaS' habits (a panic drops the connection) and none of its routes. By Python's http.client: see
docs/decisions/0018-serving-client.md.
"""

from __future__ import annotations

import http.client
import queue
import re
import ssl
import time
import weakref
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mlaas_spark.errors import ConfigError, NoAnswerError, ServingError, reason
from mlaas_spark.serving.rate import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from email.message import Message

    from mlaas_spark.config import ServeConfig

_CONNECT_S = 10.0
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 60.0
_BUSY = (502, 503, 504)  # of a proxy before the server
_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")  # how OpenSSL finds a CA in a folder
_ANSWER = 200  # characters of an answer in a message
_ONE_PIECE = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said; names of headers are found in any case."""

    status: int
    headers: Message
    body: bytes

    @property
    def text(self) -> str:
        """The beginning of the body, for a message; of JSON the error that it tells."""
        text = self.body[:_ANSWER].decode(errors="replace").strip()
        found = re.fullmatch(r'\{"error": ?"(.*)"\}', text)
        return (found[1] if found else text) or "(nothing)"


class _Plain(http.client.HTTPConnection):
    """Sends head and body of a request together: one packet for the network, and one waking up for the server."""

    _held: list[bytes] | None = None

    def send(self, data: Any) -> None:
        """Hold back what a request is made of, send anything else."""
        if self._held is None:
            super().send(data)
        else:
            self._held.append(data)

    def request(self, *args: Any, **kwargs: Any) -> None:
        """As http.client's, in one piece; a large body is not copied for that."""
        self._held = []
        try:
            super().request(*args, **kwargs)
        finally:
            held, self._held = self._held, None
        for part in [b"".join(held)] if sum(map(len, held)) < _ONE_PIECE else held:
            self.send(part)


class _Secure(_Plain, http.client.HTTPSConnection):
    """The same with TLS."""


_Places = queue.LifoQueue[http.client.HTTPConnection | None]


def _close(places: _Places) -> None:
    """Close the connections of somebody who is gone."""
    while not places.empty():
        if (connection := places.get_nowait()) is not None:
            connection.close()


@dataclass(frozen=True, slots=True)
class _Failed:
    """A request without an answer, and whether there was a connection to send it on."""

    error: Exception
    connected: bool


class Connection:
    """Requests to one server; threads may share it.

    Args:
        serve: Its URL, time limits, tries, rate and certificates.
        clock: Seconds, for the rate.
        sleep: Waits so many seconds.

    Raises:
        ConfigError: The URL or a certificate cannot be used.
    """

    def __init__(
        self,
        serve: ServeConfig,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url, self._base = _address(serve.url)
        self._retries, self._timeout = serve.retries, serve.timeout
        self._sleep = sleep
        self._bucket = TokenBucket(serve.rate, clock, sleep)
        self._context = _context(serve) if self.url.startswith("https://") else None
        # where TLS 1.3 is used, a server that misses a certificate may say so by closing alone
        asks = self._context is not None and serve.certificate is None
        self._hint = "; or it asks for a certificate: serve.certificate and serve.key" if asks else ""
        # a place for each connection, the one used last on top; None for one that is not open
        self._places: _Places = queue.LifoQueue()
        for _ in range(serve.concurrency):
            self._places.put(None)
        weakref.finalize(self, _close, self._places)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        repeatable: bool = False,
    ) -> Answer:
        """An answer of any status but 429; a GET, and what is ``repeatable``, is asked for again if none comes.

        Raises:
            NoAnswerError: The server is not reached, TLS is refused, no answer comes in time or it breaks off.
            ServingError: 429 to the last.
        """
        repeatable = repeatable or method == "GET"
        asked = f"{method} {path}"
        for tried in range(1, self._retries + 2):
            last = tried > self._retries
            self._bucket.take()
            answer = self._exchange(method, self._base + path, body, dict(headers or {}))
            if not isinstance(answer, Answer):
                failure = self._failure(answer, asked, tried)
                if last or not failure.temporary or not (repeatable or not failure.sent):
                    raise failure from answer.error
                self._sleep(_wait(tried))
                continue
            if answer.status == 429:
                if last:
                    raise ServingError(self._limited(asked, tried))
                self._bucket.pause(self._told_to_wait(answer, asked) or _wait(tried))
            elif answer.status in _BUSY and repeatable and not last:
                self._sleep(_wait(tried))
            else:
                return answer
        raise AssertionError  # the last try has returned or raised

    def _exchange(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer | _Failed:
        """One request on a connection of the pool, which goes back there only if it is fit for another."""
        connection, kept, connected = self._places.get(), None, False
        try:
            connection = connection or self._connected()
            connected = True
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
            kept = connection if connection.sock is not None else None  # the server may have said that it closes
        except (OSError, http.client.HTTPException) as error:
            return _Failed(error, connected)
        finally:
            if kept is None and connection is not None:
                connection.close()
            self._places.put(kept)
        return answer

    def _connected(self) -> http.client.HTTPConnection:
        place, limit = urlsplit(self.url).netloc, min(_CONNECT_S, self._timeout)
        made = (
            _Plain(place, timeout=limit)
            if self._context is None
            else _Secure(place, timeout=limit, context=self._context)
        )
        try:
            made.connect()
        except OSError:
            made.close()
            raise
        made.sock.settimeout(self._timeout)
        return made

    def _failure(self, failed: _Failed, asked: str, tried: int) -> NoAnswerError:
        """What a user reads of a request that got no answer."""
        tries = f" ({tried} tries)" if tried > 1 else ""
        error = failed.error
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            return NoAnswerError(self.url, _tls(error), sent=False, temporary=False)
        if not failed.connected:
            why = f"nobody answers at this address: {_plain(error)}{tries}; is it running, is serve.url (--url) right?"
            return NoAnswerError(self.url, why, sent=False)
        if isinstance(error, TimeoutError):
            why = f"no answer to {asked} within {self._timeout:g} s{tries}; serve.timeout sets how long to wait"
            return NoAnswerError(self.url, why)
        why = (
            f"it dropped the connection at {asked}{tries}: {_plain(error)}; TFaaS does so when it panics, as for an "
            f"unknown model or a wrong number of values: see mlaas-spark models --url, and the server's log{self._hint}"
        )
        return NoAnswerError(self.url, why)

    def _limited(self, asked: str, tried: int) -> str:
        return (
            f"{self.url} answers 429 (too many requests) to {asked}, tried {tried} times: its limit is by address, "
            "perhaps others use yours; set serve.rate lower or serve.retries higher"
        )

    def _told_to_wait(self, answer: Answer, asked: str) -> float | None:
        """Seconds by Retry-After (of HTTP), or X-RateLimit-Reset (of TFaaS' limiter, seconds since 1970)."""
        now = _date(answer.headers.get("date")) or datetime.now(UTC).timestamp()
        after, reset = answer.headers.get("retry-after"), answer.headers.get("x-ratelimit-reset")
        if after is not None:
            seconds = float(after) if after.isdigit() else (_date(after) or now) - now
        elif reset is not None and reset.isdigit():
            seconds = max(float(reset) - now, _FIRST_WAIT_S)
        else:
            return None
        if seconds > _LONGEST_WAIT_S:
            msg = f"{self.url} answers 429 (too many requests) to {asked}, and to come again in {seconds:.0f} s"
            raise ServingError(msg)
        return max(seconds, 0.0)


def _address(url: str | None) -> tuple[str, str]:
    """Scheme with host and port, and the path before the routes."""
    if not url:
        msg = "no server: name it by serve.url of the config or --url http://HOST:PORT"
        raise ConfigError(msg)
    try:
        place = urlsplit(url)
        port = place.port
    except ValueError as error:
        msg = f"serve.url: {error}"
        raise ConfigError(msg) from error
    if place.scheme not in {"http", "https"} or not place.hostname or place.query or place.fragment:
        msg = f"serve.url: {url!r} is no address of a server: give http://HOST:PORT or https://HOST/PATH"
        raise ConfigError(msg)
    host = f"[{place.hostname}]" if ":" in place.hostname else place.hostname
    return f"{place.scheme}://{host}{f':{port}' if port else ''}", place.path.rstrip("/")


def _context(serve: ServeConfig) -> ssl.SSLContext:
    """TLS that verifies the server by the CA given, or the system's, and shows it a certificate."""
    context = ssl.create_default_context() if serve.ca is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if serve.ca is not None:
        _trust(context, Path(serve.ca))
    if serve.certificate is not None:
        try:
            context.load_cert_chain(serve.certificate, serve.key, password=_no_password)
        except OSError as error:  # ssl.SSLError is one
            named = f"{serve.certificate} with {serve.key}" if serve.key else str(serve.certificate)
            msg = f"serve.certificate: {named} is no certificate with its key: {_plain(error)}"
            raise ConfigError(msg) from error
    return context


def _no_password() -> str:
    """Nobody sits at a terminal where jobs run."""
    msg = "serve.key is encrypted: give one without a passphrase, chmod 400, or a proxy (voms-proxy-init)"
    raise ConfigError(msg)


def _trust(context: ssl.SSLContext, ca: Path) -> None:
    try:
        if not ca.is_dir():
            context.load_verify_locations(cafile=ca)
            return
        names = [path.name for path in ca.iterdir()]
        if any(_HASHED.fullmatch(name) for name in names):
            context.load_verify_locations(capath=ca)
            return
        plain = [name for name in sorted(names) if name.endswith((".pem", ".crt"))]
        for name in plain:
            context.load_verify_locations(cafile=ca / name)
    except OSError as error:  # ssl.SSLError is one
        msg = f"serve.ca: {ca} holds no certificates: {_plain(error)}"
        raise ConfigError(msg) from error
    if not plain:
        msg = f"serve.ca: the folder {ca} holds no certificates: neither names by openssl rehash, nor .pem or .crt"
        raise ConfigError(msg)


def _tls(error: ssl.SSLError) -> str:
    """A refusal by one side or the other, with how to mend it."""
    said = getattr(error, "verify_message", "") or _plain(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        if "ostname" in said or "IP address" in said:
            return f"TLS refused: {said}; use the name that the server's certificate is for"
        return f"TLS refused: the server's certificate is not trusted: {said}; name its CA by serve.ca (--ca)"
    if "ALERT" in str(error.reason or "") or "alert" in said:
        return (
            f"TLS refused by the server: {said}; show it a certificate by serve.certificate and serve.key that it takes"
        )
    return f"TLS refused: {said}; is it a server of https://?"


def _plain(error: BaseException) -> str:
    strerror = getattr(error, "strerror", None)
    return str(strerror) if strerror else reason(error)


def _date(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except ValueError:
        return None


def _wait(tried: int) -> float:
    """Seconds before the next try: 0.1, 0.2, 0.4, ..."""
    return min(_FIRST_WAIT_S * 2.0 ** (tried - 1), _LONGEST_WAIT_S)
