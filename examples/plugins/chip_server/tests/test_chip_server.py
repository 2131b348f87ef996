"""A chip in another process: the products of the tiles, clear failures, and nothing lost when it dies on the way."""

import subprocess
import sys
from pathlib import Path

import mho_chipserver
import pytest
import torch
from mho_chipserver import ChipServer
from mho_kit import contract_of, run
from torch import nn

import mho

TOY = Path(mho_chipserver.__file__).with_name("toy_chip.py")
HW = """
mho: 1
default: t
tiles:
  t:
    rows: 7
    columns: 4
    dac: {{bits: 8}}
    adc: {{bits: 8, bound: 10}}
    nonidealities: [{{kind: pcm.programming_noise}}, {{kind: chipserver.product, port: {port}, timeout: {timeout} s}}]
training: {{backward: {{mode: ste}}, clip: none, remap: 1 step}}
"""


class Toy:
    """The toy chip as a process of its own, on a port that is free."""

    def __init__(self, gain=1.0, delay=0.0, port=0):
        command = [sys.executable, str(TOY), str(port), str(gain), str(delay)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def toy():
    made = []

    def make(**about):
        made.append(Toy(**about))
        return made[-1]

    yield make
    for server in made:
        server.kill()
    for connection in list(mho_chipserver.Connection.open.values()):
        connection.forget()


@pytest.fixture(autouse=True)
def registered(own_registry):
    own_registry.load_file(mho_chipserver.__file__)


def network(port, timeout=5.0):
    torch.manual_seed(0)
    hw = mho.Hardware.from_yaml(HW.format(port=port, timeout=timeout))
    return mho.to_analog(nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)), hw).eval()


def x(n=16):
    return torch.rand(n, 12, generator=torch.Generator().manual_seed(1))


def test_the_chip_elsewhere_computes_the_product_and_nothing_else(toy):
    """With gain 1 the network is the one without it, converters and chips included; with gain 0.5 its outputs fall"""
    ours, half = network(toy().port), network(toy(gain=0.5).port)
    plain = mho.to_analog(mho.to_digital(ours), ours[0].tiles.session.hardware.varied(without="chipserver.product")).eval()
    for net in (ours, half, plain):
        mho.program(net, seed=0)
    assert torch.allclose(ours(x()), plain(x()), atol=2e-2) and (ours(x()) - half(x())).abs().max() > 0.05
    assert torch.allclose(ours(x(3)), ours(x())[:3])


def test_a_training_runs_with_it_in_the_loop(toy):
    net = network(toy().port).train()
    optimizer, y = torch.optim.Adam(net.parameters(), lr=0.02), x() @ torch.ones(12, 3)
    mho.attach(optimizer, net, steps_per_epoch=5)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (net(x()) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2


def test_killed_in_the_middle_it_says_so_and_nothing_is_lost(toy):
    """The chips before are kept, and the same call goes on to the result that an undisturbed one has"""
    server, kept = toy(), {}
    net = network(server.port)

    def score(net):
        return float(net(x()).mean())

    def keep(k, scores):
        kept[k] = scores
        if k == 1:
            server.kill()

    with pytest.raises(mho.MhoError, match=r"went away in the middle of a product.*kept: start it again and repeat"):
        mho.evaluate(net, score, ["1 s", "1 h"], chips=4, on_chip=keep)
    assert sorted(kept) == [0, 1]
    with pytest.raises(mho.MhoError, match=f"no chip server answers at 127.0.0.1:{server.port}.*start it"):
        mho.evaluate(net, score, ["1 s", "1 h"], chips=4, done=dict(kept))
    toy(port=server.port)
    resumed = mho.evaluate(net, score, ["1 s", "1 h"], chips=4, done=dict(kept))
    assert resumed.scores == mho.evaluate(net, score, ["1 s", "1 h"], chips=4).scores
    assert resumed.scores[:2] == (kept[0], kept[1])


def test_a_silent_server_is_not_waited_for_for_ever(toy):
    with pytest.raises(mho.MhoError, match=r"was silent for 0\.3 s; raise timeout"):
        network(toy(delay=3.0).port, timeout=0.3)(x())


def test_a_server_that_refuses_is_quoted(toy):
    connection = mho_chipserver.Connection.to("127.0.0.1", toy().port, 5.0)
    with pytest.raises(mho.MhoError, match=r"refuses: inputs \(2, 1, 3\) do not fit the matrix \(1, 5, 4\)"):
        connection.product(torch.zeros(2, 1, 3).numpy(), torch.zeros(1, 5, 4).numpy())


@pytest.mark.slow
def test_it_keeps_the_contract_but_for_what_it_declares(toy):
    outcomes = run(contract_of(ChipServer(port=toy().port)))
    assert [(o.check, o.message) for o in outcomes if o.state == "failed"] == []
    assert {o.check for o in outcomes if o.state == "expected"} == set(ChipServer.expected_failed_checks)
