"""The API as a client in this process, as a server, and a browser for its pages."""

from tests.api.conftest import client, server, start_server
from tests.browser import browser

__all__ = ["browser", "client", "server", "start_server"]
