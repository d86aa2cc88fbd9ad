"""What keeps a browser from being used against the API.

Whoever reaches the API may use it, so what must not reach it is the page of another site that
somebody on this machine looks at. Such a page can send requests here, and the browser says so; or
it can have its own name resolve to our address, and then all that tells is the name.
"""

import os
import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from flask import Flask, Response, request

from rota.app.errors import RequestError
from rota.app.paths import is_page

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
# What a page of an origin that ROTA_ALLOWED_ORIGINS names may send, and read: no cookies, for we
# have none, but a token that the page was given.
SHARED = {
    "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, If-None-Match",
    "Access-Control-Max-Age": "600",
}
EXPOSED = "Location, ETag, Retry-After, Idempotency-Replayed, Rota-Data-Age, Rota-Shard"
# What another site may lead to. It sees nothing of it, and nothing happens there.
PAGES = {"/", "/apidocs", "/apidocs/"}
LOCAL_ADDRESS = (
    "rota.local_address"  # in the environment of a request: where its connection came in
)

ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[0-9a-z_.-]+)(:[0-9]{1,5})?", re.ASCII)
AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[0-9a-z_.-]+)(?::[0-9]{1,5})?", re.ASCII | re.IGNORECASE)


def init_app(app: Flask) -> None:
    """Refuse requests that other sites' pages send, and mark every answer.

    Raises:
        ValueError: the environment names a host or an origin that cannot be one.
    """
    named = _named_hosts()
    origins = _named_origins()

    @app.before_request
    def refuse_other_names() -> None:
        # No name of another site is among these, so none that resolves to us gets any further.
        for authority in _authorities():
            host = _host(authority)
            if host is None:
                raise RequestError(400, "the request does not say properly which host it is for")
            if not (host in named or _is_loopback(host) or _is_local(host)):
                raise RequestError(
                    421,
                    "this API does not answer to the host that the request is for",
                    hint="Name the host in ROTA_ALLOWED_HOSTS.",
                )

    def is_named() -> bool:
        return request.headers.get("Origin", "") in origins

    @app.before_request
    def refuse_other_sites() -> Response | None:
        if is_named():
            asks = request.method == "OPTIONS"  # whether it may send what it is about to
            return Response(status=204, headers=SHARED) if asks else None
        # A page of another site may send to an address that only its visitor can reach.
        if _comes_from_another_site() and not _leads_to_a_page():
            raise RequestError(403, "this request comes from a page of another site")
        return None

    @app.after_request
    def add_headers(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)  # a page may say what it needs
        response.headers.setdefault("Cache-Control", "no-store")
        if origins:
            response.vary.add("Origin")
        if is_named():
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = EXPOSED
        return response


def _named_hosts() -> set[str]:
    """Return the hosts that HOST and ROTA_ALLOWED_HOSTS name."""
    names = os.environ.get("ROTA_ALLOWED_HOSTS", "").split(",")
    hosts = {_host_alone(os.environ.get("HOST", "127.0.0.1"))}
    for name in filter(None, map(str.strip, names)):
        host = _host_alone(name)
        if host is None:
            raise ValueError(
                "ROTA_ALLOWED_HOSTS: expected names or addresses, separated by commas, without"
                f" ports, not {name[:100]!r}"
            )
        hosts.add(host)
    return hosts - {None}


def _named_origins() -> set[str]:
    """Return the origins that ROTA_ALLOWED_ORIGINS names, as browsers write them."""
    names = os.environ.get("ROTA_ALLOWED_ORIGINS", "").split(",")
    origins = set(filter(None, map(str.strip, names)))
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise ValueError(
                "ROTA_ALLOWED_ORIGINS: expected origins as browsers write them, such as"
                f" https://ops.example, separated by commas, not {origin[:100]!r}"
            )
    return origins


def _host_alone(name: str) -> str | None:
    """Return a host, in one spelling; None if it is none, or has a port."""
    try:
        return str(ip_address(name.strip("[]")))
    except ValueError:
        return None if ":" in name else _host(name)


def _authorities() -> list[str]:
    """Return what the request says that it is for: by its Host, and by a target that is a URL.

    Every browser sends a Host. A client of HTTP/1.0 that sends none, as a load balancer's probe
    may, can be no page.
    """
    authorities = []
    said = request.environ
    target = said.get("REQUEST_URI", "/")
    if not target.startswith("/") and target != "*":
        authorities.append(_netloc(target) or "")
    host = request.headers.get("Host")
    if host is not None or said.get("SERVER_PROTOCOL") != "HTTP/1.0":
        authorities.append(host or "")
    return authorities


def _host(authority: str) -> str | None:
    """Return the host of ``host:port``, in one spelling; None if it is no such thing."""
    match = AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    host = match[1].lower()
    if host.startswith("["):
        try:
            return str(IPv6Address(host.strip("[]")))
        except ValueError:
            return None
    return host.removesuffix(".") or None


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_loopback(host: str) -> bool:
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback


def _is_local(host: str) -> bool:
    """Tell whether it is the very address at which the connection came in.

    That is how a probe reaches a process that listens on all addresses. An address is no name, so
    no other site can have taken it.
    """
    address = _address(host)
    return address is not None and address == _address(request.environ.get(LOCAL_ADDRESS, ""))


def _netloc(url: str) -> str | None:
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return parts.netloc if parts.scheme in ("http", "https") else None


def _comes_from_another_site() -> bool:
    """Tell whether a page sent this request that is not our own, or whether it pretends to be none.

    Browsers send Origin with what may change something, Sec-Fetch-Site with everything, and those
    that are too old for that a Referer with most.
    """
    own = request.headers.get("Host", "").lower()
    origin = request.headers.get("Origin")
    if origin is not None and (_netloc(origin) or "").lower() != own:
        return True
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    referer = request.headers.get("Referer")
    return origin is None and bool(referer) and (_netloc(referer) or "").lower() != own


def _leads_to_a_page() -> bool:
    """Tell whether a visitor follows a link to a page, with nothing sent along."""
    return (
        request.method in ("GET", "HEAD")
        and (request.path in PAGES or is_page(request.path))
        and "Origin" not in request.headers
        and request.headers.get("Sec-Fetch-Mode", "navigate") == "navigate"
        and request.headers.get("Sec-Fetch-Dest", "document") == "document"
    )
