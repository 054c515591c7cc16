"""Streaming vocoder: equal to one pass; the upstream cross-fade equals its golden file; both in batches of slots."""

import dataclasses
import functools
import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import engine, table_flow, table_vocoder
from convert.read_pt import read_pt
from convert.read_yaml import read_yaml
from cosyjax.audio import mel_spectrogram
from cosyjax.config import AudioConfig, cosyvoice2
from cosyjax.errors import ConfigError
from cosyjax.evaluation.seams import seam_ratios
from cosyjax.flow.flow_model import Flow, init_arguments
from cosyjax.flow.generate import generate
from cosyjax.flow.noise import noise_table
from cosyjax.layers.basic import unbox
from cosyjax.vocoder.chunk_vocoder import Exact
from cosyjax.vocoder.hift import Vocoder
from cosyjax.vocoder.receptive_field import receptive_field
from cosyjax.vocoder.source import phase_steps, request_phase_noise, sample_cycles
from tests import upstream
from tests.upstream import CrossFade

HOP = AudioConfig().hop
CONFIG = cosyvoice2().vocoder

H = 9  # harmonics of the small release
SLOTS, BATCH, FRAMES = 4, 3, 40  # rows of a state, rows of a step, most new frames in a step


@pytest.fixture(scope="module")
def released(release):
  """(module, parameters) of the small release."""
  tensors = engine.fold_weight_norm(read_pt(release / "hift.pt"))
  config = table_vocoder.config_of(read_yaml(release / "cosyvoice2.yaml"), tensors)
  module = Vocoder(config)
  args = (jnp.zeros((1, 2, 80)), jnp.array([2]), jnp.zeros((1, H)), jnp.zeros((1, 2 * HOP, H)))
  abstract = jax.eval_shape(lambda k: unbox(module.init(k, *args)["params"]), jax.random.key(0))
  return module, engine.convert("vocoder", tensors, table_vocoder.table(config), abstract).params


@pytest.fixture(scope="module")
def vocoder(released):
  """Of the blocks side by side only those that look farthest: as far as all, and compiled in half the time."""
  config, params = released[0].config, flax.traverse_util.flatten_dict(released[1], sep="/")
  widest = max(range(len(config.resblock_kernels)), key=lambda j: config.resblock_kernels[j])
  few = {name: (values[widest],) for name, values in vars(config).items() if name.startswith("resblock_")}
  narrow = dataclasses.replace(config, **few)
  assert receptive_field(narrow) == receptive_field(config)
  kept = {re.sub(rf"/block_(\d)_{widest}/", r"/block_\1_0/", name): leaf for name, leaf in params.items()
          if not re.search(rf"/block_\d_[^{widest}]/", name)}  # fmt: skip
  return Vocoder(narrow), flax.traverse_util.unflatten_dict(kept, sep="/")


@pytest.fixture(scope="module")
def mel(recordings):
  """The prompt recording's mel [174, M]."""
  wave, _ = recordings["prompt"]
  mel_BTM, lengths = mel_spectrogram(wave[None], jnp.array([len(wave)]), AudioConfig())
  return np.asarray(mel_BTM[0, : lengths[0]])


def in_one_pass(module):
  """Audio of whole utterances: (params, mels [T, M], keys) -> arrays [A]."""

  @jax.jit
  def run(params, mel_BTM, lengths_B, keys_B):
    draw = lambda key: request_phase_noise(key, mel_BTM.shape[1], CONFIG)
    return module.apply({"params": params}, mel_BTM, lengths_B, *jax.vmap(draw)(keys_B))[0]

  def whole(params, mels, keys):
    mel_BTM = np.zeros((8, 180, 80), np.float32)
    for row, m in enumerate(mels):
      mel_BTM[row, : len(m)] = m
    lengths = [len(m) for m in mels] + [1] * (8 - len(mels))
    wave = run(params, mel_BTM, jnp.array(lengths), jnp.concatenate([keys, jax.random.split(keys[0], 8 - len(keys))]))
    return [np.asarray(wave[row, : len(m) * HOP]) for row, m in enumerate(mels)]

  return whole


@pytest.fixture(scope="module")
def offline(vocoder):
  return in_one_pass(vocoder[0])


@functools.cache
def compiled(scheme, zero_noise=False):
  return jax.jit(functools.partial(scheme.step, Vocoder(scheme.config), zero_noise=zero_noise))


def stream(scheme, params, mel, cuts, key=None, frames=FRAMES):
  """Packets of one utterance, in a slot of its own; the last of `cuts` is the last step."""
  assert sum(cuts) == len(mel)
  state, at, packets = scheme.empty(SLOTS), 0, []
  keys = None if key is None else jnp.stack([key] * BATCH)
  for i, count in enumerate(cuts):
    new = np.full((BATCH, frames, 80), np.nan, np.float32)  # nothing past the new frames may be read
    new[0, :count] = mel[at : at + count]
    args = (jnp.array([1, SLOTS, SLOTS]), new, jnp.array([count, 0, 0]), jnp.array([i == len(cuts) - 1, False, False]))
    state, wave, samples = compiled(scheme, key is None)(params, state, *args, keys)
    assert not np.any(wave[0, int(samples[0]) :])
    packets.append(np.asarray(wave[0, : int(samples[0])]))
    at += count
  return packets


def serve(scheme, params, mels, keys, seed=0):
  """Audio of many utterances through few slots: random mates, cuts and steps with nothing; slots are used again."""
  rng = np.random.default_rng(seed)
  step, state = compiled(scheme), scheme.empty(SLOTS)
  waiting, slot_of, at = list(range(len(mels))), {}, [0] * len(mels)
  packets = [[] for _ in mels]
  while waiting or slot_of:
    while waiting and len(slot_of) < SLOTS - 1:
      free = [s for s in range(SLOTS) if s not in slot_of.values()]
      slot_of[waiting[0]] = int(rng.choice(free))
      waiting.pop(0)
    chosen = [int(i) for i in rng.permutation(list(slot_of))[: BATCH - 1]]
    rows, lengths, last = np.full(BATCH, SLOTS, np.int32), np.zeros(BATCH, np.int32), np.zeros(BATCH, bool)
    new = np.full((BATCH, FRAMES, 80), np.nan, np.float32)
    group = [keys[0]] * BATCH
    for row, i in enumerate(chosen):
      left = len(mels[i]) - at[i]
      count = min(int(rng.choice([0, 1, 7, 23, FRAMES])), left)
      rows[row], lengths[row], group[row] = slot_of[i], count, keys[i]
      new[row, :count] = mels[i][at[i] : at[i] + count]
      at[i] += count
      last[row] = at[i] == len(mels[i]) and rng.random() < 0.7  # else a flush follows, with no frames
    args = (jnp.array(rows), new, jnp.array(lengths), jnp.array(last) if last.any() else None, jnp.stack(group))
    state, wave, samples = step(params, state, *args)
    for row, i in enumerate(chosen):
      packets[i].append(np.asarray(wave[row, : int(samples[row])]))
      if last[row]:
        del slot_of[i]
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(state))  # each row is empty once its utterance has ended
  return [np.concatenate(p) for p in packets]


# What the network sees.


def test_reach_is_what_the_network_sees(released, mel):
  """Gradients end where `receptive_field` says, and not before."""
  module, params = released
  r, at, T = receptive_field(module.config), 24, 48
  lengths, keys = jnp.array([T]), jax.random.key(0)
  apply = lambda method, *a: module.apply({"params": params}, *a, method=method)
  mel_BTM = mel[None, 60 : 60 + T]
  noise = request_phase_noise(keys, T, CONFIG)[1][None]
  source = apply(Vocoder.source, apply(Vocoder.f0, mel_BTM, lengths), jnp.zeros((1, H)), noise)

  @jax.jit
  def gradients(weights_A):
    audio = lambda m, s: apply(Vocoder.generate, m, s, lengths)[0, at * HOP : (at + 1) * HOP] @ weights_A
    f0 = lambda m: apply(Vocoder.f0, m, lengths)[0, at]
    return *jax.grad(audio, argnums=(0, 1))(mel_BTM, source), jax.grad(f0)(mel_BTM)

  ends = [np.eye(HOP, dtype=np.float32)[[i]].sum(0) for i in (0, HOP - 1)]
  seen = [sum(np.abs(np.asarray(g)) for g in parts) for parts in zip(*map(gradients, ends), strict=True)]
  span = lambda g: (int(np.nonzero(g)[0][0]), int(np.nonzero(g)[0][-1]))
  assert span(seen[0][0].sum(-1)) == (at - r.mel[0], at + r.mel[1])
  assert span(seen[1][0]) == (at * HOP - r.source[0], (at + 1) * HOP - 1 + r.source[1])
  assert span(seen[2][0].sum(-1)) == (at - r.f0, at + r.f0)


def test_full_size_looks_as_far(released):
  small, full = receptive_field(released[0].config), receptive_field(cosyvoice2().vocoder)
  assert small == full
  assert (full.context, full.lookahead) == (15, 20)
  assert full.mel == (14, 14)  # without f0 it would wait for 14


def test_phase_continues_bit_for_bit():
  f0 = np.random.default_rng(0).uniform(0, 500, (2, 30)).astype(np.float32)
  phase = jnp.array([[0.0, 0.3, -0.2]] * 2)
  whole = np.asarray(sample_cycles(f0, phase, CONFIG))
  before = jnp.sum(phase_steps(f0[:, :11], CONFIG.sample_rate), axis=1, dtype=jnp.uint32)
  rest = np.asarray(sample_cycles(f0[:, 11:], phase, CONFIG, before))
  np.testing.assert_array_equal(rest[:, HOP // 2 :], whole[:, 11 * HOP + HOP // 2 :])


def test_noise_begins_at_any_frame():
  key = jax.random.key(4)
  whole, part = request_phase_noise(key, 9, CONFIG)[1], request_phase_noise(key, 3, CONFIG, first=jnp.int32(5))[1]
  np.testing.assert_array_equal(part, whole[5 * HOP : 8 * HOP])


def test_a_part_of_the_audio_is_that_of_the_whole(vocoder, mel):
  module, params = vocoder
  lengths, source = jnp.array([48]), np.sin(np.arange(48 * HOP, dtype=np.float32) / 30)[None] * 0.1
  run = lambda *part: module.apply({"params": params}, mel[None, :48], source, lengths, *part, method="generate")
  whole, part = jax.jit(run)(), jax.jit(lambda start: run((start, 18)))
  for first in (0, 2, 17, 30):
    part_A = part(jnp.array([first]))
    np.testing.assert_allclose(part_A, whole[:, first * HOP : (first + 18) * HOP], rtol=0, atol=1e-5)


# Exact streaming.


@pytest.mark.parametrize("seed", [0, 1])
def test_exact_stream_is_one_pass(vocoder, offline, mel, seed):
  module, params = vocoder
  mels = [mel, mel[50:111], mel[30:31], mel[90:120], mel[:20], mel[100:121]]
  keys = jax.random.split(jax.random.key(seed), len(mels))
  streamed = serve(Exact(module.config), params, mels, keys, seed=seed)
  for wave, whole in zip(streamed, offline(params, mels, keys), strict=True):
    np.testing.assert_allclose(wave, whole, rtol=0, atol=1e-4)


def test_exact_stream_of_the_release_is_one_pass(released, mel):
  (module, params), key = released, jax.random.key(1)
  packets = stream(Exact(module.config), params, mel, [25] * 6 + [24], key)
  [whole] = in_one_pass(module)(params, [mel], key[None])
  np.testing.assert_allclose(np.concatenate(packets), whole, rtol=0, atol=1e-4)
  assert seam_ratios(np.concatenate(packets), [len(p) for p in packets]).max() <= 1


@pytest.mark.parametrize(
  "cuts", [[1], [1, 0], [0, 1], [5], [19, 1], [20, 0], [20, 1], [21, 0], [34, 1], [35, 36], [40, 0, 40, 40, 1]]
)
def test_exact_stream_of_few_frames_or_a_last_step_of_few(vocoder, offline, mel, cuts):
  module, params = vocoder
  key, part = jax.random.key(1), mel[40 : 40 + sum(cuts)]
  scheme = Exact(module.config)
  packets = stream(scheme, params, part, cuts, key)
  held = np.maximum(np.cumsum(cuts) - scheme.lookahead, 0)
  assert [len(p) for p in packets[:-1]] == (np.diff(held, prepend=0)[:-1] * HOP).tolist()
  np.testing.assert_allclose(np.concatenate(packets), offline(params, [part], key[None])[0], rtol=0, atol=1e-4)


def _far_sighted(params, tap):
  """A network that hears the far end of its receptive field: convolutions pass on their first or last tap alone."""

  def change(path, leaf):
    name = "/".join(path)
    if not name.endswith("kernel"):
      return leaf
    edge = np.zeros(leaf.shape, np.float32)
    if name.endswith(("f0_predictor/conv_0/kernel", "generator/conv_in/kernel")):
      edge[tap] = np.asarray(leaf).sum(0)
    elif "block" in name or "f0_predictor/conv" in name:
      edge[tap] = (0.5 if "f0" in name else 1.0) * np.eye(*leaf.shape[1:])
    else:
      return leaf * 0.02 if "conv_out" in name else leaf
    return jnp.asarray(edge)

  return flax.traverse_util.path_aware_map(change, params)


class _ShortContext(Exact):
  context = property(lambda self: receptive_field(self.config).context - 1)


@pytest.mark.parametrize("tap", [-1, 0])
def test_neither_look_ahead_nor_context_has_a_frame_to_spare(vocoder, offline, mel, tap):
  module, params = vocoder
  params, key, cuts, part = _far_sighted(params, tap), jax.random.key(1), [25, 25, 25, 15], mel[:90]
  [whole] = offline(params, [part], key[None])
  error = lambda scheme: np.abs(np.concatenate(stream(scheme, params, part, cuts, key)) - whole).max()
  assert error(Exact(module.config)) < 1e-4
  assert error(Exact(module.config, early=1) if tap else _ShortContext(module.config)) > 1e-3


def test_early_audio_comes_early_and_is_close(vocoder, offline, mel):
  module, params = vocoder
  scheme, key, cuts = Exact(module.config, early=1), jax.random.key(1), [40, 40, 40, 40, 14]
  packets = stream(scheme, params, mel, cuts, key)
  assert len(packets[0]) == 21 * HOP
  np.testing.assert_allclose(np.concatenate(packets), offline(params, [mel], key[None])[0], rtol=0, atol=1e-4)
  with pytest.raises(ConfigError, match="0 to 20 frames, found 21"):
    Exact(module.config, early=21)


# Both schemes: rows and slots.


@pytest.fixture(params=["exact", "cross-fade"])
def scheme(request, vocoder):
  return {"exact": Exact, "cross-fade": CrossFade}[request.param](vocoder[0].config)


def _busy(scheme, params, mel):
  """A state whose first rows are in the middle of an utterance."""
  keys = jax.random.split(jax.random.key(2), SLOTS)
  new, lengths = np.stack([mel[10 * s : 10 * s + FRAMES] for s in range(BATCH)]), jnp.array([FRAMES, 11, 30])
  args = (jnp.arange(BATCH), new, lengths, jnp.zeros(BATCH, bool), keys[:BATCH])
  return compiled(scheme)(params, scheme.empty(SLOTS), *args)[0], keys


def test_rows_with_nothing_change_nothing(scheme, vocoder, mel):
  params = vocoder[1]
  state, keys = _busy(scheme, params, mel)
  new = np.full((3, FRAMES, 80), np.nan, np.float32)
  new[1, :9] = mel[:9]
  rows, lengths = jnp.array([2, 0, SLOTS]), jnp.array([0, 9, 0])  # slot 2 has nothing, the third row is padding
  after, wave, samples = compiled(scheme)(params, state, rows, new, lengths, jnp.zeros(BATCH, bool), keys[:BATCH])
  assert np.asarray(samples).tolist()[::2] == [0, 0]
  assert not np.any(wave[0])
  for name, leaf in vars(after).items():
    np.testing.assert_array_equal(leaf[1:], getattr(state, name)[1:], err_msg=name)
    assert np.all(np.isfinite(leaf))


def test_all_slots_in_order_are_the_same_rows_gathered(scheme, vocoder, mel):
  params = vocoder[1]
  state, keys = _busy(scheme, params, mel)
  new, lengths, last = np.stack([mel[60:100]] * SLOTS), jnp.array([40, 7, 0, 0]), jnp.array([False, True, False, False])
  plain = compiled(scheme)(params, state, None, new, lengths, last, keys)
  rows = jnp.array([1, 2, 0])
  turned = compiled(scheme)(params, state, rows, new[:BATCH], lengths[rows], last[rows], keys[rows])
  np.testing.assert_allclose(turned[1], plain[1][rows], rtol=0, atol=1e-5)
  np.testing.assert_array_equal(turned[2], plain[2][rows])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-3), turned[0], plain[0])  # f0 in Hz


def test_opened_rows_are_empty_and_others_kept(scheme, vocoder, mel):
  state, _ = _busy(scheme, vocoder[1], mel)
  opened, empty = scheme.open_slots(state, jnp.array([1, SLOTS])), scheme.empty(SLOTS)
  for name, leaf in vars(opened).items():
    np.testing.assert_array_equal(leaf[1], getattr(empty, name)[1])
    np.testing.assert_array_equal(leaf[::2], getattr(state, name)[::2])


# The upstream scheme, a reference.


@pytest.fixture(scope="module")
def packets(release, golden):
  """Mel of each packet of the reference's stream, solved as the upstream code solves it.

  Blocks of 25 tokens from the prompt's start; the first packet reaches the first border after 25
  new tokens, packets then double; each solves the whole prefix again, the last one unmasked.
  """
  g, tensors = golden("token2wav"), read_pt(release / "flow.pt")
  config = table_flow.config_of(read_yaml(release / "cosyvoice2.yaml"), tensors)
  flow = Flow(config)
  abstract = jax.eval_shape(flow.init, jax.random.key(0), *init_arguments(config))["params"]
  params = engine.convert("flow", tensors, table_flow.table(config), abstract).params
  tokens = np.concatenate([g["prompt_token"], g["token"]], axis=1).astype(np.int32)
  prompt, total, lookahead = g["prompt_token"].shape[1], tokens.shape[1], config.encoder.lookahead

  @jax.jit
  def solve(length, chunk, final):
    args = (g["prompt_mel"], jnp.array([2 * prompt]), g["speaker"], noise_table(2 * total))
    return generate(flow, params, tokens, length[None], *args, chunk=chunk, final=final)[0]

  run = lambda length, ahead: solve(jnp.int32(length), 25 if ahead else 0, not ahead)
  return upstream.solve_again(run, upstream.SCHEDULE.chunks(prompt, 25), prompt, total, lookahead, rest=True)


def test_upstream_stream_is_the_reference(released, golden, packets):
  g, (module, params) = golden("token2wav"), released
  cuts = [len(m) for m in packets]
  got = stream(CrossFade(module.config), params, np.concatenate(packets), cuts, frames=max(cuts))
  assert [len(p) for p in got] == g["chunk_samples"].tolist() == [22080, 48000, 22080]
  np.testing.assert_allclose(np.concatenate(got), g["wav_streaming"][0], rtol=0, atol=1e-3)


def test_upstream_rows_do_not_depend_on_mates_or_slots(vocoder, mel):
  module, params = vocoder
  scheme, cuts = CrossFade(module.config), [23, 40, 9]
  keys = jax.random.split(jax.random.key(3), 2)
  one, two = stream(scheme, params, mel[:72], cuts, keys[0]), stream(scheme, params, mel[100:172], cuts, keys[1])
  state, at = scheme.empty(SLOTS), 0
  for i, count in enumerate(cuts):
    new = np.full((BATCH, FRAMES, 80), np.nan, np.float32)
    new[2, :count], new[0, :count] = mel[at : at + count], mel[100 + at : 100 + at + count]
    last = jnp.array([True, False, True]) & (i == 2)
    args = (jnp.array([0, SLOTS, 3]), new, jnp.array([count, 0, count]), last, keys[jnp.array([1, 0, 0])])
    state, wave, samples = compiled(scheme)(params, state, *args)
    np.testing.assert_allclose(wave[2, : samples[2]], one[i], rtol=0, atol=1e-4)
    np.testing.assert_allclose(wave[0, : samples[0]], two[i], rtol=0, atol=1e-4)
    at += count


@pytest.mark.parametrize("cuts", [[1], [1, 0], [3, 4, 5, 0], [8, 0], [0, 7, 1], [20, 1]])
def test_upstream_stream_of_few_frames_gives_every_sample(vocoder, offline, mel, cuts):
  module, params = vocoder
  key, part = jax.random.key(1), mel[40 : 40 + sum(cuts)]
  packets = stream(CrossFade(module.config), params, part, cuts, key)
  held = np.maximum(np.cumsum(cuts) - 8, 0)
  assert [len(p) for p in packets[:-1]] == (np.diff(held, prepend=0)[:-1] * HOP).tolist()
  wave = np.concatenate(packets)
  assert wave.shape == (len(part) * HOP,)
  assert np.all(np.isfinite(wave))
  if len(part) < 8:  # never a packet before the last step: nothing to fade
    np.testing.assert_allclose(wave, offline(params, [part], key[None])[0], rtol=0, atol=1e-4)


# Seams.


def _hum(params, config):
  """A vocoder whose audio is its harmonic source at 70 to 170 Hz, filtered: a voice, where random weights give noise.

  Residual blocks pass on their input and the mel adds nothing, so the last stage has the
  source's spectrum: two channels carry its lowest bin and the same negated, which undoes the
  leaky ReLU, and they turn the phase of bin 1, of constant magnitude; bin 0 balances its mean.
  """

  def change(path, leaf):
    name, v = "/".join(path), np.array(leaf)
    if name == "generator/source_down_2/kernel":
      v = np.zeros_like(v)
      v[0, 0, :2] = 1, -1
    elif name == "generator/conv_out/kernel":
      v = np.zeros_like(v)
      v[3, :2, config.n_fft // 2 + 2] = 0.1, -0.1
    elif name == "generator/conv_out/bias":
      v = np.where(np.arange(len(v)) < 2, 0, np.where(np.arange(len(v)) < config.n_fft // 2 + 1, -20, 0))
    elif name.startswith("generator") and ("block" in name or "up_" in name) and "alpha" not in name:
      v = np.zeros_like(v)
    elif name == "f0_predictor/out/kernel":
      v = v * 0.2
    elif name == "f0_predictor/out/bias":
      v = np.full_like(v, 150)
    return jnp.asarray(v, jnp.float32)

  return flax.traverse_util.path_aware_map(change, params)


def test_exact_packets_have_no_seams_and_packets_without_context_do(vocoder, offline, mel):
  module, params = vocoder
  key, cuts, params = jax.random.key(1), [25] * 6 + [24], _hum(params, module.config)
  exact = stream(Exact(module.config), params, mel, cuts, key)
  ratios = seam_ratios(np.concatenate(exact), [len(p) for p in exact])
  assert ratios[1:].min() > 0 and ratios.max() <= 1
  pieces = np.split(mel, np.cumsum(cuts)[:-1])
  naive = offline(params, pieces, jnp.stack([key] * len(pieces)))
  assert seam_ratios(np.concatenate(naive), [len(p) for p in naive]).min() > 2


def test_the_upstream_scheme_has_no_seams_in_the_release(released, mel):
  packets = stream(CrossFade(released[0].config), released[1], mel, [25] * 6 + [24], jax.random.key(1))
  assert seam_ratios(np.concatenate(packets), [len(p) for p in packets]).max() <= 1


def test_seam_ratio_is_its_definition():
  tone = np.sin(np.arange(2000) * 0.05)
  assert seam_ratios(tone, [700, 1300]).max() <= 1
  jump = np.r_[tone[:700], tone[700:] + 0.2]
  np.testing.assert_allclose(
    seam_ratios(jump, [700, 1300]), np.abs(np.diff(jump, 2)).max() / np.abs(np.diff(tone[220:1180], 2)).max(), rtol=1e-2
  )
  assert seam_ratios(jump, [640, 1360]).max() <= 1  # a click elsewhere is not a seam
  assert seam_ratios(np.zeros(100), [50, 50]).tolist() == [0]
  assert seam_ratios(np.r_[np.zeros(50), np.ones(50)], [50, 50]).tolist() == [np.inf]
  assert seam_ratios(np.ones(10), [0, 10]).tolist() == [0]
  with pytest.raises(ValueError, match="2 packets have 11 samples, the signal 10"):
    seam_ratios(np.ones(10), [5, 6])
