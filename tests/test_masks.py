"""The four masks of the paper, written out."""

import jax.numpy as jnp
import numpy as np

from cosyjax.layers import masks


def _rows(mask) -> list[str]:
  return ["".join(str(int(x)) for x in row) for row in np.asarray(mask)]


def test_four_masks_written_out():
  mask = lambda chunk: _rows(masks.block_mask(masks.equal_blocks(6, chunk)))
  assert mask(0) == ["111111"] * 6
  assert mask(1) == ["100000", "110000", "111000", "111100", "111110", "111111"]
  assert mask(2) == ["110000", "110000", "111100", "111100", "111111", "111111"]
  assert mask(4) == ["111100"] * 4 + ["111111"] * 2


def test_padding_is_seen_by_no_valid_frame():
  blocks_BS = masks.pad_blocks(masks.equal_blocks(5, 0), jnp.array([3, 5]))
  mask = masks.block_mask(blocks_BS)
  assert _rows(mask[0]) == ["11100", "11100", "11100", "11111", "11111"]
  assert _rows(mask[1]) == ["11111"] * 5


def test_blocks_of_a_schedule_double_for_mel():
  blocks = jnp.array([0, 1, 1, 2], jnp.int32)
  np.testing.assert_array_equal(masks.repeat_blocks(blocks, 2), [0, 0, 1, 1, 1, 1, 2, 2])


def test_cache_mask_sees_past_slots_only():
  assert _rows(masks.causal_mask(jnp.array([2, 3]), jnp.array([0, 1, 2, 3, 4]))) == ["11100", "11110"]
