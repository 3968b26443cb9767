"""What a pickle would build, told from its opcodes before any of it is built.

    ((((...))))                   a tuple in a tuple ...: to hash it recurses in C, and a million levels end the process
    (t, t) of (t, t) of ...       2^n leaves in 3 n bytes: to hash it never ends
    memo 4294967295               room for so many places is made at once

A restricted unpickler refuses code and lets these through, because they are plain values. Only tuples count: what holds other
objects and can be hashed is one. A pickle that cannot be followed to its end is refused as well.
"""

from __future__ import annotations

import pickletools
from typing import IO

DEPTH = 100
"""Tuples in each other, at most."""
REPEATED = 10_000_000
"""Objects that a pickle may refer to again instead of holding them, counted each time with all that is in them."""

Size = tuple[int, int]
"""Objects in it, itself included; tuples in each other. Of what is no tuple, that of the largest tuple in it."""
ONE: Size = (1, 0)
MARK: Size = (0, 0)


def check_pickle(file: IO[bytes]) -> None:
    """Read the next pickle of a file, which then stands behind it. Builds nothing, but for the numbers and texts in it.

    Raises `ValueError` for one that must not be loaded, whatever the unpickler refuses.
    """
    stack: list[Size] = []
    memo: dict[int, Size] = {}
    repeated = steps = 0
    try:
        for steps, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            name = opcode.name
            if name == "MARK":
                stack.append(MARK)
            elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                place = len(memo) if name == "MEMOIZE" else int(argument or 0)
                if not 0 <= place <= 2 * steps + 100:
                    raise ValueError(f"it asks for {place} places in memory after {steps} steps")
                memo[place] = stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET", "DUP"):
                stack.append(stack[-1] if name == "DUP" else memo[int(argument or 0)])
                repeated += stack[-1][0]
            else:
                _step(opcode, stack)
            if repeated > REPEATED or (stack and stack[-1][1] > DEPTH):
                raise ValueError(f"it holds tuples in each other, {stack[-1][1]} deep and of {repeated} objects")
    except (IndexError, KeyError, OverflowError, MemoryError, RecursionError) as error:
        raise ValueError(f"it is no whole pickle: {type(error).__name__} at step {steps}") from error


def _step(opcode: pickletools.OpcodeInfo, stack: list[Size]) -> None:
    """Any other opcode: takes so many objects from the stack, and puts some there."""
    taken: list[Size] = []
    before = [each.name for each in opcode.stack_before]
    if opcode.name == "POP" and stack[-1] is MARK:
        stack.pop()
        return
    if "mark" in before:
        while (top := stack.pop()) is not MARK:
            taken.append(top)
        before = before[: before.index("mark")]
    taken += [stack.pop() for _ in before]
    if opcode.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"):
        stack.append((1 + sum(count for count, _ in taken), 1 + max((depth for _, depth in taken), default=0)))
    else:
        largest = max(taken, default=ONE)
        deepest = max((depth for _, depth in taken), default=0)
        stack.extend([(max(largest[0], 1), deepest)] * len(opcode.stack_after))
