"""HTTP requests with retries: exponential back-off, time-outs, errors in plain words.

Why not a library: urllib3's Retry repeats the request but not the reading of the body, counts tries that
brought bytes like those that brought none, and sleeps as long as a host asks (or silently less), where
this says so and ends. pooch downloads to a temporary file that it discards after any error, so a broken
10 GB file starts again at 0; it bounds neither sizes nor redirects, and checks one hash a file and URL.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from workflow_lib.core.errors import UserError, printable
from workflow_lib.core.strict import parse_json
from workflow_lib.stages.sources.settings import FetchSettings

MOST_JSON = 1 << 23
"""Bytes of one page of a file list: 300 a file, a thousand files a page, and folders of 100,000 files.
Parsed, the worst of this size takes 0.8 GB."""
MOST_VALUES = 500_000
"""Numbers and texts of one page."""
MOST_REDIRECTS = 10
TRY_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})


class TransientError(Exception):
    """Worth another try; ``retry_after`` is the wait the host asked for, in s."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RangeRefusedError(TransientError):
    """The host cannot continue where an earlier try stopped."""


class RefusedError(Exception):
    """The host will not serve this, however often it is asked."""


class StoppedError(Exception):
    """Another thread met an error that makes continuing pointless."""


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc or url[:100]
    except ValueError:
        return url[:100]


def _retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, a number or a date; None if it is neither."""
    if value is None:
        return None
    if re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _root_cause(error: BaseException) -> str:
    """Return the operating system's words at the bottom of a chain of wrapped errors."""
    words = "no connection"
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            words = seen.strerror
        arguments = [item for item in seen.args if isinstance(item, BaseException)]
        reason = getattr(seen, "reason", None)
        seen = reason if isinstance(reason, BaseException) else next(iter(arguments), seen.__cause__)
    return words


class Web:
    """Requests of one fetch; safe to share between threads, each of which has its own session."""

    def __init__(self, settings: FetchSettings) -> None:
        self.settings = settings
        self.stop = threading.Event()
        self._local = threading.local()

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            # Bytes as they are stored, to which sizes, ranges and checksums of the file lists refer.
            session.headers.update({"Accept-Encoding": "identity", "User-Agent": "workflow-lib fetch"})
            self._local.session = session
        return session

    @contextmanager
    def open(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[requests.Response]:
        """Yield an answer with status 200 or 206, its body not yet read.

        Raises TransientError, RangeRefusedError or RefusedError, also for errors while the body is
        read within the block.
        """
        timeout = (self.settings.connect_timeout, self.settings.stall_timeout)
        host = _host(url)
        try:
            with self._get(url, headers, timeout) as response:
                host = _host(response.url)
                self._check(response, host)
                yield response
        except (requests.exceptions.SSLError, urllib3.exceptions.SSLError) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise RefusedError(
                    f"the certificate of {host} cannot be verified (see REQUESTS_CA_BUNDLE)"
                ) from error
            raise TransientError(f"the encrypted connection to {host} broke off") from error
        except (requests.exceptions.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError) as error:
            raise TransientError(f"no answer from {host} within {timeout[0]:g} s") from error
        except (requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError) as error:
            raise TransientError(f"{host} sent nothing for {timeout[1]:g} s") from error
        except (
            requests.exceptions.ChunkedEncodingError,
            urllib3.exceptions.ProtocolError,
        ) as error:
            raise TransientError(f"the connection to {host} broke off") from error
        except requests.exceptions.ConnectionError as error:
            raise TransientError(f"cannot reach {host} ({_root_cause(error)})") from error
        # Malformed addresses (http://[::1, lone surrogates) and headers raise errors of Python's own.
        except (requests.RequestException, urllib3.exceptions.HTTPError, UnicodeError, ValueError) as error:
            raise RefusedError(f"{host} cannot be asked for {url}: {type(error).__name__}") from error

    def _get(
        self, url: str, headers: Mapping[str, str] | None, timeout: tuple[float, float]
    ) -> requests.Response:
        """Return the answer behind at most :data:`MOST_REDIRECTS` redirects, whose bodies are not read."""
        session = self._session()
        for _ in range(MOST_REDIRECTS + 1):
            response = session.get(
                url, headers=headers, stream=True, timeout=timeout, allow_redirects=False
            )
            if not response.is_redirect:
                return response
            response.close()
            url = urljoin(url, str(session.get_redirect_target(response)))
            if urlsplit(url).scheme not in ("http", "https"):
                raise RefusedError(f"{_host(response.url)} points to {url[:100]}, which is no web address")
        raise RefusedError(f"{_host(url)} redirects more than {MOST_REDIRECTS} times")

    def _body(self, response: requests.Response) -> bytes:
        """Return a body of at most :data:`MOST_JSON` bytes that arrives before ``json_timeout`` is over."""
        deadline = time.monotonic() + self.settings.json_timeout
        parts: list[bytes] = []
        size = 0
        while part := response.raw.read1(1 << 18, decode_content=True):
            parts.append(part)
            size += len(part)
            if size > MOST_JSON:
                raise RefusedError(f"{_host(response.url)} sends a file list of over {MOST_JSON} bytes")
            if time.monotonic() > deadline:
                raise TransientError(f"{_host(response.url)} takes too long for a file list")
            if self.stop.is_set():
                raise StoppedError
        return b"".join(parts)

    @staticmethod
    def _check(response: requests.Response, host: str) -> None:
        status = response.status_code
        words = f"{host} answers HTTP {status}" + (f" ({response.reason})" if response.reason else "")
        if status in (200, 206) and "x-amzn-waf-action" not in response.headers:
            return
        if status in (200, 202, 206):
            # Figshare's web host sends this, with an empty body, to programs that it takes for robots.
            raise RefusedError(f"{host} answers with a browser check instead of the file")
        if status == 416:
            raise RangeRefusedError(words)
        if status in TRY_LATER:
            raise TransientError(words, _retry_after(response.headers.get("Retry-After")))
        raise RefusedError(words)

    def retry[T](self, what: str, action: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        """Call ``action`` until it succeeds, waiting longer and longer between tries.

        ``progress`` returns how far the tries have come (bytes): only tries in a row that come no
        farther than any before them count against ``settings.attempts``. Raises UserError if they
        are used up or the host asks for too long a wait; RefusedError and StoppedError pass.
        """
        settings = self.settings
        failures, best = 0, progress()
        while True:
            try:
                return action()
            except TransientError as error:
                now = progress()
                failures = 1 if now > best else failures + 1
                best = max(best, now)
                wait = error.retry_after
                if wait is not None and wait > settings.max_retry_after:
                    raise UserError(
                        f"{what}: {error} and asks to wait {wait:.0f} s; run the same command again then"
                    ) from error
                if failures >= settings.attempts:
                    tries = "1 try" if failures == 1 else f"{failures} tries"
                    raise UserError(
                        f"{what}: {error}, after {tries}; check the network (and the proxy settings), "
                        "then run the same command again: what has arrived is kept"
                    ) from error
            if wait is None:
                longest = min(settings.max_backoff, settings.backoff * 2 ** (failures - 1))
                # Randomised, so that several connections do not all retry at the same moment.
                wait = longest * random.uniform(0.5, 1)
            if self.stop.wait(wait):
                raise StoppedError

    def get_json(self, what: str, url: str) -> tuple[Any, requests.Response]:
        """Return a JSON document and its HTTP response; raise UserError if it cannot be obtained."""

        def ask() -> tuple[bytes, requests.Response]:
            with self.open(url) as response:
                return self._body(response), response

        try:
            body, response = self.retry(what, ask)
        except RefusedError as error:
            raise UserError(
                f"{what}: {error} for {url}; check item, version and address in the table of sources"
            ) from error
        try:
            return parse_json(body.decode("utf-8-sig"), MOST_VALUES), response
        except ValueError as error:
            raise UserError(
                f"{what}: {url} answers with something else than JSON ({printable(str(error))[:200]}; a "
                "log-in page of the network?); check the address in the table of sources"
            ) from error
