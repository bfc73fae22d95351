"""The paged KV cache: blocks of tokens, shared by prefix, evicted least recently used first.

Only full blocks are shared. A block's key is the hash of its tokens chained with its predecessor's key, so
equal keys mean equal prefixes. A released block keeps its content until its space is needed.
Rule: the cache knows blocks and keys, never requests.
"""

from collections import OrderedDict
from collections.abc import Sequence


def extend_keys(
    keys: list[int], token_ids: Sequence[int], block_size: int, num_tokens: int, salt: int = 0
) -> None:
    """Append the keys of the full blocks among the first `num_tokens` tokens that `keys` lacks.

    Sequences with different salts share nothing.
    """
    for start in range(len(keys) * block_size, num_tokens - block_size + 1, block_size):
        parent = keys[-1] if keys else salt
        keys.append(hash((parent, *token_ids[start : start + block_size])))


class KVCache:
    """A pool of `num_blocks` blocks with reference counts."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        # Blocks get their number, and an entry in both lists, when they are first needed.
        self._references: list[int] = []
        self._key_of: list[int | None] = []
        self._block_of: dict[int, int] = {}
        self._released: OrderedDict[int, None] = OrderedDict()

    @property
    def num_free(self) -> int:
        """Blocks nobody refers to, whether or not they still hold a shareable prefix."""
        return self.num_blocks - len(self._references) + len(self._released)

    @property
    def usage(self) -> float:
        """Share of the blocks in use, 0 to 1."""
        return 1.0 - self.num_free / self.num_blocks

    def match(self, keys: Sequence[int]) -> list[int]:
        """The blocks that hold the longest cached prefix of `keys`."""
        blocks = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def fits(self, shared: Sequence[int], num_new: int) -> bool:
        """Whether `shared` can be acquired and `num_new` blocks allocated at the same time."""
        idle = sum(1 for block in shared if self._references[block] == 0)
        return num_new + idle <= self.num_free

    def acquire(self, shared: Sequence[int]) -> None:
        """Take one more reference on each of these cached blocks."""
        for block in shared:
            if self._references[block] == 0:
                del self._released[block]
            self._references[block] += 1

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks for new content; the caller has seen that they are free."""
        blocks = []
        for _ in range(count):
            if len(self._references) < self.num_blocks:
                blocks.append(len(self._references))
                self._references.append(1)
                self._key_of.append(None)
                continue
            block, _ = self._released.popitem(last=False)
            key = self._key_of[block]
            if key is not None:
                del self._block_of[key]
                self._key_of[block] = None
            self._references[block] = 1
            blocks.append(block)
        return blocks

    def share(self, block: int, key: int) -> None:
        """Make a full block findable; of two blocks with equal content the first stays the one shared."""
        if self._key_of[block] is None and key not in self._block_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def reset(self) -> bool:
        """Forget all content; False, and nothing is forgotten, while somebody refers to a block."""
        if self.num_free < self.num_blocks:
            return False
        self._block_of.clear()
        self._key_of = [None] * len(self._key_of)
        return True

    def release(self, blocks: Sequence[int]) -> None:
        """Give up one reference on each block of a sequence; its end is evicted before its beginning."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                self._released[block] = None
