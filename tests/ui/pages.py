"""Pages of the dashboard as they are without JavaScript: what they show, and their forms sent.

    page = look(client, "/ui/queues")
    assert page.table() == [{"Queue": "mail", "Due": "3", ...}]
    after = press(client, page.form("Pause", of="/ui/queues/mail/pause"))
    assert after.said == "Queue mail is paused."

A page whose elements are not closed in their order, or that has an id twice, is none.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

VOID = {"area", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}
INLINE = {"a", "b", "code", "em", "kbd", "time"}  # no space is between these and what follows
OURS = "http://localhost"  # what the test client is a page of


@dataclass
class Node:
    """An element: its attributes, and what is in it."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list["Node | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What is to be read in it, with single spaces."""
        return " ".join("".join(self._texts()).split())

    def _texts(self) -> Iterator[str]:
        for child in self.children:
            if isinstance(child, str):
                yield child
            elif child.tag not in ("script", "style"):
                yield from child._texts()
                yield "" if child.tag in INLINE else " "

    def all(self, *tags: str, **attributes: str) -> Iterator["Node"]:
        """Give the elements in it, in their order, of these tags and with these attributes."""
        for child in self.children:
            if isinstance(child, Node):
                has_all = all(child.attributes.get(k) == v for k, v in attributes.items())
                if (not tags or child.tag in tags) and has_all:
                    yield child
                yield from child.all(*tags, **attributes)

    def one(self, *tags: str, **attributes: str) -> "Node":
        """Return the only one of these."""
        found = list(self.all(*tags, **attributes))
        assert len(found) == 1, (tags, attributes, [node.text for node in found])
        return found[0]

    def __getitem__(self, attribute: str) -> str:
        return self.attributes[attribute]


class _Tree(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.root = Node("")
        self._open = [self.root]
        self.feed(html)
        self.close()
        assert self._open == [self.root], f"<{self._open[-1].tag}> is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(node)
        if tag not in VOID:
            self._open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].children.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].tag == tag, f"</{tag}> where <{self._open[-1].tag}> is open"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)


@dataclass
class Form:
    """A form: where it goes, what it sends as it stands, and its buttons."""

    node: Node
    action: str
    method: str
    fields: dict[str, list[str]]
    buttons: list[Node]

    @property
    def labels(self) -> list[str]:
        """What stands on its buttons."""
        return [button.text for button in self.buttons]


class Page:
    """What an answer shows.

    Args:
        answer: of the test client.
    """

    def __init__(self, answer: TestResponse) -> None:
        self.answer = answer
        self.status = answer.status_code
        self.path = answer.request.full_path.rstrip("?") if answer.request else ""
        self.root = _Tree(answer.get_data(as_text=True)).root
        ids = Counter(node["id"] for node in self.root.all() if "id" in node.attributes)
        assert max(ids.values(), default=1) == 1, ids

    @property
    def title(self) -> str:
        """Its only h1."""
        return self.root.one("h1").text

    @property
    def main(self) -> Node:
        """What is between bar and footer."""
        return self.root.one("main")

    @property
    def text(self) -> str:
        """What is to be read between bar and footer."""
        return self.main.text

    @property
    def said(self) -> str | None:
        """What an action had to say."""
        said = [node for node in self.main.all("p") if "said" in node.attributes.get("class", "")]
        return said[0].text if said else None

    def table(self, name: str | None = None) -> list[dict[str, str]]:
        """Return the rows of a table, each by the heads of its columns.

        Args:
            name: an id, or a part of the label, of the region or section that it is in; the only
                table otherwise.
        """
        tables = list((self.main if name is None else self.region(name)).all("table"))
        assert len(tables) == 1, f"{len(tables)} tables"
        heads = [cell.text for cell in tables[0].one("thead").all("th")]
        rows = [list(row.all("th", "td")) for row in tables[0].one("tbody").all("tr")]
        assert all(len(row) == len(heads) for row in rows), heads
        return [dict(zip(heads, (cell.text for cell in row), strict=True)) for row in rows]

    def region(self, name: str) -> Node:
        """Return the section, region or figure that has this id, or a label with these words."""
        titles = {node["id"]: node.text for node in self.root.all() if "id" in node.attributes}
        for node in self.main.all("section", "div", "figure", "article", "nav", "form"):
            said = node.attributes
            label = said.get("aria-label") or titles.get(said.get("aria-labelledby", ""), "")
            if said.get("id") == name or name in label:
                return node
        raise AssertionError(f"no region {name}")

    @property
    def links(self) -> list[tuple[str, str]]:
        """The links between bar and footer: what they say, and where they lead."""
        return [(node.text, node["href"]) for node in self.main.all("a")]

    def link(self, text: str) -> str:
        """Return where the first link that says this leads."""
        return next(href for words, href in self.links if words == text)

    @property
    def forms(self) -> list[Form]:
        """The forms between bar and footer."""
        return [self._form(node) for node in self.main.all("form")]

    @property
    def buttons(self) -> list[str]:
        """What stands on all buttons of forms."""
        return [label for form in self.forms for label in form.labels]

    def form(self, button: str, of: str | None = None) -> Form:
        """Return the form that has a button with this label, and this path, if it is named."""
        found = [
            form
            for form in self.forms
            if button in form.labels and (of is None or form.action.partition("?")[0] == of)
        ]
        assert len(found) == 1, (button, of, [(form.labels, form.action) for form in self.forms])
        return found[0]

    def _form(self, node: Node) -> Form:
        fields: dict[str, list[str]] = {}
        for control in node.all("input", "select", "textarea"):
            said = control.attributes
            if "name" not in said or "disabled" in said:
                continue
            kind = said.get("type", "text")
            if control.tag == "select":
                options = list(control.all("option"))
                chosen = [o for o in options if "selected" in o.attributes] or options[:1]
                values = [o.attributes.get("value", o.text) for o in chosen]
            elif control.tag == "textarea":
                text = "".join(child for child in control.children if isinstance(child, str))
                values = [text.removeprefix("\n")]
            elif kind in ("checkbox", "radio"):
                values = [said.get("value", "on")] if "checked" in said else []
            else:
                values = [said.get("value", "")] if kind not in ("submit", "button") else []
            fields.setdefault(said["name"], []).extend(values)
        return Form(
            node,
            urljoin(self.path, node.attributes.get("action") or self.path),
            node.attributes.get("method", "get").lower(),
            fields,
            [b for b in node.all("button") if b.attributes.get("type") != "button"],
        )


def look(client: FlaskClient, path: str, status: int = 200, **options: Any) -> Page:
    """Return the page at a path, which has to answer with this status."""
    answer = client.get(path, **options)
    assert answer.status_code == status, (answer.status_code, answer.get_data(as_text=True)[-3000:])
    return Page(answer)


def send(client: FlaskClient, form: Form, button: str | None = None, **values: Any) -> TestResponse:
    """Send a form as a browser does.

    Args:
        client: the test client.
        form: what ``Page.form`` returned.
        button: the label of the one that is pressed, where that makes a difference.
        values: of fields that it has, in place of what stands in them; a list for several, None
            for nothing.
    """
    assert set(values) <= set(form.fields), (sorted(values), sorted(form.fields))
    data: dict[str, Any] = dict(form.fields)
    for name, value in values.items():
        data[name] = value if isinstance(value, list) else [] if value is None else [value]
    pressed = form.buttons[form.labels.index(button)] if button else form.buttons[0]
    action = urljoin(form.action, pressed.attributes.get("formaction") or form.action)
    if "name" in pressed.attributes:
        data[pressed["name"]] = [pressed.attributes.get("value", "")]
    if form.method == "get":
        return client.get(action.partition("?")[0], query_string=data)
    return client.post(action, data=data, headers={"Origin": OURS})


def press(client: FlaskClient, form: Form, button: str | None = None, **values: Any) -> Page:
    """Send a form that does something, and return the page that says so."""
    answer = send(client, form, button, **values)
    assert answer.status_code == 303, (answer.status_code, answer.get_data(as_text=True)[-3000:])
    return look(client, urljoin(form.action, answer.headers["Location"]))
