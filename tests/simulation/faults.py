"""What goes wrong in a schedule, drawn from its seed, and what its agents do."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from simulation.devices import BareDevice, Plan

if TYPE_CHECKING:
    from simulation.world import World

FAULTS_SECONDS = (0.5, 0.5, 0.5, 2.0)
STEPS_MAX = 500


def draw_plan(random: Random, request_id: str) -> Plan:
    """What one run does: three to fifteen events or so."""
    steps: list[str] = []
    for _ in range(random.choice((0, 1, 1, 2, 2, 3, 4))):
        kind = random.choice("ttddwwcegb")
        if kind == "d":
            steps.append(f"d{random.choice((1, 2, 4))}")
        elif kind == "w":
            steps.append(f"w{random.choice((0.0, 0.0005, 0.01, 0.1, 0.3, 0.8))}")
        else:
            steps.append(kind)
    if random.random() < 0.1:
        steps.append("x")
    if random.random() < 0.03:
        return Plan(request_id, 0.0, ["x"], 0.0)
    cancel = random.choice((0.0, 0.002, 0.03)) if random.random() < 0.12 else None
    return Plan(request_id, random.choice((0.0, 0.0, 0.001, 0.05)), steps, cancel)


async def cause(world: "World") -> None:
    """Let this schedule's faults happen; returns when they are over."""
    random = world.random
    count = random.choice((0, 1, 2, 2, 3, 3, 4))
    if random.random() < 0.4:
        world.weather.repeat = random.choice((0.0, 0.2))
        world.weather.reorder = random.choice((0.0, 0.5))
        world.weather.delay = random.choice((0.0, 0.05, 0.2))
    world.calm = not (count or world.weather.repeat or world.weather.reorder or world.weather.delay)
    kinds: tuple[Callable[[World], None], ...] = (
        _cut, _cut, _crash, _crash, _crash_at_step, _forget, _stall, _fill, _slow, _mute,
    )  # fmt: skip
    for _ in range(random.choice((0, 0, 1, 2))):
        world.loop.call_later(random.random() * 0.3, _scrape, world)
    seconds = random.choice(FAULTS_SECONDS)
    moments = sorted(random.random() ** 2 * seconds for _ in range(count))
    now = 0.0
    for moment in moments:
        await asyncio.sleep(moment - now)
        now = moment
        kind = random.choice(kinds)
        world.happened[kind.__name__.strip("_")] += 1
        kind(world)
    await asyncio.sleep(0.05)
    world.weather.repeat = world.weather.reorder = world.weather.delay = 0.0
    world.loop.at_step.clear()
    _heal(world)


def _cut(world: "World") -> None:
    """A socket is lost with what is in flight; the server learns of it, late, or only by the silence."""
    wires = [wire for wire in world.wires if not wire.cut]
    if wires:
        wire = world.random.choice(wires)
        server_notices = world.random.choice((0.0, 0.001, 0.05, None))
        wire.break_(server_notices=server_notices, client_notices=world.random.choice((0.0, 0.001, 0.05)))


def _crash(world: "World") -> None:
    world.crash()


def _crash_at_step(world: "World") -> None:
    """Between two steps, whichever they are."""
    world.loop.at_step.append((world.loop.steps + world.random.randrange(60), world.crash))
    world.loop.at_step.sort(key=lambda due: due[0])


def _forget(world: "World") -> None:
    """A device loses its memory and begins anew."""
    device = world.random.choice(world.devices)
    if not device.process.alive:
        return
    world.tell("forgets", device.process.name)
    device.die()
    world.loop.call_later(world.random.choice((0.0, 0.01, 0.2)), device.be_born)


def _stall(world: "World") -> None:
    """A client reads nothing for a while. It may be its program that does not, or its network."""
    wires = [wire for wire in world.wires if not wire.cut]
    if wires:
        wire = world.random.choice(wires)
        world.tell("stalls", wire.number)
        wire.stalled = True
        wire.answers_pings = world.random.random() < 0.5
        world.loop.call_later(world.random.choice((0.01, 0.1, 1.0, 2.5)), wire.unstall)


def _mute(world: "World") -> None:
    """A client reads, and neither acks nor resumes for a while."""
    bare = [device for device in world.devices if isinstance(device, BareDevice)]
    if bare:
        device = world.random.choice(bare)
        world.tell("falls mute", device.process.name)
        device.mute = True
        world.loop.call_later(world.random.choice((0.1, 1.0, 3.0)), device.speak_again)
        if world.random.random() < 0.2:  # while an incident that comes of it is open, perhaps
            world.loop.call_later(world.random.choice((1.0, 1.5)), world.crash)


def _slow(world: "World") -> None:
    """Each commit takes long for a while."""
    disk = world.disk
    disk.slow_seconds = world.random.choice((0.03, 0.2, 0.7, 1.5))
    world.tell("the disk is slow", disk.slow_seconds)
    world.loop.call_later(world.random.choice((0.01, 0.3, 1.0)), setattr, disk, "slow_seconds", 0.0)


def _scrape(world: "World") -> None:
    """Somebody reads the metrics, which flushes the ledgers of the open runs; no fault."""
    if world.server.process.alive:
        world.server.watch.flush_open_runs()


def _fill(world: "World") -> None:
    """The disk takes nothing for a while."""
    server = world.server
    if server.process.alive and server.listening and not world.disk.full:
        world.tell("the disk is full")
        server.process.context.run(server.fill_disk, world.disk)
        world.loop.call_later(world.random.choice((0.001, 0.05, 0.5)), _free, world)


def _free(world: "World") -> None:
    if world.disk.full:
        world.tell("the disk takes writes")
        server = world.server
        server.process.context.run(server.free_disk, world.disk)


def _heal(world: "World") -> None:
    """The disk takes writes, and fast ones. What was cut, killed or stalled comes back by itself, later."""
    world.disk.slow_seconds = 0.0
    _free(world)
