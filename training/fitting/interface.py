"""The address of node 0 -> the network interface through which this process meets the others.

gloo announces the address that the machine's own name resolves to. Debian and Ubuntu resolve it to 127.0.1.1
(/etc/hosts), where no other machine finds it, so the interface that leads to node 0 is named instead.
"""

import fcntl
import os
import socket
import struct
from ipaddress import ip_address

from contracts.errors import InputError

CHOSEN = "GLOO_SOCKET_IFNAME"
"""Environment variable of gloo; who sets it has chosen."""
SIOCGIFADDR = 0x8915
NAME_BYTES, ADDRESS = 16, slice(20, 24)  # of the kernel's struct ifreq


def choose_interface() -> None:
    """Set CHOSEN, unless it is set. Raises InputError if this machine knows node 0 by an address of its own alone."""
    named, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if os.environ.get(CHOSEN):
        return
    ours = _address_towards(named, port)
    if ours is None:
        return
    if ip_address(ours).is_loopback and not _is_loopback(named):
        raise InputError(
            f"--master-addr {named} leads to {ours} on {socket.gethostname()} (see /etc/hosts), where no other machine "
            "finds it. Give node 0's address in the network that all nodes share, or name that network's interface: "
            f"{CHOSEN}=eth0."
        )
    if (name := _interface_of(ours)) is not None:
        os.environ[CHOSEN] = name


def _address_towards(host: str, port: int) -> str | None:
    """The IPv4 address from which this machine sends to a host; None where there is none. Nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))
            return probe.getsockname()[0]
    except OSError:
        return None


def _interface_of(address: str) -> str | None:
    """The interface with this IPv4 address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            asked = struct.pack(f"{NAME_BYTES}s240x", name.encode())
            try:
                told = fcntl.ioctl(probe, SIOCGIFADDR, asked)
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(told[ADDRESS]) == address:
                return name
    return None


def _is_loopback(named: str) -> bool:
    """Whether the name itself says so: all processes are on one machine."""
    try:
        return ip_address(named).is_loopback
    except ValueError:
        return named == "localhost"
