"""The documentation: OpenAPI at /apispec.json, Swagger UI at /apidocs/."""

from importlib.resources import files
from pathlib import Path

import yaml
from flasgger import Swagger
from flask import Blueprint, Flask, Response, redirect, send_from_directory, url_for
from werkzeug.exceptions import NotFound

HERE = Path(__file__).parent
PAGE = HERE / "apidocs"
# flasgger brings a swagger-ui of 2020 with known holes. Its pages stay off; the current one comes
# from this package, of which only these files are used.
SWAGGER_UI = Path(str(files("flask_swagger_ui"))) / "dist"
SWAGGER_UI_FILES = {"swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"}

FOR_EVERY_OPERATION = {
    "403": "Foreign",
    "421": "Misdirected",
    "500": "Failed",
    "503": "Unavailable",
}
FOR_EVERY_CHANGE = {
    "400": "Malformed",
    "413": "TooLarge",
    "415": "NotJson",
    "422": "Invalid",
}

blueprint = Blueprint("docs", __name__)


@blueprint.get("/")
def home() -> Response:
    """Lead a browser to the documentation."""
    return redirect(url_for("docs.page"))


@blueprint.get("/apidocs/")
def page() -> Response:
    """Serve Swagger UI's page; what it shows is fixed in its script, no query can change it."""
    return send_from_directory(PAGE, "index.html")


@blueprint.get("/apidocs/<name>")
def asset(name: str) -> Response:
    """Serve a file of the page."""
    if name in SWAGGER_UI_FILES:
        return send_from_directory(SWAGGER_UI, name)
    if name in {"page.css", "page.js"}:
        return send_from_directory(PAGE, name)
    raise NotFound


def init_app(app: Flask) -> None:
    """Collect the documentation from the docstrings of the routes, which must exist by now."""
    app.register_blueprint(blueprint)
    swagger = Swagger(
        app,
        config={
            "openapi": "3.0.3",
            "headers": [],
            "swagger_ui": False,
            "specs": [{"endpoint": "spec", "route": "/apispec.json"}],
        },
        template=yaml.safe_load((HERE / "openapi.yaml").read_text()),
        sanitizer=lambda text: text,
    )
    with app.app_context():
        spec = swagger.get_apispecs("spec")
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            errors = FOR_EVERY_OPERATION | (FOR_EVERY_CHANGE if method != "get" else {})
            errors |= {"404": "NotFound"} if "{" in path else {}
            for status, name in errors.items():
                reference = {"$ref": f"#/components/responses/{name}"}
                operation["responses"].setdefault(status, reference)
