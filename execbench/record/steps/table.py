"""Steps as rows of text: each primitive under the name that kernel developers use, with what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from execbench.record.steps.fold import Item, Row, folded
from execbench.record.steps.sink import GONE, Step
from execbench.record.steps.vocabulary import vocabulary

VERB, EFFECT = 70, 46
"""Widths of the columns."""


@dataclass(slots=True)
class _Line:
    """One step while it is put together; `names` are the primitive itself and those that say more about it.

    key: whose evidence holds for the step: its own, or that of why it is taken.
    """

    depth: int
    names: list[str]
    verb: str
    key: str
    how: str = ""
    tags: list[str] = field(default_factory=list)
    times: int = 1
    effects: dict[str, int] = field(default_factory=dict)
    held: bool = False
    ended: bool = False

    def row(self) -> Row:
        """How and what and why, and what came of it."""
        words = vocabulary()[self.names[0]]
        how = self.how or words.by.get("", "")
        verb = " ".join([f"{how}: {self.verb}" if how else self.verb, *(f"[{tag}]" for tag in self.tags)])
        effects = (f"{effect} x{n}" if n > 1 else effect for effect, n in self.effects.items())
        return Row(self.depth, verb, self.times, "; ".join(effects), self.key, words.behind)

    def came(self, effect: str, store: bool = False) -> None:
        """Something came of it; stores are counted."""
        self.effects[effect] = self.effects.get(effect, 0) + 1 if store else 1


def path_of(steps: Iterable[Step]) -> tuple[Item, ...]:
    """Return a path as rows; KeyError for a primitive that the vocabulary does not know.

    Locks indent what is done under them. A primitive that says how the one before is done comes before its name, one
    that says why in brackets behind it. What came of a step stands beside it, or, when the block that it opened has
    ended, beside a row that says so.
    """
    lines: list[_Line] = []
    for step in steps:
        match step.what:
            case "release":
                _release(lines, step)
            case "effect":
                _effect(lines, step)
            case _:
                if not _part_of_last(lines, step):
                    lines.append(_line(step))
    return folded([line.row() for line in lines])


def _line(step: Step) -> _Line:
    verb = vocabulary()[step.name].verb.format(n=step.n, text=step.text)
    line = _Line(step.depth, [step.name], verb, step.name, held=step.what == "take")
    if step.irqs_off and (line.held or step.name.startswith("fact:store")):
        line.verb += ", irqs off"
    return line


def _part_of_last(lines: list[_Line], step: Step) -> bool:
    """Let a step that is how or why the one before is done, or the store that it makes, go into its line."""
    if not lines or step.what == "take":
        return False
    last, words = lines[-1], vocabulary()[step.name]
    of_last = vocabulary()[last.names[0]]
    if step.name.startswith("fact:") and "store" in step.name and of_last.takes_stores:
        last.came(_irqs(step), store=True)
    elif step.name in of_last.by and (not last.how or last.names[-1] == words.instead_of):
        _done_by(lines, step, of_last.by[step.name])
    elif words.rest_of and last.names[-1].startswith(words.rest_of):
        pass
    elif words.tag:
        last.tags.append(words.verb.format(n=step.n))
        last.key = step.name
    else:
        return False
    lines[-1].names.append(step.name)
    return True


def _done_by(lines: list[_Line], step: Step, how: str) -> None:
    """`step` is how the last line is done, or, with as many units as there are equal lines, how each of them is."""
    last, n = lines[-1], step.n
    run = lines[-n:]
    if n > 1 and len(run) == n and all(line.row() == last.row() for line in run):
        del lines[-n:-1]
        last.times, n = n, 1
    last.how = how.format(n=n)


def _release(lines: list[_Line], step: Step) -> None:
    line = next(line for line in reversed(lines) if line.held and line.names[0] == step.name)
    line.held, line.ended = False, True
    if line is lines[-1] and not step.n and not line.effects:
        line.verb = vocabulary()[step.name].passed or line.verb


def _effect(lines: list[_Line], step: Step) -> None:
    """Put an effect to its line; a writable alias that goes where it came is no more than how a store is made."""
    last = lines[-1]
    if step.depth < last.depth or last.ended:
        around = [line for line in lines if line.depth == step.depth]
        opened = next((line for line in reversed(around) if step.cause in line.names), around[-1])
        last = _Line(step.depth, [opened.names[0]], f"end of {opened.verb}", opened.key)
        lines.append(last)
    if step.name == "window" and last.effects.pop(step.text.removesuffix(GONE), 0):
        return
    last.came(_irqs(step), store=step.name == "store")
    last.how = last.how or vocabulary()[last.names[0]].by.get(step.cause, "")


def _irqs(step: Step) -> str:
    return f"{step.text}, irqs off" if step.irqs_off and "store" in step.name else step.text


def text_of(path: Iterable[Item], architectures: Sequence[str], releases: Sequence[str], level: int = 0) -> list[str]:
    """Return the lines of a path: step, effect, and the evidence that bears on these architectures and releases."""
    lines = []
    for item in path:
        indent = "  " * (level + item.depth)
        if isinstance(item, Row):
            verb = f"{indent}{item.verb}{f' x{item.times}' if item.times > 1 else ''}"
            evidence = vocabulary()[item.key].source(architectures, releases)
            lines.append(f"{verb:<{VERB}}  {item.effects:<{EFFECT}}  {evidence}".rstrip())
        else:
            lines.append(f"{indent}{item.times} times:")
            lines += text_of(item.rows, architectures, releases, level + 1)
    return lines
