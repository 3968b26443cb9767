"""Searching for a recipe's knobs, and remembering what was found.

    space       what may vary, declared beside the recipe
    meta        what is known of a task before anything is trained
    memory      what every run and trial found, on the storage, for all that come later
    surrogate   the result that a configuration will have on a task, and how sure that is
    proposals   where to look next
    adaptive    a recipe with the knobs that a run finds; adapting makes it real

A recipe file needs `from raykd.search import Adaptive, Choice, Range, searched` at most.
"""

from raykd.search.adaptive import Adaptive
from raykd.search.space import Choice, Range, Space, searched, space_of

__all__ = ["Adaptive", "Choice", "Range", "Space", "searched", "space_of"]
