"""A run of consecutive requests of a trace, as columns of numbers."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from operator import add


@dataclass(frozen=True, slots=True)
class Requests:
    """What `_core.Segment.replay` takes: a column is one number for all, or one for each request.

    ids: keys as 64-bit numbers ("Q").
    value_lens, key_lens: bytes ("I").
    times_s: moments in seconds ("I"), where the trace has them.
    """

    ids: "array[int]"
    value_lens: "int | array[int]"
    key_lens: "int | array[int]"
    times_s: "array[int] | None" = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def value_bytes(self) -> int:
        """Of all values together."""
        if isinstance(self.value_lens, int):
            return self.value_lens * len(self.ids)
        return sum(self.value_lens)

    def key_and_value_bytes(self) -> Iterator[int]:
        """Of each request."""
        count = len(self.ids)
        key_lens = repeat(self.key_lens, count) if isinstance(self.key_lens, int) else self.key_lens
        if isinstance(self.value_lens, int):
            return map(add, key_lens, repeat(self.value_lens, count))
        return map(add, key_lens, self.value_lens)
