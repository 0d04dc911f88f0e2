"""One audited replication: everything published by one path, its facts recorded and analysed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from execbench.contract import Image, Proc, Region, Request, Setting
from execbench.kernel.facade import Kernel
from execbench.record.audit import FactLog, Findings, Platform, analyse
from execbench.simulate import World

RELOCATIONS: Final = 64
"""Separate writes of one image that an audited replication makes at most, evenly spread as all of them would be.

A module has thousands, each a store and perhaps a window of its own, and no rule tells one from the next.
"""


def replay(
    spec: dict[str, Any], replication: int, via: str | None = None, plugins: Mapping[str, str] | None = None,
    change: Callable[[World], None] = lambda world: None,
) -> tuple[Findings, Any]:  # fmt: skip
    """Run one replication with its facts recorded; return what they permit, and the replication's record.

    `via` is the path by which everything is published, None the clients' own. `change` may alter the world before it
    runs, as tests do to break it.
    """
    world = world_of(spec, replication, plugins or {}, via)
    change(world)
    log = FactLog()
    world.machine.probe.attach(log)
    world.backend = _Told(few(world).backend, log)
    record = world.run()
    return analyse(log, platform_of(spec, world)), record


def platform_of(spec: Mapping[str, Any], world: World) -> Platform:
    """Return what the analysis must know of the machine and the API besides the facts."""
    machine = spec["machine"]
    return Platform(
        machine["arch"],
        machine.get("features", {}),
        retries=spec["backend"]["params"].get("sync") == "trap-and-retry",
        page=machine["kernel"].get("page_size", 4096),
        cpus=machine["topology"]["cpus"],
        tasks_rcu=world.machine.flavours.tasks is not None,
    )


def world_of(spec: dict[str, Any], replication: int, plugins: Mapping[str, str], via: str | None) -> World:
    """Return one replication under construction, in which everything is published by `via`, or as clients do (None)."""
    world = World(spec, replication, plugins)
    if via is not None:
        world.clients = [_Published(client, via) for client in world.clients]
    return world


def few(world: World) -> World:
    """Return the world; its backend writes RELOCATIONS of an image at most from now on."""
    world.backend = _Few(world.backend)
    return world


class _Published:
    """A client whose text is published by a given path."""

    def __init__(self, client: Any, via: str) -> None:
        self._client = client
        self._via = via

    def start(self, setting: Setting) -> None:
        setting.publication = self._via
        self._client.start(setting)


class _Around:
    """A backend with something around its calls of `write`."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def alloc(self, k: Kernel, s: Any, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        return self._backend.alloc(k, s, reqs)  # type: ignore[no-any-return]


class _Few(_Around):
    """A backend that is given RELOCATIONS of an image at most."""

    def write(self, k: Kernel, s: Any, region: Region, image: Image) -> Proc[None]:
        few = replace(image, patches=min(image.patches, RELOCATIONS))
        return self._backend.write(k, s, region, few)  # type: ignore[no-any-return]


class _Told(_Around):
    """A backend whose calls of `write` are facts: what it does not store at its address lies in plain memory."""

    def __init__(self, backend: Any, log: FactLog) -> None:
        super().__init__(backend)
        self._log = log

    def write(self, k: Kernel, s: Any, region: Region, image: Image) -> Proc[None]:
        self._tell(k, region, True)
        yield from self._backend.write(k, s, region, image)
        self._tell(k, region, False)

    def _tell(self, k: Kernel, region: Region, begins: bool) -> None:
        hear = self._log.verb  # type: ignore[attr-defined]
        k.task.cpu.mark(lambda at: hear(at, k.task, "write", region, begins))
