"""A process of a training meets the others where it reaches node 0, not where its machine's own name leads."""

import pytest

from tests.clones import ROOT
from tests.machines.machines import Machine

pytestmark = pytest.mark.xdist_group("machines")

CHOOSES = """
import os, sys
from contracts.errors import InputError
from training.fitting.interface import CHOSEN, choose_interface
os.environ |= {"MASTER_ADDR": sys.argv[1], "MASTER_PORT": "29500"}
try:
    choose_interface()
    print(os.environ.get(CHOSEN))
except InputError as error:
    print(error)
"""


def chosen(machine: Machine, node_0: str, *variables: str) -> str:
    return machine.run("env", *variables, str(ROOT / ".venv/bin/python"), "-c", CHOOSES, node_0).strip()


def test_the_interface_is_the_one_that_leads_to_node_0(machines) -> None:
    one, two = machines(2)
    assert chosen(one, one.address) == "eth0"
    assert chosen(two, one.address) == "eth0"
    assert chosen(one, "127.0.0.1") == chosen(one, "localhost") == "lo", "all processes are on this machine"
    assert chosen(two, one.address, "GLOO_SOCKET_IFNAME=eth7") == "eth7", "who sets it has chosen"
    assert chosen(two, "198.51.100.1") == "None", "no way leads there: gloo says so"


def test_a_name_of_node_0_that_leads_back_to_the_machine_itself_is_refused(machines) -> None:
    (one,) = machines(1)
    said = chosen(one, "machine1")
    assert "--master-addr machine1 leads to 127.0.0.1 on machine1 (see /etc/hosts)" in said
    assert "Give node 0's address in the network that all nodes share" in said
