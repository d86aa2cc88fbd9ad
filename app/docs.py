"""The documentation: OpenAPI at /apispec.json, Swagger UI at /apidocs/."""

from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from flasgger import Swagger
from flask import Blueprint, Flask, Response, current_app, redirect, send_from_directory, url_for
from werkzeug.exceptions import NotFound

HERE = Path(__file__).parent
PAGE = HERE / "apidocs"
# flasgger brings a swagger-ui of 2020 with known holes. Its pages stay off; the current one comes
# from this package, of which only these files are used.
SWAGGER_UI = Path(str(files("flask_swagger_ui"))) / "dist"
SWAGGER_UI_FILES = {"swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"}

# The answers that openapi.yaml describes once, and whose they are.
FOR_EVERY_OPERATION = {
    "400": "Unaddressed",
    "403": "Foreign",
    "421": "Misdirected",
    "431": "TooLargeHead",
    "500": "Failed",
    "503": "Unavailable",
}
FOR_EVERY_TOKEN = {"401": "Unauthorized", "403": "Forbidden"}
FOR_EVERY_CHANGE = {
    "400": "Malformed",
    "413": "TooLarge",
    "415": "NotJson",
    "422": "Unexpected",
}
FOR_EVERY_LIST = {"422": "Invalid"}
FOR_EVERY_READ = {"304": "NotModified"}
FOR_EVERY_KEY = {"409": "KeyTaken"}
FOR_EVERY_PATH_WITH = {
    "{job_id}": {"404": "NoJob"},
    "{workflow_id}": {"404": "NoWorkflow"},
    "{name}": {"404": "NoSchedule"},
    "{queue}": {"404": "NoQueue"},
}
OF_STATUS = {"404": "NotFound", "409": "Conflict", "422": "Invalid", "503": "Unavailable"}

# Safe, and in C where PyYAML was built with libyaml: an application starts in half of the time.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

blueprint = Blueprint("docs", __name__)


@blueprint.get("/")
def home() -> Response:
    """Lead a browser to the dashboard, or to the documentation where there is none."""
    has_pages = "ui" in current_app.blueprints
    return redirect(url_for("ui.overview.show" if has_pages else "docs.page"))


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
    template = yaml.load((HERE / "openapi.yaml").read_text(), Loader=LOADER)
    del template["x-fields"]
    swagger = Swagger(
        app,
        config={
            "openapi": "3.0.3",
            "headers": [],
            "swagger_ui": False,
            "specs": [{"endpoint": "spec", "route": "/apispec.json"}],
        },
        template=template,
        sanitizer=lambda text: text,
    )
    with app.app_context():
        spec = swagger.get_apispecs("spec")
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            _write_out(operation, template["components"]["responses"])
            _say_who_may(operation)
            _add_headers(path, method, operation)
            for status, name in _shared_responses(path, method, operation).items():
                operation["responses"].setdefault(status, _reference("responses", name))


def _shared_responses(path: str, method: str, operation: dict[str, Any]) -> dict[str, str]:
    """Return the names of the responses that an operation has like others, by their status."""
    shared = dict(FOR_EVERY_OPERATION)
    for parameter, responses in FOR_EVERY_PATH_WITH.items():
        if parameter in path:
            shared |= responses
    if _reference("parameters", "IdempotencyKey") in operation.get("parameters", []):
        shared |= FOR_EVERY_KEY
    if _may_be_unchanged(path, method, operation):
        shared |= FOR_EVERY_READ
    if method != "get":
        shared |= FOR_EVERY_CHANGE
    elif _reference("parameters", "Limit") in operation.get("parameters", []):
        shared |= FOR_EVERY_LIST
    return shared


def _say_who_may(operation: dict[str, Any]) -> None:
    """Say which tokens an operation takes: its docstring has their scopes as ``security``."""
    scopes = operation.pop("security", [])
    operation["security"] = [{"bearerAuth": []}] if scopes else []
    if not scopes:
        return
    operation["x-scopes"] = scopes
    for status, name in FOR_EVERY_TOKEN.items():
        operation["responses"].setdefault(status, _reference("responses", name))
    roles = " or ".join(f"`rota_{scope}`" for scope in scopes)
    description = operation.get("description", "")
    operation["description"] = f"{description}\n\nFor tokens with {roles}.".strip()


def _write_out(operation: dict[str, Any], shared: dict[str, Any]) -> None:
    """Write out what the docstrings of routes say in short.

    ``json: Job`` in a body or a response is content of that schema; an example may stand beside it.
    A response that has the members of an error is the shared one of its status, with that example.
    """
    for part in (operation.get("requestBody", {}), *operation["responses"].values()):
        if "json" in part:
            content = {"schema": _reference("schemas", part.pop("json"))}
            for name in ("example", "examples"):
                if name in part:
                    content[name] = part.pop(name)
            part["content"] = {"application/json": content}
    for status, error in operation["responses"].items():
        if "code" in error:
            response = deepcopy(shared[OF_STATUS[status]])
            example = {"code": None, "message": None, "detail": None, "hint": None} | error
            response["content"]["application/json"]["example"] = example
            operation["responses"][status] = response


def _may_be_unchanged(path: str, method: str, operation: dict[str, Any]) -> bool:
    """Tell whether an answer has a version that a client may ask for, as answers.py has it."""
    if method != "get" or path.startswith("/health/"):
        return False
    return "application/json" in operation["responses"]["200"].get("content", {})


def _add_headers(path: str, method: str, operation: dict[str, Any]) -> None:
    """Say which headers the answers of an operation have like others."""
    headers = {}
    if _may_be_unchanged(path, method, operation):
        headers["ETag"] = _reference("headers", "ETag")
        headers["Rota-Data-Age"] = _reference("headers", "DataAge")
    if _reference("parameters", "IdempotencyKey") in operation.get("parameters", []):
        headers["Idempotency-Replayed"] = _reference("headers", "Replayed")
    for status in ("200", "201"):
        if headers and status in operation["responses"]:
            operation["responses"][status].setdefault("headers", {}).update(headers)


def _reference(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}
