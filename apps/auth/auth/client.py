"""Who sends the current request: address and user agent, as little of them as serves its purpose."""

import ipaddress
from dataclasses import dataclass

from flask import request

MAX_USER_AGENT = 100  # characters: enough to recognise a browser


@dataclass(frozen=True)
class Client:
    """An address (None if it is not known), the network that throttling takes for one client, and a user agent.

    `neighbourhood` is the wider network that its next address is likely to be from: a site's or a provider's.
    """

    address: str | None
    network: str | None
    user_agent: str | None

    @property
    def neighbourhood(self) -> str | None:
        if self.address is None:
            return None
        prefix = 24 if ipaddress.ip_address(self.address).version == 4 else 48
        return str(ipaddress.ip_network((self.address, prefix), strict=False))


def current() -> Client:
    """The current request's client. Behind the edge it is the edge that names the address (see `create_app`)."""
    user_agent = "".join(filter(str.isprintable, request.user_agent.string))[:MAX_USER_AGENT] or None
    try:
        address = ipaddress.ip_address(request.remote_addr or "")
    except ValueError:
        return Client(None, None, user_agent)
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or ipaddress.IPv6Address(int(address))  # without the scope, which inet has not
    # Whoever has one IPv6 address has a /64 of them.
    network = ipaddress.ip_network((address, 32 if address.version == 4 else 64), strict=False)
    return Client(str(address), str(network), user_agent)
