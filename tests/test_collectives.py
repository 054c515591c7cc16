"""What compiled programs say of their collectives, on stored text and on eight host devices."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cosyjax import sharding
from cosyjax.analysis import chips, collectives, hlo
from cosyjax.layers.constrain import ROWS, constrain, shard_looked_up, shard_rows

# Short forms of what XLA writes: a loop of 24 rounds with a gather that overlaps two fusions (one collective in
# two computations, one chain), a reduce-scatter as TPUs spell it, an asynchronous pair, and a loop whose length
# is in its condition.
TEXT = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%first (p0: bf16[8,128], p1: f32[4]) -> (bf16[128,128], f32[4]) {
  %p0 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = f32[4]{0} parameter(1)
  %gather.1 = bf16[128,128]{1,0:T(8,128)(2,1)S(1)} all-gather(%p0), channel_id=7, replica_groups=mesh['axis_0'=16,'axis_1'=16] {'axis_1'}, dimensions={0}, frontend_attributes={chain_id="3"}
  ROOT %out = (bf16[128,128]{1,0}, f32[4]{0}) tuple(%gather.1, %p1)
}

%async_collective_fusion (p0: bf16[8,128]) -> bf16[128,128] {
  %p0 = bf16[8,128]{1,0} parameter(0)
  ROOT %gather.2 = bf16[128,128]{1,0} all-gather(%p0), channel_id=7, replica_groups=mesh['axis_0'=16,'axis_1'=16] {'axis_1'}, dimensions={0}, frontend_attributes={chain_id="3"}
}

%all-reduce-scatter.1 (p0: f32[128,128]) -> f32[8,128] {
  %p0 = f32[128,128]{1,0} parameter(0)
  %reduce.1 = f32[128,128]{1,0} all-reduce(%p0), channel_id=8, replica_groups=[16,16]<=[256], to_apply=%add
  ROOT %slice.1 = f32[8,128]{1,0} slice(%reduce.1), slice={[0:8], [0:128]}
}

%body (p: (s32[], f32[24,128,128], bf16[8,128])) -> (s32[], f32[24,128,128], bf16[8,128]) {
  %p = (s32[], f32[24,128,128]{2,1,0}, /*index=2*/bf16[8,128]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %stack = f32[24,128,128]{2,1,0} get-tuple-element(%p), index=1
  %w = bf16[8,128]{1,0} get-tuple-element(%p), index=2
  %f.1 = (bf16[128,128]{1,0}, f32[4]{0}) fusion(%w, %i), kind=kOutput, calls=%first
  %f.2 = bf16[128,128]{1,0} fusion(%w), kind=kOutput, calls=%async_collective_fusion
  %part = f32[1,128,128]{2,1,0} dynamic-slice(%stack, %i), dynamic_slice_sizes={1,128,128}
  %scattered = f32[8,128]{1,0} fusion(%part), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %next = (s32[], f32[24,128,128]{2,1,0}, bf16[8,128]{1,0}) tuple(%i, %stack, %w)
}

%until (p: (s32[], f32[24,128,128], bf16[8,128])) -> pred[] {
  %p = (s32[], f32[24,128,128]{2,1,0}, bf16[8,128]{1,0}) parameter(0)
  %limit = s32[]{:T(128)} constant(24)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%small (q: f32[4]) -> f32[4] {
  %q = f32[4]{0} parameter(0)
  ROOT %shift = f32[4]{0} collective-permute(%q), channel_id=1, source_target_pairs={{0,1},{1,0}}
}

%forever (q: f32[4]) -> pred[] {
  %q = f32[4]{0} parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (x: f32[24,128,128], w: bf16[8,128], v: f32[4]) -> f32[1000] {
  %x = f32[24,128,128]{2,1,0} parameter(0)
  %w = bf16[8,128]{1,0} parameter(1)
  %v = f32[4]{0} parameter(2)
  %zero = s32[] constant(0)
  %start = (s32[], f32[24,128,128]{2,1,0}, bf16[8,128]{1,0}) tuple(%zero, %x, %w)
  %loop = (s32[], f32[24,128,128]{2,1,0}, bf16[8,128]{1,0}) while(%start), condition=%until, body=%body
  %again = f32[4]{0} while(%v), condition=%forever, body=%small, backend_config={"known_trip_count":{"n":"5"}}
  %never = f32[4]{0} while(%v), condition=%forever, body=%small
  %wide = f32[1000]{0} broadcast(%v), dimensions={}
  %begin = f32[1000]{0} all-reduce-start(%wide), channel_id=2, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %end = f32[1000]{0} all-reduce-done(%begin)
  %pair = (f32[10]{0}, bf16[30]{0}) all-to-all(%v, %w), channel_id=5, replica_groups={{0,1},{2,3}}
  ROOT %copy = f32[1000]{0} copy(%end)
}
"""  # noqa: E501


def test_stored_program():
  program = hlo.parse(TEXT)
  assert program.times["body"] == 24 and program.times["small"] == 6 and program.times["first"] == 24
  assert program.unknown_loops == 1
  loops = {name for name in program.unknown if not name.startswith("add")}
  assert loops and "body" not in loops and "main" not in loops
  assert 0 < collectives.loop_traffic(program) < collectives.memory_traffic(program)
  assert {"first", "all-reduce-scatter.1"} <= program.fused and "body" not in program.fused

  found = collectives.by_kind(collectives.collectives(program, 256))
  gather, scatter = 128 * 128 * 2, 128 * 128 * 4
  assert found == {
    "all-reduce": {"count": 1, "bytes": 4000, "wire": 2 * 4000 * 3 / 4},
    "all-gather": {"count": 24, "bytes": 24 * gather, "wire": 24 * gather * 15 / 16},
    "reduce-scatter": {"count": 24, "bytes": 24 * scatter, "wire": 24 * scatter * 15 / 16},
    "all-to-all": {"count": 1, "bytes": 100, "wire": 50},
    "collective-permute": {"count": 6, "bytes": 6 * 16, "wire": 6 * 16},
  }


def test_memory_traffic_of_a_slice_is_the_slice():
  traffic = collectives.memory_traffic(TEXT)
  whole = 24 * 128 * 128 * 4
  rounds = 24 * (2 * 128 * 128 * 4)  # read and written by the slice
  assert rounds < traffic < 24 * whole / 4


def test_time_on_a_torus():
  chip = chips.CHIPS["TPU v5 lite"]
  gather = collectives.Collective("all-gather", 1.6e9, 16, 2.0)
  seconds = lambda one, torus: collectives.network_seconds([one], chip, torus)
  assert seconds(gather, (16, 16)) == pytest.approx(2 * 1.5e9 / 100e9)  # one axis, a ring
  assert seconds(gather, (8, 8)) == pytest.approx(2 * 1.5e9 / 100e9)  # two axes, but lines
  everywhere = collectives.Collective("all-reduce", 2.56e9, 256, 1.0)
  assert seconds(everywhere, (16, 16)) == pytest.approx(2 * 2.55e9 / 200e9)
  assert collectives.network_seconds([gather], chips.CHIPS["NVIDIA H200"], (8,)) == 0.0


def test_bound_on_utilisation():
  chip = chips.chip_of("TPU v5p")
  bound = collectives.mfu_bound(459e12, 918e12, 2765e9, 0.5, chip, chip.half)
  assert bound["compute"] == pytest.approx(2) and bound["memory"] == pytest.approx(1)
  assert bound["overlapped"] == pytest.approx(0.5) and bound["exposed"] == pytest.approx(0.4)


def test_compiled_program_and_constraints():
  """With the constraints parameters are gathered and less is sent than if activations follow the parameters."""
  x = jnp.ones((8, 4))
  assert shard_rows(x) is x  # no mesh
  mesh = sharding.make_mesh(data=2, fsdp=4)
  put = lambda shape, *spec, dtype=jnp.float32: jax.ShapeDtypeStruct(
    shape, dtype, sharding=NamedSharding(mesh, P(*spec))
  )
  table, w = put((1000, 64), None, "fsdp"), put((5, 64, 64), None, "fsdp", None)
  ids = put((16, 32), ROWS, dtype=jnp.int32)

  def loss(params, ids, where):
    table, w = params
    x = where(table[ids])
    x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)
    return jnp.sum(x * x)

  found = {}
  for name, where in (("free", lambda x: x), ("rows", shard_rows), ("looked_up", shard_looked_up)):
    step = jax.jit(jax.grad(functools.partial(loss, where=where)), out_shardings=(table.sharding, w.sharding))
    with jax.set_mesh(mesh):
      compiled = step.lower((table, w), ids).compile()
    found[name] = collectives.by_kind(collectives.collectives(compiled.as_text(), 8))
  with jax.set_mesh(mesh):  # sizes that do not divide, and axes that are not there, are left alone
    jax.jit(lambda x: shard_rows(x) + constrain(x, "pipeline", "data"))(jnp.ones((3, 5)))
  sent = {name: sum(row["wire"] for row in kinds.values()) for name, kinds in found.items()}
  # The compiler of JAX 0.11 finds the way of the looked-up vectors' gradient by itself: there the two are equal.
  assert sent["looked_up"] <= sent["rows"] < sent["free"], sent
  # Every layer's matrix is gathered for the forward pass and for the backward pass, and the width is 64.
  assert found["looked_up"]["all-gather"]["bytes"] >= 2 * 5 * 64 * 64 * 4


TILED = """HloModule m, is_scheduled=true

ENTRY %main (x: bf16[4,100,64]) -> f32[4,100,64] {
  %x = bf16[4,100,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %turned = bf16[4,100,64]{1,2,0:T(8,128)(2,1)} copy(%x), metadata={op_name="jit(f)/layer_3/transpose"}
  %near = bf16[4,100,64]{1,2,0:T(8,128)(2,1)S(1)} copy(%turned)
  ROOT %y = f32[4,100,64]{2,1,0} convert(%near), metadata={op_name="jit(f)/layer_12/convert"}
}
"""


def test_tiles_are_filled_up():
  x, turned, near, y = hlo.parse(TILED).computations["main"]
  assert x.results[0] == hlo.Array(bytes=4 * 100 * 64 * 2, fast=False, stored=4 * 104 * 128 * 2)
  assert turned.results[0].stored == 4 * 64 * 128 * 2 and near.results[0].fast
  assert y.results[0].stored == y.results[0].bytes  # no tiles
  found = collectives.traffic_by_source(TILED)
  assert found == {
    "jit(f)/layer_#/transpose": 4 * 104 * 128 * 2 + 4 * 64 * 128 * 2,
    "jit(f)/layer_#/convert": 4 * 100 * 64 * 4,
    "copy": 4 * 64 * 128 * 2,
  }
  assert sum(found.values()) == collectives.memory_traffic(TILED)
