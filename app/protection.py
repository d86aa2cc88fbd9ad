"""What keeps a browser from being used against the API."""

from urllib.parse import urlsplit

from flask import Flask, Response, request

from app.errors import RequestError

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


def init_app(app: Flask) -> None:
    """Refuse requests that other sites' pages send, and mark every answer."""

    @app.before_request
    def refuse_other_sites() -> None:
        # A page of another site may post to an address that only its visitor can reach.
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            raise RequestError(403, "this request comes from a page of another site")

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers.update(HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
        return response
